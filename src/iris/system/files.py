"""Writes files as a whole, so that a reader finds either the old content or the new content, and never a part. A file
with a secret is private to its owner from the first moment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from iris.errors import FailedPreconditionError, ResourceExhaustedError
from iris.system.private_dir import open_private


def write_file(path: Path, content: str | bytes, *, durable: bool = False, shared: bool = False) -> None:
    """Replace the content of a file that only this user can read. The new content is first written to a temporary file
    in the same directory. The temporary file then replaces the file.

    Args:
        path: The path of the file.
        content: The new content of the file. Text is encoded in UTF-8.
        durable: Whether the file must survive a crash of the machine. A durable write takes some milliseconds longer.
        shared: Whether other processes may write the same file at the same time. The temporary file then has a random
            name, and stays in the directory if this process is killed during the write.

    Raises:
        OSError: The file cannot be written. The old content is unchanged.
    """
    beside = _write_beside(path, content, durable=durable, shared=shared)
    try:
        beside.rename(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def create_file(path: Path, content: str | bytes, *, durable: bool = False) -> bool:
    """Create a file that only this user can read. Return whether the file was created, which is False if the file
    exists. If several processes create the file at the same time, only one of the processes gets True.

    Raises:
        OSError: The file cannot be written.
    """
    beside = _write_beside(path, content, durable=durable, shared=True)
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink(missing_ok=True)
    if durable:
        sync_directory(path.parent)
    return True


def sync_directory(path: Path) -> None:
    """Write the entries of a directory to the disk, so that new and renamed files survive a crash of the machine."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # The error is ignored, because some file systems cannot sync a directory.
            os.fsync(directory)
    finally:
        os.close(directory)


def read_secret(path: Path) -> str | None:
    """Return the content of a secret file, or None if there is no such file.

    Raises:
        FailedPreconditionError: Other users can read the file or own the file.
    """
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & 0o077 or status.st_uid != os.getuid():
                raise FailedPreconditionError(
                    f"{path} can be read by others, so its content is no longer secret: remove the file, or if you"
                    f" are certain that nobody has read it: chmod 600 {path}"
                )
            return file.read()
    except FileNotFoundError:
        return None


def write_secret(path: Path, text: str, *, replace: bool = True) -> bool:
    """Write a file that only this user can read, and return whether the file was written.

    Args:
        path: The path of the file.
        text: The content of the file.
        replace: Whether to replace an existing file. If False, an existing file is kept, and the result is False.

    Raises:
        ResourceExhaustedError: The file cannot be written.
    """
    try:
        if not replace:
            return create_file(path, text, durable=True)
        write_file(path, text, durable=True, shared=True)
        return True
    except OSError as error:
        raise ResourceExhaustedError(f"cannot write {path}: {error.strerror}") from error


def _write_beside(path: Path, content: str | bytes, *, durable: bool, shared: bool) -> Path:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}" if shared else f"{path.name}.new")
    # A process that was killed during a write may have left this temporary file behind. The file is removed, because
    # opening it with the mode `x` would fail.
    beside.unlink(missing_ok=True)
    try:
        with open(beside, "xb", opener=open_private) as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return beside
