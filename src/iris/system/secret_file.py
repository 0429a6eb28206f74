"""Files that hold a secret, which only their owner can ever read."""

from __future__ import annotations

import os
from pathlib import Path

from iris.errors import FailedPreconditionError, ResourceExhaustedError
from iris.system.files import create_file, write_file


def read_secret(path: Path) -> str | None:
    """Return the content of a secret file; None if there is no such file.

    Raises:
        FailedPreconditionError: Other users can read the file, or own it.
    """
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & 0o077 or status.st_uid != os.getuid():
                raise FailedPreconditionError(
                    f"{path} can be read by others, so its content is no longer secret: remove it, or if you are"
                    f" certain that nobody has read it: chmod 600 {path}"
                )
            return file.read()
    except FileNotFoundError:
        return None


def write_secret(path: Path, text: str, *, replace: bool = True) -> bool:
    """Write a file that only this user can read, and return whether it was written.

    Args:
        path: The file.
        text: The content of the file.
        replace: Whether to replace an existing file. Otherwise an existing file is kept, and the answer is False.

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
