"""Defines the tables of the controller's database, and the migrations from each version to the next.

`MIGRATIONS[n]` brings a database from version n to n + 1. A new database goes through all migrations. A released
migration is never changed. To add a table or a column, append a migration, and add a dump of the new version to
tests/cluster/controller/databases. A test opens every dump in this directory.

A new field of a record (JSON) or of a message (protobuf) needs no migration if two conditions hold. The default value
of the field must be right for older records. An older Iris must be able to do without the field, because an older Iris
drops the field when it saves the record.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from iris.cluster.controller.events.event_rows import EVENTS_SCHEMA
from iris.cluster.controller.storage.contents.tables import (
    CONTENTS_SCHEMA,
    INPUTS_SCHEMA,
    REMOVALS_SCHEMA,
    fill_contents,
)
from iris.cluster.controller.usage.rows import USAGE_SCHEMA
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
    """
ALTER TABLE jobs RENAME TO old_jobs;
ALTER TABLE tasks RENAME TO old_tasks;
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of submission
    job_id TEXT NOT NULL UNIQUE,
    parent_job_id TEXT NOT NULL,               -- empty if the job has no parent
    owner TEXT NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,          -- the final state; 0 until the end of the job is saved
    submitted_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER NOT NULL DEFAULT 0, -- 0 until the end of the job is saved
    tasks INTEGER NOT NULL,                    -- the number of tasks
    launch BLOB NOT NULL,                      -- LaunchJobRequest, without the workspace and the entry point
    record NOT NULL                            -- TEXT: an unfinished job; BLOB: an ended job with tasks (records.py)
);
CREATE INDEX jobs_by_parent ON jobs (parent_job_id) WHERE parent_job_id != '';
CREATE INDEX jobs_by_owner ON jobs (owner, number, state);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX jobs_by_submission ON jobs (submitted_at_ms);
CREATE INDEX jobs_by_end ON jobs (finished_at_ms);
CREATE TABLE entry_points (
    number INTEGER PRIMARY KEY,                -- the number of the job
    launch BLOB NOT NULL                       -- LaunchJobRequest with only the entry point, which may be removed
);
CREATE TABLE tasks (                           -- the tasks of unfinished jobs
    job_id TEXT NOT NULL,
    task_index INTEGER NOT NULL,
    record TEXT NOT NULL,                      -- Task with its attempts, as JSON
    facts BLOB NOT NULL,                       -- TaskStatus: ports, resource usage, build metrics
    PRIMARY KEY (job_id, task_index)
) WITHOUT ROWID;
""",
    CONTENTS_SCHEMA,
    INPUTS_SCHEMA,
    USAGE_SCHEMA,
    EVENTS_SCHEMA,
    REMOVALS_SCHEMA,
)
SCHEMA_VERSION = len(MIGRATIONS)
# The number of the database migration that adds the counts of the bytes that are stored for each user.
_COUNTING = 3
# The number of the database migration that moves the jobs to new tables, and packs ended jobs (pack_jobs.py).
_PACKING = 2

Progress = Callable[[int, int], None]
"""A function that reports a migration. Its arguments are the number of migrated jobs and the number of all jobs."""


def ignore_progress(done: int, total: int) -> None:
    """Do nothing. This function is used if the caller does not want to know the progress of a migration."""


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


def migrate(db: sqlite3.Connection, path: Path | None, progress: Progress = ignore_progress) -> None:
    """Migrate a database to the newest version, with one transaction for each version. Before the first migration, copy
    the old database to a file in the same directory.

    Args:
        db: The connection to the database, in autocommit mode.
        path: The file of the database; None if the database is in memory.
        progress: A function that is called during the migration of a large database.
    """
    version = _version_of(db)
    if path is not None and 0 < version < SCHEMA_VERSION:
        _keep_copy(db, path.with_name(f"{path.name}.v{version}"))
    for number in range(version, SCHEMA_VERSION):
        try:
            db.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]}")
            if number == _PACKING:
                # The module is imported here, because its imports take time, and few starts need a migration.
                from iris.cluster.controller.storage.pack_jobs import pack_jobs

                pack_jobs(db, progress)
            if number == _COUNTING:
                fill_contents(db)
            db.execute(f"PRAGMA user_version={number + 1}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    if version and version <= _PACKING:
        # The packed jobs need a fraction of the old space, so `VACUUM` makes the file smaller. If the disk is too full
        # for `VACUUM`, the migration still succeeds, and new jobs use the free space in the file.
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute("VACUUM")


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
