"""Locks on files (`flock`) that processes of one machine share. The kernel releases a lock when its process ends. The
locks work on Linux and macOS only.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def try_lock(path: Path) -> int | None:
    """Lock a file, which is created if it is missing.

    Returns:
        The descriptor of the locked file. Closing the descriptor releases the lock. The result is None if another
        process has the lock, or has just replaced or removed the file.

    Raises:
        OSError: The file cannot be opened.
    """
    return _locked(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), path)


def try_lock_directory(path: Path) -> int | None:
    """Lock a directory without waiting. Return the descriptor of the locked directory, or None if another process has
    the lock.

    Raises:
        OSError: There is no such directory.
    """
    return _locked(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC), path)


def wait_for_lock(path: Path) -> int:
    """Lock a file, which is created if it is missing, and return its descriptor. The function waits while another
    process has the lock.

    Raises:
        OSError: The file cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _locked(descriptor: int, path: Path) -> int | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, path):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether a path still leads to an open file, so that other processes that lock the path lock the same
    file.
    """
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
