"""Moves the jobs of a database of version 2 to the tables of version 3, in which an ended job is one packed record."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

from iris.cluster.controller.storage.records import LaunchJobRequest, load_job, pack, split_launch
from iris.cluster.controller.storage.schema import Progress
from iris.cluster.types import is_job_finished
from iris.failpoints import failpoint

_REPORTED_JOBS = 1000  # The progress of the migration is reported each time after this many jobs.


def pack_jobs(db: sqlite3.Connection, progress: Progress) -> None:
    """Move all jobs from the tables `old_jobs` and `old_tasks` to `jobs` and `tasks`, and drop the old tables.

    Args:
        db: A connection with an open transaction.
        progress: A function that is called after some jobs have moved.
    """
    failpoint("migrate.before")
    total = db.execute("SELECT count(*) FROM old_jobs").fetchone()[0]
    rows = db.execute("SELECT number, job_id, launch, record FROM old_jobs ORDER BY number")
    for done, (number, job_id, launch, record) in enumerate(rows):
        _move(db, number, job_id, launch, record)
        if done % _REPORTED_JOBS == 0:
            progress(done, total)
    db.execute("INSERT INTO tasks SELECT * FROM old_tasks WHERE job_id IN (SELECT job_id FROM jobs WHERE state=0)")
    db.execute("DROP TABLE old_jobs")
    db.execute("DROP TABLE old_tasks")
    progress(total, total)
    failpoint("migrate.after")


def _move(db: sqlite3.Connection, number: int, job_id: str, launch: bytes, record: str) -> None:
    job = json.loads(record)
    rest, entry_point = split_launch(LaunchJobRequest.FromString(launch))
    stored: str | bytes = record
    state = finished_at_ms = 0
    if is_job_finished(job["state"]):
        state, finished_at_ms = job["state"], job["finished_at_ms"]
        stored = pack(load_job(record, _tasks(db, job_id), rest, None, number))
    count = db.execute("SELECT count(*) FROM old_tasks WHERE job_id=?", (job_id,)).fetchone()[0]
    facts = job.get("parent_job_id", ""), job.get("owner", ""), state, job["submitted_at_ms"], finished_at_ms, count
    db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (number, job_id, *facts, rest, stored))
    db.execute("INSERT INTO entry_points VALUES (?, ?)", (number, entry_point))


def _tasks(db: sqlite3.Connection, job_id: str) -> Iterator[tuple[str, bytes]]:
    return db.execute("SELECT record, facts FROM old_tasks WHERE job_id=? ORDER BY task_index", (job_id,))
