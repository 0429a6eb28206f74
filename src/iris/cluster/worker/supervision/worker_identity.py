"""Writes and reads the files by which a restarted controller recognises a worker that has outlived the previous
controller.

The process that starts a worker creates a lock file, and the worker inherits the open lock. The worker and its reaper
hold the lock as long as they live. Therefore, if another process acquires the lock, the worker and its attempts have
ended.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from iris.system.files import write_file
from iris.system.process_identity import identify_process, process_name, runs_program

_PROGRAM = "iris.cluster.worker"
# Every worker gives itself this name. A prepared worker keeps the command line of the server from which it was forked.
WORKER_NAME = "iris-worker"
_SERVER = "iris.server"
_TOKEN = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a worker's process.

    Attributes:
        pid: The id of the process.
        process: Distinguishes processes that had the same id; see `identify_process`.
        incarnation: The incarnation with which the worker registers.
        token: The worker's token. Each process of an attempt has a mark in its environment, and the mark begins with
            this token.
        lock: The stamp of the lock file; see `stamp_of`. In a copy of the directory, the lock file has another stamp.
            Empty for workers of old versions, which wrote no stamp.
        controller_file: The path of the file from which the worker reads the controller's address. Empty for a worker
            without such a file, and for workers of old versions.
    """

    pid: int
    process: str
    incarnation: str
    token: str
    lock: str = ""
    controller_file: str = ""

    @property
    def is_alive(self) -> bool:
        """Return whether the process is running."""
        return bool(self.process) and identify_process(self.pid) == self.process

    @property
    def is_worker(self) -> bool:
        """Return whether the process is running and is this incarnation of the worker, started by this user. Send a
        signal to the process only if this method returns True.
        """
        if not self.is_alive:
            return False
        return is_prepared_worker(self.pid) or runs_program(self.pid, _PROGRAM, "--incarnation", self.incarnation)

    def belongs_to(self, lock_path: Path) -> bool:
        """Return whether the worker was started with this lock file, and not with the lock file of a copy."""
        return self.lock in ("", stamp_of(lock_path))

    def write(self, path: Path) -> None:
        """Write the identity file. The file need not survive a crash of the machine, because no worker process survives
        a crash.
        """
        write_file(path, json.dumps(asdict(self)), shared=True)


def is_prepared_worker(pid: int) -> bool:
    """Return whether a process of this user is a worker that was forked from a server (prepared_worker.py)."""
    return process_name(pid) == WORKER_NAME and runs_program(pid, _SERVER)


def read_identity(path: Path) -> Identity | None:
    """Return the identity in a file; None if the file is missing or cannot be parsed."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        identity = Identity(**{field.name: record[field.name] for field in fields(Identity) if field.name in record})
        pid = identity.pid
        texts = (identity.process, identity.incarnation, identity.lock, identity.controller_file)
        makes_sense = isinstance(pid, int) and pid > 1 and all(isinstance(text, str) for text in texts)
        return identity if makes_sense and _TOKEN.fullmatch(identity.token) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def stamp_of(path: Path) -> str:
    """Return the device and inode of a file, which differ for a copy of the file; empty if the file is missing."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}"


def event_log_file(workers: Path, worker_id: str) -> Path:
    """Return the path of a worker's event log, below the directory of all workers. The process that starts a worker
    opens the file as the worker's stderr. The worker rotates the file.
    """
    return workers / f"{worker_id}.log"


def identity_file(workers: Path, worker_id: str) -> Path:
    """Return the path of a worker's identity file, below the directory of all workers."""
    return workers / f"{worker_id}.json"


def lock_file(workers: Path, worker_id: str) -> Path:
    """Return the path of a worker's lock file."""
    return workers / f"{worker_id}.lock"
