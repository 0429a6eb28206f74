"""Defines the tables of the controller's database, and the migrations from each version to the next.

`MIGRATIONS[n]` brings a database from version n to n + 1. A new database goes through all migrations. A released
migration is never changed. To add a table or a column, append a migration, and add a dump of the new version to
tests/cluster/controller/databases. A test opens every dump there.

A new field of a record (JSON) or of a message (protobuf) needs no migration if two conditions hold. The default value
of the field must be right for older records. An older Iris must be able to do without the field, because it drops the
field when it saves the record.
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
    value BLOB NOT NULL,                       -- the result of a callable, pickled
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
CREATE TABLE fenced (                          -- processes of lost workers, whose reports are ignored
    worker_id TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (worker_id, incarnation)
) WITHOUT ROWID;
CREATE TABLE lease (                           -- the longest lease that any worker may still have
    only INTEGER PRIMARY KEY CHECK (only = 1),
    seconds REAL NOT NULL
);
CREATE TABLE tokens (
    token_id TEXT PRIMARY KEY,
    request_id TEXT NOT NULL,                  -- of the request that created the token; may be empty
    revocation INTEGER NOT NULL,               -- the number of this revocation; 0 for a token that is not revoked
    message BLOB NOT NULL                      -- Token, without its secret
);
""",
)
SCHEMA_VERSION = len(MIGRATIONS)


def check_version(db: sqlite3.Connection, name: str) -> None:
    """Refuse a database that a newer Iris wrote.

    Raises:
        FailedPreconditionError: The version of the database is newer than this Iris.
    """
    version = _version_of(db)
    if version > SCHEMA_VERSION:
        raise FailedPreconditionError(
            f"{name} was written by a newer version of Iris: update Iris on this machine"
            f" (the database has version {version}, this Iris knows up to {SCHEMA_VERSION})"
        )


def migrate(db: sqlite3.Connection, path: Path | None) -> None:
    """Migrate a database to the newest version, with one transaction for each version. Before the first migration, copy
    the old database to a file in the same directory.

    Args:
        db: The connection, in autocommit mode.
        path: The file of the database; None if the database is in memory.
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
