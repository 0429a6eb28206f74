"""Locks the state directory of a controller against other controllers, and checks which version of Iris wrote it.

The controller and this package use these small files in the state directory (docs/reference/files-and-ports.md lists
all files):
lock       The running controller locks this file, which contains its process id.
version    The version of the state, which is the version of the database (schema.py).
engine     The name of the engine on which the jobs run.
cluster-id, place, copied   These files show whether the directory is an original or a copy (state_copies.py).
left       The reason why some attempts could not be stopped when the controller ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iris.cluster.controller.storage.schema import SCHEMA_VERSION
from iris.errors import DataLossError, FailedPreconditionError, ResourceExhaustedError
from iris.system.files import sync_directory, write_file
from iris.system.locks import try_lock
from iris.system.private_dir import check_entries, check_private, make_private

ENGINE_FILE = "engine"
LEFT_FILE = "left"
# Iris may kill processes that are named in files below the state directory. Therefore other users must not be able to
# write into these directories.
_TRUSTED = ("", "workers", "slurm", "ray")


@contextmanager
def lock_state_dir(directory: Path) -> Iterator[None]:
    """Lock a state directory against other controllers while the context is open. If the directory does not exist,
    create it. After locking, the caller must call `state_copies.detect_copy`, because the directory may be a copy.

    Raises:
        FailedPreconditionError: Another controller uses the directory, a newer Iris wrote it, or other users can write
            in it. Nothing in the directory was changed.
        DataLossError: The file `version` has no number in it.
        ResourceExhaustedError: The directory cannot be written.
    """
    try:
        if not directory.is_dir():
            make_private(directory)
            sync_directory(directory.parent)
        check_private(directory)
        for name in _TRUSTED:
            if (directory / name).is_dir():
                check_entries(directory / name)
        version = _check_version(directory)
        lock = try_lock(directory / "lock")
        if lock is None:
            holder = (directory / "lock").read_text().strip() or "unknown"
            raise FailedPreconditionError(
                f"{directory} is in use by the controller of process {holder}: end that controller first (with"
                " 'iris down', if 'iris up' has started it), or use another directory (--state-dir)"
            )
    except OSError as error:
        raise ResourceExhaustedError(f"cannot write {directory}: {error}") from error
    with os.fdopen(lock, "r+") as file:
        try:
            file.truncate()
            file.write(f"{os.getpid()}\n")
            file.flush()
            if version < SCHEMA_VERSION:
                # The new version is written before the migration. If the migration is interrupted, an older Iris must
                # refuse the directory.
                write_file(directory / "version", f"{SCHEMA_VERSION}\n", durable=True)
        except OSError as error:
            raise ResourceExhaustedError(f"cannot write {directory}: {error}") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)


def _check_version(directory: Path) -> int:
    path = directory / "version"
    try:
        text = path.read_text()
    except FileNotFoundError:
        return 0
    try:
        version = int(text)
    except ValueError as error:
        raise DataLossError(f"{path} cannot be read: expected a version number, found {text[:20]!r}") from error
    if version > SCHEMA_VERSION:
        raise FailedPreconditionError(
            f"{directory} was written by a newer version of Iris: update Iris on this machine, or use another"
            f" directory (this one has version {version}, this Iris knows up to {SCHEMA_VERSION})"
        )
    return version
