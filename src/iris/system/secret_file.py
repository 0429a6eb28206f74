"""Files with a secret in them: readable by their owner only, from the first moment on."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from iris.errors import FailedPreconditionError, ResourceExhaustedError


def read_secret(path: Path) -> str | None:
    """What a file of ours holds that nobody else may read; None when there is none.

    Raises:
        FailedPreconditionError: Others can read it, or it is somebody else's.
    """
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & 0o077 or status.st_uid != os.getuid():
                raise FailedPreconditionError(
                    f"{path} can be read by others: what is in it is no secret any more; remove it, or if you are"
                    f" certain that nobody has read it: chmod 600 {path}"
                )
            return file.read()
    except FileNotFoundError:
        return None


def write_secret(path: Path, text: str, *, replace: bool = True) -> bool:
    """Writes a file that only we can read, beside, and puts it in its place whole.

    Args:
        path: Its place.
        text: What is in it.
        replace: Also where there is one.

    Returns:
        Whether it is there now; False where there was one that is not to be replaced.

    Raises:
        ResourceExhaustedError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            beside.rename(path)
            return True
        os.link(beside, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        raise ResourceExhaustedError(f"cannot write {path}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
