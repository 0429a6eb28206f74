"""What a worker that outlives its controller leaves for the next one to find: who it is, beside its directory.

The lock beside it is made by who starts the worker, and handed down: it is held for as long as the worker or its reaper
lives, so whoever gets it knows that nothing of the worker runs any more, nor of its attempts.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from iris.system.files import write_file
from iris.system.process_identity import identify_process, runs_program

_PROGRAM = "iris.cluster.worker"
_TOKEN = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Identity:
    """A worker's process.

    Attributes:
        pid: Its id,
        process: and which process of that id it is, see `identify_process`.
        incarnation: What it registers with.
        token: Begins the marks of what it runs.
        lock: Which file its lock is, see `stamp_of`: a copy of the directory has another one. Empty: an earlier version
            of Iris has not written it down.
    """

    pid: int
    process: str
    incarnation: str
    token: str
    lock: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return bool(self.process) and identify_process(self.pid) == self.process

    @property
    def is_worker(self) -> bool:
        """Whether it runs, and is the worker of this incarnation and of this user: others are never signalled."""
        return self.is_alive and runs_program(self.pid, _PROGRAM, "--incarnation", self.incarnation)

    def belongs_to(self, lock_path: Path) -> bool:
        """Whether this is the worker that was started with the lock at this path, not with that of a copy."""
        return self.lock in ("", stamp_of(lock_path))

    def write(self, path: Path) -> None:
        """Write the file. It need not survive a crash of the machine, because no worker process does."""
        write_file(path, json.dumps(asdict(self)), shared=True)


def read_identity(path: Path) -> Identity | None:
    """Who wrote the file; None: there is none, or it makes no sense."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        identity = Identity(**{field.name: record[field.name] for field in fields(Identity) if field.name in record})
        pid, texts = identity.pid, (identity.process, identity.incarnation, identity.lock)
        makes_sense = isinstance(pid, int) and pid > 1 and all(isinstance(text, str) for text in texts)
        return identity if makes_sense and _TOKEN.fullmatch(identity.token) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def stamp_of(path: Path) -> str:
    """Return which file this is: device and inode, which no copy has; empty where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}"


def identity_file(workers: Path, worker_id: str) -> Path:
    """Where a worker says who it is, below the directory of all workers."""
    return workers / f"{worker_id}.json"


def lock_file(workers: Path, worker_id: str) -> Path:
    """The lock that it holds."""
    return workers / f"{worker_id}.lock"
