"""Reads the stored bytes of users, and the jobs that may be removed. Each function gets a connection to the
database.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from typing import NamedTuple

Database = sqlite3.Connection
_BATCH = 500


class UserBytes(NamedTuple):
    """How many bytes of contents are stored for one user.

    Attributes:
        total: How many bytes of contents are stored for all jobs of the user.
        live: How many of these bytes unfinished jobs use.
    """

    total: int
    live: int


class EndedJob(NamedTuple):
    """An ended job in the database, for the choice of the jobs to remove.

    Attributes:
        number: The number of the job in the database.
        job_id: The id of the job.
    """

    number: int
    job_id: str


def bytes_of_user(db: sqlite3.Connection, owner: str) -> UserBytes:
    """Return how many bytes are stored for a user. The call reads one row."""
    row = db.execute("SELECT total, live FROM user_bytes WHERE owner=?", (owner,)).fetchone()
    return UserBytes(*row) if row is not None else UserBytes(0, 0)


def live_bundle_bytes(db: sqlite3.Connection, owner: str, bundle_hash: str) -> tuple[int, bool]:
    """Return the size of a stored workspace, and whether an unfinished job of a user uses the workspace. The size is 0
    if the workspace is not stored.
    """
    row = db.execute(
        "SELECT length(blob), coalesce((SELECT live FROM bundle_uses WHERE bundle_hash=?1 AND owner=?2), 0)"
        " FROM bundles WHERE hash=?1",
        (bundle_hash, owner),
    ).fetchone()
    return (0, False) if row is None else (row[0], row[1] > 0)


def owner_of(db: sqlite3.Connection, job_id: str) -> str | None:
    """Return the owner of a job; None if there is no such job. The call reads one row."""
    row = db.execute("SELECT owner FROM jobs WHERE job_id=?", (job_id,)).fetchone()
    return None if row is None else str(row[0])


def has_dropped_contents(db: sqlite3.Connection, number: int) -> bool:
    """Return whether the contents of an ended job were dropped, although the job is still stored.

    Args:
        number: The number of the job in the database.
    """
    statement = "SELECT 1 FROM jobs WHERE number=?1 AND NOT EXISTS (SELECT 1 FROM contents WHERE number=?1)"
    return db.execute(statement, (number,)).fetchone() is not None


def jobs_removed_by(db: sqlite3.Connection, request_id: str) -> list[str] | None:
    """Return the ids of the jobs that an earlier request has removed; None if the request is not known."""
    row = db.execute("SELECT job_ids FROM removals WHERE request_id=?", (request_id,)).fetchone()
    return None if row is None else list(json.loads(row[0]))


def users_above(db: sqlite3.Connection, limit: int) -> list[str]:
    """Return the users for whom more than `limit` bytes are stored."""
    return [owner for (owner,) in db.execute("SELECT owner FROM user_bytes WHERE total > ?", (limit,))]


def oldest_contents(db: sqlite3.Connection, owner: str) -> list[int]:
    """Return the numbers of the ended jobs of a user whose contents are stored, in the order of their ends. The list
    has at most 500 jobs.
    """
    rows = db.execute(
        "SELECT number FROM contents WHERE owner=? AND finished_at_ms > 0 ORDER BY finished_at_ms, number LIMIT ?",
        (owner, _BATCH),
    )
    return [number for (number,) in rows]


def freed_bytes(db: sqlite3.Connection, owner: str, numbers: Collection[int]) -> list[int]:
    """Return, for each job in `numbers`, how many bytes of the owner are freed when the contents of this job are
    dropped after the contents of all earlier jobs in `numbers`. The bytes of a workspace count for the last job of the
    owner that uses the workspace.
    """
    freed, remaining = [], {}
    for number in numbers:
        size, bundle_hash = db.execute("SELECT bytes, bundle_hash FROM contents WHERE number=?", (number,)).fetchone()
        if bundle_hash and bundle_hash not in remaining:
            remaining[bundle_hash] = db.execute(
                "SELECT jobs FROM bundle_uses WHERE bundle_hash=? AND owner=?", (bundle_hash, owner)
            ).fetchone()[0]
        if bundle_hash:
            remaining[bundle_hash] -= 1
            if not remaining[bundle_hash]:
                size += live_bundle_bytes(db, owner, bundle_hash)[0]
        freed.append(size)
    return freed


def jobs_that_ended_before(db: sqlite3.Connection, time_ms: int) -> list[EndedJob]:
    """Return the jobs that ended before a time, in milliseconds since the epoch, the oldest end first. The list has at
    most 500 jobs.
    """
    rows = db.execute(
        "SELECT number, job_id FROM jobs WHERE state>0 AND finished_at_ms > 0 AND finished_at_ms < ?"
        " ORDER BY finished_at_ms LIMIT ?",
        (time_ms, _BATCH),
    )
    return [EndedJob(*row) for row in rows]


def jobs_beyond(db: sqlite3.Connection, count: int) -> list[EndedJob]:
    """Return the ended jobs to remove so that only `count` ended jobs remain, the oldest end first. The list has at
    most 500 jobs.
    """
    excess = db.execute("SELECT count(*) FROM jobs WHERE state>0").fetchone()[0] - count
    rows = db.execute(
        "SELECT number, job_id FROM jobs WHERE finished_at_ms > 0 AND state>0 ORDER BY finished_at_ms LIMIT ?",
        (max(0, min(excess, _BATCH)),),
    )
    return [EndedJob(*row) for row in rows]


def children_of(db: sqlite3.Connection, job_id: str) -> list[str]:
    """Return the ids of all jobs below a job in its job tree, in the order of submission."""
    rows = db.execute(
        "WITH RECURSIVE below(job_id, number) AS ("
        " SELECT job_id, number FROM jobs WHERE parent_job_id=? AND parent_job_id != ''"
        " UNION SELECT jobs.job_id, jobs.number FROM jobs JOIN below ON parent_job_id=below.job_id"
        " WHERE parent_job_id != '') SELECT job_id FROM below ORDER BY number",
        (job_id,),
    )
    return [job_id for (job_id,) in rows]


def unused_bundles(db: sqlite3.Connection) -> list[str]:
    """Return the hashes of the stored workspaces that no job with stored contents uses."""
    rows = db.execute("SELECT hash FROM bundles WHERE hash NOT IN (SELECT bundle_hash FROM bundle_uses)")
    return [bundle_hash for (bundle_hash,) in rows]


def largest_rounds(db: sqlite3.Connection) -> int:
    """Return the largest number of gangs that any removed job has had."""
    return int(db.execute("SELECT rounds FROM removed_jobs").fetchone()[0])
