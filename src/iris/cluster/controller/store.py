"""What the controller remembers: SQLite, in one file, written before anything is acknowledged.

The boring choice: one connection, used by the loop that owns the state, in WAL mode. A save is a few rows and takes
well under a millisecond, so it may block that loop; think again when a job has far more than 10,000 tasks.
`synchronous=NORMAL` survives every crash of the process; a crash of the machine may lose the last moments, never
the file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from iris.cluster.controller.job import Job
from iris.cluster.controller.task import Stop, Task, TaskAttempt
from iris.errors import DataLossError, FailedPreconditionError, ResourceExhaustedError
from iris.rpc import cluster_pb2

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of submission
    job_id TEXT NOT NULL UNIQUE,
    launch BLOB NOT NULL,                      -- LaunchJobRequest, without the workspace
    record TEXT NOT NULL                       -- Job, without tasks and gangs, as JSON
);
CREATE TABLE IF NOT EXISTS tasks (
    job_id TEXT NOT NULL,
    task_index INTEGER NOT NULL,
    record TEXT NOT NULL,                      -- Task with its attempts, as JSON
    facts BLOB NOT NULL,                       -- TaskStatus: ports, resource usage, build metrics
    PRIMARY KEY (job_id, task_index)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    job_id TEXT NOT NULL,
    task_index INTEGER NOT NULL,
    value BLOB NOT NULL,                       -- what a callable returned, pickled
    PRIMARY KEY (job_id, task_index)
);
CREATE TABLE IF NOT EXISTS bundles (
    hash TEXT PRIMARY KEY,
    blob BLOB NOT NULL                         -- a workspace, as a gzipped tar
);
CREATE TABLE IF NOT EXISTS endpoints (
    endpoint_id TEXT PRIMARY KEY,
    message BLOB NOT NULL                      -- Endpoint
);
CREATE TABLE IF NOT EXISTS tokens (
    token_id TEXT PRIMARY KEY,
    request_id TEXT NOT NULL,                  -- of the request that made it; may be empty
    revocation INTEGER NOT NULL,               -- revocations are counted: which this was; 0 where there was none
    message BLOB NOT NULL                      -- Token; nowhere is a secret
);
"""


@dataclass(slots=True)
class StoredJob:
    """A job as it was saved."""

    job: Job
    launch: cluster_pb2.Controller.LaunchJobRequest
    facts: list[cluster_pb2.TaskStatus]


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token that was made, as it was saved."""

    token: cluster_pb2.Controller.Token
    request_id: str
    revocation: int = 0


class Store:
    """The controller's memory.

    Args:
        path: The file, made when it is missing; None keeps everything in memory only.

    Raises:
        FailedPreconditionError: The file belongs to a newer version, or to a controller that runs.
        DataLossError: The file is no database, or is damaged.
    """

    def __init__(self, path: Path | None) -> None:
        self._name = "memory" if path is None else str(path)
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # No waiting for locks: the only other who could hold one is another controller on the same file.
        # Whichever thread runs the controller's loop is the only one that uses it.
        try:
            self._db = sqlite3.connect(
                ":memory:" if path is None else path, timeout=0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.OperationalError as error:
            raise ResourceExhaustedError(f"cannot write {self._name}: {error}") from error
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise FailedPreconditionError(f"{self._name} was written by a newer version of Iris: update this one")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise FailedPreconditionError(f"another controller is running on {self._name}") from error
            raise ResourceExhaustedError(f"cannot write {self._name}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise DataLossError(f"{self._name} cannot be read: {error}") from error

    def close(self) -> None:
        """Writes what is open, and lets go of the file."""
        self._db.close()

    def load(self) -> Iterator[StoredJob]:
        """All jobs, in the order of their submission."""
        with self._reading():
            for job_id, launch, record in self._db.execute("SELECT job_id, launch, record FROM jobs ORDER BY number"):
                rows = self._db.execute("SELECT record, facts FROM tasks WHERE job_id=? ORDER BY task_index", (job_id,))
                tasks, facts = [], []
                for task, fact in rows:
                    tasks.append(_load_task(json.loads(task)))
                    facts.append(cluster_pb2.TaskStatus.FromString(fact))
                job = Job(tasks=tasks, **json.loads(record))
                job.restore_gangs()
                yield StoredJob(job, cluster_pb2.Controller.LaunchJobRequest.FromString(launch), facts)

    def add_job(self, stored: StoredJob, bundle: bytes) -> None:
        """A new job, with its workspace unless that is known or there is none."""
        launch = stored.launch
        with self._transaction():
            if bundle:
                self._db.execute("INSERT OR IGNORE INTO bundles VALUES (?, ?)", (launch.bundle_hash, bundle))
            self._db.execute(
                "INSERT INTO jobs (job_id, launch, record) VALUES (?, ?, ?)",
                (stored.job.job_id, launch.SerializeToString(), _dump_job(stored.job)),
            )
            self._save_tasks(stored.job.tasks, stored.facts)

    def save_job(self, stored: StoredJob, since_revision: int, results: Iterable[tuple[int, bytes]] = ()) -> None:
        """What has changed in a job since a revision, and return values (task index, pickled) that came with it."""
        job = stored.job
        changed = [task for task in job.tasks if task.revision > since_revision]
        with self._transaction():
            self._db.execute("UPDATE jobs SET record=? WHERE job_id=?", (_dump_job(job), job.job_id))
            self._save_tasks(changed, stored.facts)
            self._db.executemany(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?)",
                [(job.job_id, index, value) for index, value in results],
            )

    def result(self, job_id: str, task_index: int) -> bytes:
        """What a task returned, pickled; empty when there is nothing."""
        with self._reading():
            row = self._db.execute("SELECT value FROM results WHERE job_id=? AND task_index=?", (job_id, task_index))
            return next((bytes(value) for (value,) in row), b"")

    def bundle(self, bundle_hash: str) -> bytes | None:
        """A workspace; None when it is not known."""
        with self._reading():
            row = self._db.execute("SELECT blob FROM bundles WHERE hash=?", (bundle_hash,))
            return next((bytes(blob) for (blob,) in row), None)

    def has_bundle(self, bundle_hash: str) -> bool:
        """Whether a workspace is known."""
        with self._reading():
            return bool(self._db.execute("SELECT 1 FROM bundles WHERE hash=?", (bundle_hash,)).fetchall())

    def load_endpoints(self) -> list[cluster_pb2.Controller.Endpoint]:
        """All endpoints, in the order of their registration."""
        with self._reading():
            rows = self._db.execute("SELECT message FROM endpoints ORDER BY rowid")
            return [cluster_pb2.Controller.Endpoint.FromString(message) for (message,) in rows]

    def save_endpoints(
        self, added: Iterable[cluster_pb2.Controller.Endpoint] = (), removed: Iterable[str] = ()
    ) -> None:
        """Endpoints that came, and ids of those that went."""
        with self._transaction():
            self._db.executemany("DELETE FROM endpoints WHERE endpoint_id=?", [(gone,) for gone in removed])
            self._db.executemany(
                "INSERT INTO endpoints VALUES (?, ?)", [(new.endpoint_id, new.SerializeToString()) for new in added]
            )

    def load_tokens(self) -> list[StoredToken]:
        """All tokens, in the order in which they were made."""
        with self._reading():
            rows = self._db.execute("SELECT message, request_id, revocation FROM tokens ORDER BY rowid")
            return [
                StoredToken(cluster_pb2.Controller.Token.FromString(message), request_id, revocation)
                for message, request_id, revocation in rows
            ]

    def save_token(self, stored: StoredToken) -> None:
        """A token that was made, or revoked."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO tokens (token_id, request_id, revocation, message) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (token_id) DO UPDATE SET revocation=excluded.revocation, message=excluded.message",
                (stored.token.token_id, stored.request_id, stored.revocation, stored.token.SerializeToString()),
            )

    def remove_tokens(self, token_ids: Iterable[str]) -> None:
        """Tokens that nobody needs to know any more."""
        with self._transaction():
            self._db.executemany("DELETE FROM tokens WHERE token_id=?", [(token_id,) for token_id in token_ids])

    def _save_tasks(self, tasks: Iterable[Task], facts: list[cluster_pb2.TaskStatus]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?)",
            [
                (task.job_id, task.task_index, _dump_task(task), facts[task.task_index].SerializeToString())
                for task in tasks
            ],
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, DecodeError, ValueError, TypeError, KeyError) as error:
            raise DataLossError(f"{self._name} cannot be read: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.IntegrityError:
            raise  # a bug of ours, and rolled back: the file is as it was
        except sqlite3.DatabaseError as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            kind = ResourceExhaustedError if isinstance(error, sqlite3.OperationalError) else DataLossError
            raise kind(f"the controller cannot write {self._name}: {error}") from error


_JOB_FIELDS = (
    "job_id",
    "submitted_at_ms",
    "coscheduled",
    "max_task_failures",
    "parent_job_id",
    "state",
    "error",
    "ending",
    "first_failed",
    "started_at_ms",
    "finished_at_ms",
    "rounds",
    "revision",
    "owner",
)


def _dump_job(job: Job) -> str:
    return json.dumps({name: getattr(job, name) for name in _JOB_FIELDS})


def _dump_task(task: Task) -> str:
    record = asdict(task)
    record["stop"] = task.stop.name if task.stop else None
    return json.dumps(record)


def _load_task(record: dict[str, object]) -> Task:
    attempts = record.pop("attempts")
    stop = record.pop("stop")
    assert isinstance(attempts, list)
    return Task(
        **record,  # type: ignore[arg-type]
        attempts=[TaskAttempt(**attempt) for attempt in attempts],
        stop=Stop[stop] if isinstance(stop, str) else None,
    )
