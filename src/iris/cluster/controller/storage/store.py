"""Stores the controller's state in one SQLite file.

One connection writes, in WAL mode with `synchronous=FULL`. Data survives a power failure once its write has returned,
if the disk implements `fsync` correctly. The controller's loop gathers rows in `Changes`, and one thread writes the
rows (saver.py). Therefore one fsync saves many changes, and the loop never waits for an fsync. Other threads read while
the writing thread writes (connections.py, ended_jobs.py). Reconsider this design when one disk cannot do enough fsyncs.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from google.protobuf.message import DecodeError

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import Task
from iris.cluster.controller.storage.connections import Connections
from iris.cluster.controller.storage.contents.tables import (
    ADD_CONTENTS,
    ADD_INPUTS,
    ADD_REMOVAL,
    DROP_CONTENTS,
    DROP_REMOVALS,
    RAISE_ROUNDS,
    REMOVE_BUNDLE,
    REMOVE_JOB,
)
from iris.cluster.controller.storage.records import (
    copy_task,
    dump_job,
    dump_task,
    join_launch,
    load_job,
    pack,
    split_launch,
    unpack,
)
from iris.cluster.controller.storage.schema import Progress, check_version, ignore_progress, migrate
from iris.errors import DataLossError, FailedPreconditionError, ResourceExhaustedError, UnavailableError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms
from iris.system.files import sync_directory

T = TypeVar("T")
# Reading a damaged record of the database raises one of these exceptions.
_UNREADABLE = (sqlite3.DatabaseError, DecodeError, zlib.error, ValueError, TypeError, KeyError)
_PAGE = 200  # The number of unfinished jobs that are read in one step.
_JOB_ROWS = (
    "SELECT number, job_id, jobs.launch, entry_points.launch, record FROM jobs LEFT JOIN entry_points USING (number)"
)


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


Row = Sequence[object]


class Changes:
    """Rows to write in one transaction.

    Each row is made on the controller's loop, when a method of this class is called. Therefore the writing thread never
    reads an object while the loop changes it. The rows of ended jobs and of events are an exception: the writing thread
    makes them, because making these rows takes long, and the jobs and events do not change during the write. The loop
    only copies the fields of tasks. The writing thread makes the text of their rows from the copies.

    Attributes:
        statements: The SQL statements, each with its rows or with a function that makes the rows.
    """

    def __init__(self) -> None:
        self.statements: list[tuple[str, list[Row] | Callable[[], list[Row]]]] = []

    def add_job(self, stored: JobRecord, bundle: bytes, inputs: bytes = b"") -> Self:
        """Add a new job, its workspace and the inputs of its tasks. The workspace is left out if `bundle` is empty or
        the workspace is already stored.
        """
        job, launch = stored.job, stored.launch
        if bundle:
            self._add("INSERT OR IGNORE INTO bundles VALUES (?, ?)", (launch.bundle_hash, bundle))
        rest, entry_point = split_launch(launch)
        row = (stored.number or None, job.job_id, job.parent_job_id, job.owner, job.submitted_at_ms, len(job.tasks))
        self._add(
            "INSERT INTO jobs (number, job_id, parent_job_id, owner, submitted_at_ms, tasks, launch, record)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, rest, "" if job.is_finished else dump_job(job)),
        )
        self._add("INSERT INTO entry_points VALUES (last_insert_rowid(), ?)", (entry_point,))
        self._add(ADD_CONTENTS, (launch.bundle_hash,))
        if inputs:
            self._add(ADD_INPUTS, (launch.inputs_hash, inputs))
        if job.is_finished:
            self._end_job(stored)
        else:
            self._save_tasks(job.tasks, stored.facts)
        return self

    def save_job(self, stored: JobRecord, since_revision: int, results: Iterable[tuple[int, bytes]] = ()) -> Self:
        """Save a job's changes since the given revision, and new results as pairs of task index and outcome."""
        job = stored.job
        if job.is_finished:
            self._end_job(stored)
        else:
            self._add("UPDATE jobs SET record=? WHERE job_id=?", (dump_job(job), job.job_id))
            self._save_tasks(job.changes.since(since_revision), stored.facts)
        for index, value in results:
            self._add("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (job.job_id, index, value))
        return self

    def remove_job(self, number: int, rounds: int) -> Self:
        """Remove a job with its contents.

        Args:
            number: The number of the job in the database.
            rounds: How many gangs the job has had in total.
        """
        for statement in REMOVE_JOB:
            self._add(statement, (number,))
        self._add(RAISE_ROUNDS, (rounds,))
        return self

    def add_removal(self, request_id: str, job_ids: Sequence[str], most: int) -> Self:
        """Add the answer to a request that removes jobs, so that a repeated request gets the same answer.

        Args:
            request_id: The id of the request that removes the jobs.
            job_ids: The ids of the removed jobs.
            most: The number of the newest answers that stay stored.
        """
        self._add(ADD_REMOVAL, (request_id, json.dumps(job_ids)))
        self._add(DROP_REMOVALS, (most,))
        return self

    def drop_contents(self, number: int) -> Self:
        """Remove the entry point and the results of a job. The workspace of the job remains until `remove_bundle` is
        called.
        """
        for statement in DROP_CONTENTS:
            self._add(statement, (number,))
        return self

    def remove_bundle(self, bundle_hash: str) -> Self:
        """Remove a workspace, unless a job with stored contents uses it."""
        self._add(REMOVE_BUNDLE, (bundle_hash,))
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

    def add_rows(self, statement: str, rows: Iterable[Row]) -> Self:
        """Execute a statement for each row. Parts of the controller with tables of their own use this method."""
        self.statements.append((statement, list(rows)))
        return self

    def add_made_rows(self, statement: str, make: Callable[[], list[Row]]) -> Self:
        """Execute a statement for each row that a function returns. The writing thread calls the function, so the
        objects from which the rows are made must not change until the transaction has ended.
        """
        self.statements.append((statement, make))
        return self

    def _save_tasks(self, tasks: Iterable[Task], facts: list[cluster_pb2.TaskStatus]) -> None:
        copies = [
            (task.job_id, task.task_index, copy_task(task), facts[task.task_index].SerializeToString())
            for task in tasks
        ]

        def rows() -> list[Row]:
            return [(job_id, index, dump_task(task), fact) for job_id, index, task, fact in copies]

        self.statements.append(("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?)", rows))

    def _end_job(self, stored: JobRecord) -> None:
        """Replace the records of a job and its tasks by one packed record."""
        job = stored.job
        self.statements.append(
            (
                "UPDATE jobs SET state=?, finished_at_ms=?, record=? WHERE job_id=?",
                lambda: [(job.state, job.finished_at_ms, pack(stored), job.job_id)],
            )
        )
        self._add("DELETE FROM tasks WHERE job_id=?", (job.job_id,))

    def _add(self, statement: str, row: Row) -> None:
        self.statements.append((statement, [row]))


class Store:
    """The controller's database.

    Args:
        path: The file, which is created if it is missing; None keeps the database in memory.
        progress: A function that is called while the database of an older version is migrated.

    Raises:
        FailedPreconditionError: A newer version of Iris wrote the file, or a running controller uses it.
        DataLossError: The file is not a database, or is damaged.
        ResourceExhaustedError: The file cannot be written.
    """

    def __init__(self, path: Path | None, *, progress: Progress = ignore_progress) -> None:
        self._connections = Connections(path)
        self._name = self._connections.name
        try:
            self._open(path, progress)
        except BaseException:
            self._connections.close()
            raise

    def _open(self, path: Path | None, progress: Progress) -> None:
        try:
            check_version(self._connections.writer, self._name)
            self._connections.use_write_ahead_log()
            migrate(self._connections.writer, path, progress)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise FailedPreconditionError(
                    f"another controller is running on {self._name}: end that controller first, or use another file"
                ) from error
            raise ResourceExhaustedError(f"cannot write {self._name}: {error}") from error
        except _UNREADABLE as error:
            raise DataLossError(f"{self._name} cannot be read: {error}") from error
        if path is not None:
            # SQLite syncs only the contents of the file. Therefore the directory entries are synced here.
            sync_directory(path.parent)
            sync_directory(path.parent.parent)

    def interrupt(self) -> None:
        """Make reads in other threads fail, because the controller stops. Afterwards `write` still works. If the
        database has only one connection (see connections.py), reads still work, too.
        """
        self._connections.interrupt()

    def bytes_on_disk(self) -> int:
        """Return the size of the database's file and its log in bytes; 0 if the database is in memory."""
        return self._connections.bytes_on_disk()

    def close(self) -> None:
        """Close the database."""
        self._connections.close()

    def load(self) -> Iterator[JobRecord]:
        """Yield all jobs, in the order of their submission."""
        with self._reading() as db:
            for row in db.execute(f"{_JOB_ROWS} ORDER BY number"):
                yield _load_job(db, *row)

    def load_unfinished(self) -> Iterator[JobRecord]:
        """Yield the jobs whose end is not saved, in the order of their submission."""
        page = self.unfinished_after(0)
        while page:
            yield from page
            page = self.unfinished_after(page[-1].number)

    def unfinished_after(self, number: int) -> list[JobRecord]:
        """Return the next jobs whose end is not saved, in the order of their submission.

        Args:
            number: Only jobs with a higher number are returned.
        """
        with self._reading() as db:
            rows = db.execute(f"{_JOB_ROWS} WHERE state=0 AND number>? ORDER BY number LIMIT ?", (number, _PAGE))
            return [_load_job(db, *row) for row in rows.fetchall()]

    def load_jobs(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
        """Return the jobs with the given ids, by id. Jobs that are not stored are left out."""
        with self._reading() as db:
            found: dict[str, JobRecord] = {}
            for job_id in job_ids:
                rows = db.execute(f"{_JOB_ROWS} WHERE job_id=?", (job_id,))
                found.update((job_id, _load_job(db, *row)) for row in rows.fetchall())
            return found

    def last_number(self) -> int:
        """Return the number of the newest job that was ever stored; 0 if no job was stored."""
        with self._reading() as db:
            return next((number for (number,) in db.execute("SELECT seq FROM sqlite_sequence WHERE name='jobs'")), 0)

    def has_job(self, job_id: str) -> bool:
        """Return whether a job is stored. The call takes microseconds, because it reads only an index."""
        with self._reading() as db:
            return bool(db.execute("SELECT 1 FROM jobs WHERE job_id=?", (job_id,)).fetchall())

    def ended_job(self, job_id: str) -> JobRecord | None:
        """Return a job whose end is saved, without its entry point; None if there is no such job."""
        with self._reading() as db:
            statement = "SELECT number, launch, record FROM jobs WHERE job_id=? AND state>0"
            for number, launch, record in db.execute(statement, (job_id,)).fetchall():
                return unpack(record, launch, None, number)
            return None

    def count_ended(self) -> int:
        """Return the number of jobs whose end is saved."""
        with self._reading() as db:
            return int(db.execute("SELECT count(*) FROM jobs WHERE state>0").fetchone()[0])

    def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of a function that reads from the database.

        Raises:
            DataLossError: The file is damaged.
            UnavailableError: The controller stops.
        """
        with self._reading() as db:
            return function(db)

    def write(self, changes: Changes) -> None:
        """Write all rows in one transaction. The rows are on the disk when this method returns.

        Raises:
            ResourceExhaustedError: The file cannot be written now, and nothing was written.
            DataLossError: The file is damaged.
        """
        with self._transaction() as db:
            for statement, rows in changes.statements:
                db.executemany(statement, rows() if callable(rows) else rows)

    def submission(self, job_id: str) -> tuple[cluster_pb2.Controller.LaunchJobRequest, bool] | None:
        """Return the submission of a job without its workspace, and whether its entry point is still stored. The result
        is None if there is no such job. Without the entry point, the submission has no command, callable or
        environment.
        """
        with self._reading() as db:
            for _, _, launch, entry_point, _ in db.execute(f"{_JOB_ROWS} WHERE job_id=?", (job_id,)).fetchall():
                return join_launch(launch, entry_point), entry_point is not None
            return None

    def result(self, number: int, task_index: int) -> bytes | None:
        """Return the stored outcome of a task (see contents/stored_outcome.py). The value is empty if the task has no
        outcome, and None if the job is not stored.

        Args:
            number: The number of the job. A later job can have the same id, because jobs can be removed.
            task_index: The index of the task in its job, from 0.
        """
        with self._reading() as db:
            row = db.execute(
                "SELECT value FROM jobs LEFT JOIN results ON results.job_id=jobs.job_id AND task_index=?"
                " WHERE number=?",
                (task_index, number),
            ).fetchone()
            return None if row is None else bytes(row[0] or b"")

    def bundle(self, bundle_hash: str) -> bytes | None:
        """Return a workspace; None if it is not stored."""
        with self._reading() as db:
            row = db.execute("SELECT blob FROM bundles WHERE hash=?", (bundle_hash,))
            return next((bytes(blob) for (blob,) in row), None)

    def inputs(self, inputs_hash: str) -> bytes | None:
        """Return the inputs of a job; None if no inputs with this hash are stored."""
        with self._reading() as db:
            row = db.execute("SELECT blob FROM inputs WHERE hash=? LIMIT 1", (inputs_hash,)).fetchone()
            return None if row is None else bytes(row[0])

    def inputs_part(self, inputs_hash: str, offset: int, length: int) -> bytes | None:
        """Return a part of the inputs of a job; None if no inputs with this hash are stored."""
        with self._reading() as db:
            row = db.execute("SELECT number FROM inputs WHERE hash=? LIMIT 1", (inputs_hash,)).fetchone()
            if row is None:
                return None
            with db.blobopen("inputs", "blob", row[0], readonly=True) as blob:
                blob.seek(min(offset, len(blob)))
                return bytes(blob.read(length))

    def has_bundle(self, bundle_hash: str) -> bool:
        """Return whether a workspace is stored."""
        with self._reading() as db:
            return bool(db.execute("SELECT 1 FROM bundles WHERE hash=?", (bundle_hash,)).fetchall())

    def load_endpoints(self) -> list[cluster_pb2.Controller.Endpoint]:
        """Return all endpoints, in the order of their registration."""
        with self._reading() as db:
            rows = db.execute("SELECT message FROM endpoints ORDER BY rowid")
            return [cluster_pb2.Controller.Endpoint.FromString(message) for (message,) in rows]

    def load_lease(self) -> float:
        """Return the length of the longest lease that a worker may have, in seconds; 0 if no length is stored."""
        with self._reading() as db:
            return float(next((seconds for (seconds,) in db.execute("SELECT seconds FROM lease")), 0.0))

    def load_fenced(self) -> dict[tuple[str, str], int]:
        """Return the fenced processes, oldest fence first. The result maps worker id and incarnation to the time of the
        fence, in milliseconds since the epoch.
        """
        with self._reading() as db:
            rows = db.execute("SELECT worker_id, incarnation, since_ms FROM fenced ORDER BY since_ms")
            return {(worker_id, incarnation): since_ms for worker_id, incarnation, since_ms in rows}

    def load_tokens(self) -> list[StoredToken]:
        """Return all tokens, in the order of their creation."""
        with self._reading() as db:
            rows = db.execute("SELECT message, request_id, revocation FROM tokens ORDER BY rowid")
            return [
                StoredToken(cluster_pb2.Controller.Token.FromString(message), request_id, revocation)
                for message, request_id, revocation in rows
            ]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connections.reading() as db:
                yield db
        except _UNREADABLE as error:
            if isinstance(error, sqlite3.OperationalError) and "interrupted" in str(error):
                raise UnavailableError("the controller is shutting down") from error
            raise DataLossError(f"{self._name} cannot be read: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connections.writing() as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                except BaseException:
                    # On a full disk, SQLite has already undone the transaction, and a rollback would hide the error.
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
                failpoint("store.commit.before")
                db.execute("COMMIT")
                failpoint("store.commit.after")
            except sqlite3.IntegrityError:
                # This error is a bug in Iris, because neither the disk nor a damaged file causes it. The transaction
                # was rolled back, so no data is damaged.
                raise
            except sqlite3.DatabaseError as error:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                kind = ResourceExhaustedError if isinstance(error, sqlite3.OperationalError) else DataLossError
                raise kind(f"the controller cannot write {self._name}: {error}") from error


def _load_job(
    db: sqlite3.Connection, number: int, job_id: str, launch: bytes, entry_point: bytes | None, record: str | bytes
) -> JobRecord:
    if isinstance(record, bytes):
        return unpack(record, launch, entry_point, number)
    tasks = db.execute("SELECT record, facts FROM tasks WHERE job_id=? ORDER BY task_index", (job_id,))
    return load_job(record, tasks, launch, entry_point, number)
