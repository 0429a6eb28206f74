"""Stores the controller's state in one SQLite file.

The boring choice: the store has one connection in WAL mode with `synchronous=FULL`. When a write returns, its data
would survive a power failure, if the disk implements `fsync` correctly. The controller's loop gathers rows in
`Changes`, and one thread writes the rows (saver.py). Therefore one fsync saves many changes, and the loop never waits
for an fsync. Reconsider this choice when one disk cannot do enough fsyncs.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from google.protobuf.message import DecodeError

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import Stop, Task, TaskAttempt
from iris.cluster.controller.storage.schema import check_version, migrate
from iris.errors import DataLossError, FailedPreconditionError, ResourceExhaustedError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms
from iris.system.files import sync_directory


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A stored token.

    Attributes:
        token: The data that `iris token list` shows. The secret of the token is not stored.
        request_id: The id of the request that created the token; may be empty.
        revocation: The number of the token's revocation; 0 if the token is not revoked.
    """

    token: cluster_pb2.Controller.Token
    request_id: str
    revocation: int = 0


class Changes:
    """Rows to write in one transaction.

    Each row is made on the controller's loop, when a method of this class is called. Therefore the writing thread never
    reads an object while the loop changes it.
    """

    def __init__(self) -> None:
        self.statements: list[tuple[str, list[Sequence[object]]]] = []

    def add_job(self, stored: JobRecord, bundle: bytes) -> Self:
        """Add a new job and its workspace. The workspace is left out if `bundle` is empty or the workspace is already
        stored.
        """
        launch = stored.launch
        if bundle:
            self._add("INSERT OR IGNORE INTO bundles VALUES (?, ?)", (launch.bundle_hash, bundle))
        self._add(
            "INSERT INTO jobs (job_id, launch, record) VALUES (?, ?, ?)",
            (stored.job.job_id, launch.SerializeToString(), _dump_job(stored.job)),
        )
        self._save_tasks(stored.job.tasks, stored.facts)
        return self

    def save_job(self, stored: JobRecord, since_revision: int, results: Iterable[tuple[int, bytes]] = ()) -> Self:
        """Save a job's changes since the given revision, and new results as pairs of task index and outcome."""
        job = stored.job
        self._add("UPDATE jobs SET record=? WHERE job_id=?", (_dump_job(job), job.job_id))
        self._save_tasks([task for task in job.tasks if task.revision > since_revision], stored.facts)
        for index, value in results:
            self._add("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (job.job_id, index, value))
        return self

    def save_endpoints(
        self, added: Iterable[cluster_pb2.Controller.Endpoint] = (), removed: Iterable[str] = ()
    ) -> Self:
        """Save new endpoints, and remove endpoints by their ids."""
        for gone in removed:
            self._add("DELETE FROM endpoints WHERE endpoint_id=?", (gone,))
        for new in added:
            self._add("INSERT OR REPLACE INTO endpoints VALUES (?, ?)", (new.endpoint_id, new.SerializeToString()))
        return self

    def fence(self, worker_id: str, incarnation: str) -> Self:
        """Save that a worker's process is fenced."""
        self._add("INSERT OR REPLACE INTO fenced VALUES (?, ?, ?)", (worker_id, incarnation, now_ms()))
        return self

    def unfence(self, worker_id: str, incarnation: str) -> Self:
        """Remove a fence."""
        self._add("DELETE FROM fenced WHERE worker_id=? AND incarnation=?", (worker_id, incarnation))
        return self

    def set_lease(self, seconds: float) -> Self:
        """Save the length of the longest lease that a worker may have, in seconds."""
        self._add("INSERT OR REPLACE INTO lease VALUES (1, ?)", (seconds,))
        return self

    def save_token(self, stored: StoredToken) -> Self:
        """Save a token that was created or revoked."""
        self._add(
            "INSERT INTO tokens (token_id, request_id, revocation, message) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (token_id) DO UPDATE SET revocation=excluded.revocation, message=excluded.message",
            (stored.token.token_id, stored.request_id, stored.revocation, stored.token.SerializeToString()),
        )
        return self

    def remove_token(self, token_id: str) -> Self:
        """Remove a token."""
        self._add("DELETE FROM tokens WHERE token_id=?", (token_id,))
        return self

    def _save_tasks(self, tasks: Iterable[Task], facts: list[cluster_pb2.TaskStatus]) -> None:
        rows: list[Sequence[object]] = [
            (task.job_id, task.task_index, _dump_task(task), facts[task.task_index].SerializeToString())
            for task in tasks
        ]
        self.statements.append(("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?)", rows))

    def _add(self, statement: str, row: Sequence[object]) -> None:
        self.statements.append((statement, [row]))


class Store:
    """The controller's database.

    Args:
        path: The file, which is created if it is missing; None keeps the database in memory.

    Raises:
        FailedPreconditionError: A newer version of Iris wrote the file, or a running controller uses it.
        DataLossError: The file is not a database, or is damaged.
        ResourceExhaustedError: The file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._name = "memory" if path is None else str(path)
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The lock timeout is 0, because only another controller could have locked the database. The thread of the
        # controller's loop uses the connection first, and the saver's thread uses the connection later. The two threads
        # never use the connection at the same time. Therefore SQLite's check for a single thread is off.
        try:
            if path is not None:
                # Only the user of the controller may read the file, because it contains the environments of jobs.
                # SQLite gives its other files the same permissions.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                path.chmod(0o600)
            self._db = sqlite3.connect(
                ":memory:" if path is None else path, timeout=0, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.OperationalError) as error:
            raise ResourceExhaustedError(f"cannot write {self._name}: {error}") from error
        try:
            self._open(path)
        except BaseException:
            self._db.close()
            raise

    def _open(self, path: Path | None) -> None:
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            check_version(self._db, self._name)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            migrate(self._db, path)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise FailedPreconditionError(f"another controller is running on {self._name}") from error
            raise ResourceExhaustedError(f"cannot write {self._name}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise DataLossError(f"{self._name} cannot be read: {error}") from error
        if path is not None:
            # SQLite syncs only the contents of the file. Therefore the directory entries are synced here.
            sync_directory(path.parent)
            sync_directory(path.parent.parent)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def load(self) -> Iterator[JobRecord]:
        """Yield all jobs, in the order of their submission."""
        with self._reading():
            for row in self._db.execute("SELECT job_id, launch, record FROM jobs ORDER BY number"):
                yield self._load_job(*row)

    def load_jobs(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
        """Return the jobs with the given ids, by id. Jobs that are not stored are left out."""
        with self._reading():
            found: dict[str, JobRecord] = {}
            for job_id in job_ids:
                rows = self._db.execute("SELECT job_id, launch, record FROM jobs WHERE job_id=?", (job_id,))
                found.update((job_id, self._load_job(*row)) for row in rows.fetchall())
            return found

    def _load_job(self, job_id: str, launch: bytes, record: str) -> JobRecord:
        rows = self._db.execute("SELECT record, facts FROM tasks WHERE job_id=? ORDER BY task_index", (job_id,))
        tasks, facts = [], []
        for task, fact in rows:
            tasks.append(_load_task(json.loads(task)))
            facts.append(cluster_pb2.TaskStatus.FromString(fact))
        job = Job(tasks=tasks, **_known(json.loads(record), _JOB_FIELDS))
        return JobRecord(job, cluster_pb2.Controller.LaunchJobRequest.FromString(launch), facts)

    def write(self, changes: Changes) -> None:
        """Write all rows in one transaction. The rows are on the disk when this method returns.

        Raises:
            ResourceExhaustedError: The file cannot be written now, and nothing was written.
            DataLossError: The file is damaged.
        """
        with self._transaction():
            for statement, rows in changes.statements:
                self._db.executemany(statement, rows)

    def result(self, job_id: str, task_index: int) -> bytes:
        """Return the stored outcome of a task (see jobs/outcomes.py); empty bytes if the task has no outcome."""
        with self._reading():
            row = self._db.execute("SELECT value FROM results WHERE job_id=? AND task_index=?", (job_id, task_index))
            return next((bytes(value) for (value,) in row), b"")

    def bundle(self, bundle_hash: str) -> bytes | None:
        """Return a workspace; None if it is not stored."""
        with self._reading():
            row = self._db.execute("SELECT blob FROM bundles WHERE hash=?", (bundle_hash,))
            return next((bytes(blob) for (blob,) in row), None)

    def has_bundle(self, bundle_hash: str) -> bool:
        """Return whether a workspace is stored."""
        with self._reading():
            return bool(self._db.execute("SELECT 1 FROM bundles WHERE hash=?", (bundle_hash,)).fetchall())

    def load_endpoints(self) -> list[cluster_pb2.Controller.Endpoint]:
        """Return all endpoints, in the order of their registration."""
        with self._reading():
            rows = self._db.execute("SELECT message FROM endpoints ORDER BY rowid")
            return [cluster_pb2.Controller.Endpoint.FromString(message) for (message,) in rows]

    def load_lease(self) -> float:
        """Return the length of the longest lease that a worker may have, in seconds; 0 if no length is stored."""
        with self._reading():
            return float(next((seconds for (seconds,) in self._db.execute("SELECT seconds FROM lease")), 0.0))

    def load_fenced(self) -> dict[tuple[str, str], int]:
        """Return the fenced processes, oldest fence first. The result maps worker id and incarnation to the time of the
        fence, in milliseconds since the epoch.
        """
        with self._reading():
            rows = self._db.execute("SELECT worker_id, incarnation, since_ms FROM fenced ORDER BY since_ms")
            return {(worker_id, incarnation): since_ms for worker_id, incarnation, since_ms in rows}

    def load_tokens(self) -> list[StoredToken]:
        """Return all tokens, in the order of their creation."""
        with self._reading():
            rows = self._db.execute("SELECT message, request_id, revocation FROM tokens ORDER BY rowid")
            return [
                StoredToken(cluster_pb2.Controller.Token.FromString(message), request_id, revocation)
                for message, request_id, revocation in rows
            ]

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
            failpoint("store.commit.before")
            self._db.execute("COMMIT")
            failpoint("store.commit.after")
        except sqlite3.IntegrityError:
            # All errors with a cause outside of Iris were handled above, so this error is a bug in Iris. SQLite has
            # undone the transaction, so no data is damaged.
            raise
        except sqlite3.DatabaseError as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            kind = ResourceExhaustedError if isinstance(error, sqlite3.OperationalError) else DataLossError
            raise kind(f"the controller cannot write {self._name}: {error}") from error


# These fields are not stored with the job. The tasks have a separate table. The gangs and the tally are derived from
# the tasks.
_JOB_FIELDS = tuple(field.name for field in fields(Job) if field.name not in ("tasks", "gangs", "tally", "transitions"))


def _dump_job(job: Job) -> str:
    return json.dumps({name: getattr(job, name) for name in _JOB_FIELDS})


def _dump_task(task: Task) -> str:
    record = asdict(task)
    record["stop"] = task.stop.name if task.stop else None
    return json.dumps(record)


def _load_task(record: dict[str, object]) -> Task:
    attempts = record.pop("attempts")
    stop = record.pop("stop", None)
    assert isinstance(attempts, list)
    return Task(
        **_known(record, _TASK_FIELDS),
        attempts=[TaskAttempt(**_known(attempt, _ATTEMPT_FIELDS)) for attempt in attempts],
        stop=Stop[stop] if isinstance(stop, str) else None,
    )


_TASK_FIELDS = tuple(field.name for field in fields(Task))
_ATTEMPT_FIELDS = tuple(field.name for field in fields(TaskAttempt))


def _known(record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a stored record that this version of Iris knows, and leave out all others.

    A field that is missing in an old record gets its default. An unknown field, written by a newer version of Iris, is
    ignored. If a newer version of Iris adds a field that older versions must not ignore, it also raises the schema
    version of the database.
    """
    return {name: value for name, value in record.items() if name in names}
