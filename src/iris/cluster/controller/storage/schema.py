"""The tables of the controller's database, version by version.

`MIGRATIONS[n]` brings a database from version n to n + 1; a new one goes through all of them. A step that was released
is never changed: whoever needs another table or column appends a step, and a dump of that version to
tests/cluster/controller/databases (see the test that opens them).

What is in a record (JSON) or in a message (protobuf) needs no step where an older record without it means the default,
and where an older Iris may ignore it, and lose it with its next save.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from iris.errors import FailedPreconditionError
from iris.system.files import sync_directory

MIGRATIONS = (
    """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of submission
    job_id TEXT NOT NULL UNIQUE,
    launch BLOB NOT NULL,                      -- LaunchJobRequest, without the workspace
    record TEXT NOT NULL                       -- Job, without tasks and gangs, as JSON
);
CREATE TABLE tasks (
    job_id TEXT NOT NULL,
    task_index INTEGER NOT NULL,
    record TEXT NOT NULL,                      -- Task with its attempts, as JSON
    facts BLOB NOT NULL,                       -- TaskStatus: ports, resource usage, build metrics
    PRIMARY KEY (job_id, task_index)
) WITHOUT ROWID;
CREATE TABLE results (
    job_id TEXT NOT NULL,
    task_index INTEGER NOT NULL,
    value BLOB NOT NULL,                       -- what a callable returned, pickled
    PRIMARY KEY (job_id, task_index)
);
CREATE TABLE bundles (
    hash TEXT PRIMARY KEY,
    blob BLOB NOT NULL                         -- a workspace, as a gzipped tar
);
CREATE TABLE endpoints (
    endpoint_id TEXT PRIMARY KEY,
    message BLOB NOT NULL                      -- Endpoint
);
""",
    """
CREATE TABLE fenced (                          -- processes of workers that were declared lost: nobody listens to them
    worker_id TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (worker_id, incarnation)
) WITHOUT ROWID;
CREATE TABLE lease (                           -- the longest that a worker may still have of this or an earlier life
    only INTEGER PRIMARY KEY CHECK (only = 1),
    seconds REAL NOT NULL
);
CREATE TABLE tokens (
    token_id TEXT PRIMARY KEY,
    request_id TEXT NOT NULL,                  -- of the request that made it; may be empty
    revocation INTEGER NOT NULL,               -- revocations are counted: which this was; 0 where there was none
    message BLOB NOT NULL                      -- Token; nowhere is a secret
);
""",
)
SCHEMA_VERSION = len(MIGRATIONS)


def check_version(db: sqlite3.Connection, name: str) -> None:
    """Refuses what a newer Iris wrote. Nothing is changed.

    Raises:
        FailedPreconditionError: That is so.
    """
    version = _version_of(db)
    if version > SCHEMA_VERSION:
        raise FailedPreconditionError(
            f"{name} was written by a newer version of Iris: update this one"
            f" (its version is {version}, this Iris knows up to {SCHEMA_VERSION})"
        )


def migrate(db: sqlite3.Connection, path: Path | None) -> None:
    """Brings a database to the newest version, one transaction for each step. A copy of what it was stays beside it.

    Args:
        db: The connection, which commits by itself.
        path: Its file; None: it is in memory.
    """
    version = _version_of(db)
    if path is not None and 0 < version < SCHEMA_VERSION:
        _keep_copy(db, path.with_name(f"{path.name}.v{version}"))
    for number in range(version, SCHEMA_VERSION):
        try:
            db.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version={number + 1}; COMMIT;")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _version_of(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _keep_copy(db: sqlite3.Connection, copy: Path) -> None:
    beside = copy.with_name(f"{copy.name}.new")
    beside.unlink(missing_ok=True)
    db.execute("VACUUM INTO ?", (str(beside),))
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.rename(copy)
    sync_directory(copy.parent)
