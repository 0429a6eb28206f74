"""What a worker that outlives its controller leaves for the next one to find: who it is, beside its directory.

The lock beside it is made by who starts the worker, and handed down: it is held for as long as the worker or its reaper
lives, so whoever gets it knows that nothing of the worker runs any more, nor of its attempts.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from iris.rpc.identity import identify_process


@dataclass(frozen=True, slots=True)
class Identity:
    """A worker's process.

    Attributes:
        pid: Its id,
        process: and which process of that id it is, see `identify_process`.
        incarnation: What it registers with.
        token: Begins the marks of what it runs.
    """

    pid: int
    process: str
    incarnation: str
    token: str

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return bool(self.process) and identify_process(self.pid) == self.process

    def write(self, path: Path) -> None:
        """Writes it beside, then renames. Not for longer than the machine runs, so nothing is forced to the disk."""
        beside = path.with_name(f"{path.name}.{self.pid}")
        beside.write_text(json.dumps(asdict(self)))
        beside.rename(path)


def read_identity(path: Path) -> Identity | None:
    """Who wrote the file; None: there is none, or it makes no sense."""
    try:
        return Identity(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def identity_file(workers: Path, worker_id: str) -> Path:
    """Where a worker says who it is, below the directory of all workers."""
    return workers / f"{worker_id}.json"


def lock_file(workers: Path, worker_id: str) -> Path:
    """The lock that it holds."""
    return workers / f"{worker_id}.lock"


def try_lock(path: Path) -> int | None:
    """The lock, as a file that is open, made when it is missing; None: somebody holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock
