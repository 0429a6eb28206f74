"""Locks on files (`flock`) that processes of one machine share. The kernel releases a lock when its process ends.

For Linux and macOS only.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def try_lock(path: Path) -> int | None:
    """Lock a file, which is created if it is missing.

    Returns:
        The file's descriptor: closing it releases the lock. None if another process has the lock, or has just replaced
        or removed the file.

    Raises:
        OSError: The file cannot be opened.
    """
    return _locked(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), path)


def try_lock_directory(path: Path) -> int | None:
    """Lock a directory; otherwise like `try_lock`.

    Raises:
        OSError: There is no such directory.
    """
    return _locked(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC), path)


def wait_for_lock(path: Path) -> int:
    """Lock a file, which is created if it is missing, and return its descriptor.

    Waits while another process has the lock.

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
    """Return whether an open file is still the one at its path, so that others who lock the path lock the same file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
