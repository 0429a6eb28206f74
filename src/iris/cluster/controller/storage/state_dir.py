"""The directory in which a controller keeps everything: who may use it, and which version wrote it.

lock       held by the controller that runs, for as long as it does; in it, its process id
version    the version of what is here: that of the database (schema.py)
engine     the name of the engine that its jobs run on
cluster-id, place, copied   which cluster's state it is: a copy's, or the original's (incarnation.py)
left       what was still running when the controller ended, and could not be told to end: why, in words
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
# What names processes, which may be ended by these names.
_TRUSTED = ("", "workers", "slurm", "ray")


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Make the directory where it is missing, and keep others out of it; they may read.

    Whether it is a copy of another one is for the caller to ask next: `incarnation.settle`.

    Raises:
        FailedPreconditionError: Another controller has it, a newer Iris wrote it, or other users can write in it.
            Nothing in it was changed.
        DataLossError: Its `version` makes no sense.
        ResourceExhaustedError: It cannot be written.
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
                f"{directory} is in use by the controller of process {holder}: end that one first ('iris down', if"
                " 'iris up' has started it), or take another directory (--state-dir)"
            )
    except OSError as error:
        raise ResourceExhaustedError(f"cannot write {directory}: {error}") from error
    with os.fdopen(lock, "r+") as file:
        try:
            file.truncate()
            file.write(f"{os.getpid()}\n")
            file.flush()
            if version < SCHEMA_VERSION:
                # Before the migration, which may be interrupted.
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
        raise DataLossError(f"{path} cannot be read: expected a number, found {text[:20]!r}") from error
    if version > SCHEMA_VERSION:
        raise FailedPreconditionError(
            f"{directory} was written by a newer version of Iris: update this one, or take another directory"
            f" (its version is {version}, this Iris knows up to {SCHEMA_VERSION})"
        )
    return version
