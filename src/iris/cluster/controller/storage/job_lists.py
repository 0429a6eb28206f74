"""Defines the filters of job lists. Reads pages of ended jobs from the database, and counts ended jobs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.storage.records import unpack

_LAST_CHARACTER = chr(0x10FFFF)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """The conditions of a list of jobs. A job matches if all conditions are met. An empty condition is always met.

    Attributes:
        id_prefix: Accept only jobs whose id begins with this text.
        states: Accept only jobs in one of these states.
        owner: Accept only jobs of the user with this name.
        since_ms: Accept only jobs that were submitted at or after this time, in milliseconds since the epoch.
        until_ms: Accept only jobs that were submitted before this time, in milliseconds since the epoch. 0: no end.
        id_contains: Accept only jobs whose id contains this text.
    """

    id_prefix: str = ""
    states: Collection[int] = ()
    owner: str = ""
    since_ms: int = 0
    until_ms: int = 0
    id_contains: str = ""

    @property
    def accepts_all(self) -> bool:
        """Whether every job belongs to the list, because there are no conditions."""
        return not (self.id_prefix or self.id_contains or self.states or self.owner or self.since_ms or self.until_ms)

    def matches(self, job: Job) -> bool:
        """Return whether a job, with its present state, fulfils the conditions for the list of jobs."""
        return (
            job.job_id.startswith(self.id_prefix)
            and self.id_contains in job.job_id
            and (not self.states or job.state in self.states)
            and (not self.owner or job.owner == self.owner)
            and job.submitted_at_ms >= self.since_ms
            and (not self.until_ms or job.submitted_at_ms < self.until_ms)
        )


@dataclass(frozen=True, slots=True)
class Range:
    """The range of job numbers from `first` to `last`, in which jobs are read in the order of their numbers.

    Attributes:
        first: The lowest number of a job in the range.
        last: The highest number of a job in the range.
        newest_first: Whether the jobs are read from the highest number down.
        limit: The largest number of jobs to read.
    """

    first: int
    last: int
    newest_first: bool
    limit: int

    def contains(self, number: int) -> bool:
        """Return whether the number of a job is in the range. `limit` is not checked."""
        return self.first <= number <= self.last


def read_page(db: sqlite3.Connection, wanted: JobFilter, within: Range) -> list[JobRecord]:
    """Return the ended jobs in a range of job numbers that match a filter, without their entry points. The range
    `within` also sets the order and the largest number of jobs.
    """
    where, values = _conditions(wanted)
    order = "DESC" if within.newest_first else "ASC"
    # The "+" makes SQLite use the index that finds the few jobs with the prefix. Without the "+", SQLite might read the
    # whole table in the order of the numbers.
    number = "+number" if wanted.id_prefix else "number"
    rows = db.execute(
        f"SELECT number, launch, record FROM jobs WHERE {where} AND {number} BETWEEN ? AND ?"
        f" ORDER BY {number} {order} LIMIT ?",
        (*values, within.first, within.last, within.limit),
    )
    return [unpack(record, launch, None, number) for number, launch, record in rows]


def count_jobs(db: sqlite3.Connection, wanted: JobFilter) -> int:
    """Return how many ended jobs match a filter."""
    where, values = _conditions(wanted)
    return int(db.execute(f"SELECT count(*) FROM jobs WHERE {where}", values).fetchone()[0])


def count_by_state(db: sqlite3.Connection, wanted: JobFilter, *, last: int, without: Collection[int]) -> dict[int, int]:
    """Return how many ended jobs match a filter, by state.

    Args:
        db: A connection to the database.
        wanted: The filter that selects the jobs.
        last: The highest number of a job that is counted.
        without: The numbers of further jobs that are not counted. The caller has counted these jobs as unfinished, but
            they may end before this read.
    """
    where, values = _conditions(wanted)
    rows = db.execute(
        f"SELECT state, count(*) FROM jobs WHERE {where} AND number <= ?"
        " AND (number < ? OR number NOT IN (SELECT value FROM json_each(?))) GROUP BY state",
        (*values, last, min(without, default=last + 1), json.dumps(list(without))),
    )
    return dict(rows.fetchall())


def _conditions(wanted: JobFilter) -> tuple[str, list[object]]:
    """Return a filter as an SQL condition, and the values for the condition's placeholders. Only ended jobs meet the
    condition."""
    conditions, values = ["state > 0"], list[object]()
    if wanted.id_prefix:
        conditions.append("job_id >= ? AND job_id < ?")
        values += [wanted.id_prefix, wanted.id_prefix + _LAST_CHARACTER]
    if wanted.id_contains:
        conditions.append("instr(job_id, ?) > 0")
        values.append(wanted.id_contains)
    if wanted.states:
        conditions.append(f"state IN ({', '.join('?' * len(wanted.states))})")
        values += sorted(wanted.states)
    if wanted.owner:
        conditions.append("owner = ?")
        values.append(wanted.owner)
    if wanted.since_ms:
        conditions.append("submitted_at_ms >= ?")
        values.append(wanted.since_ms)
    if wanted.until_ms:
        conditions.append("submitted_at_ms < ?")
        values.append(wanted.until_ms)
    return " AND ".join(conditions), values
