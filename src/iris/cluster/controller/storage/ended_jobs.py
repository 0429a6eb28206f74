"""Reads ended jobs from the database in separate threads, so that no read blocks the controller's loop. The threads
read while the saver's thread writes. Therefore a read never waits for an fsync.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.storage.records import unpack
from iris.cluster.controller.storage.store import Store
from iris.errors import UnavailableError

_THREADS = 2
_PAGE = 500  # The number of ended jobs that are read in one step when all of them are read.

P = ParamSpec("P")
T = TypeVar("T")


class StoredJobs:
    """The ended jobs in the database. `JobTable` finds ended jobs through this object.

    Args:
        store: The database of the controller.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_THREADS, "iris-read")

    def close(self) -> None:
        """Interrupt the reads in progress, and end the threads."""
        self._store.interrupt()
        self._threads.shutdown(cancel_futures=True)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that reads from the store, in a thread.

        Raises:
            UnavailableError: The controller stops.
        """
        try:
            reading = asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))
        except RuntimeError as error:  # `close` has ended the threads.
            raise UnavailableError("the controller is shutting down") from error
        return await reading

    async def find(self, job_id: str) -> JobRecord | None:
        """Return a job whose end is saved, without its entry point; None if there is no such job."""
        return await self.run(self._store.ended_job, job_id)

    def has(self, job_id: str) -> bool:
        """Return whether a job is stored, whether or not it has ended.

        This method reads the database on the controller's loop, because a submission must claim its name without an
        await. The read needs only some pages of an index, which are usually in memory.
        """
        return self._store.has_job(job_id)

    async def ended_between(self, after_ms: int, until_ms: int) -> AsyncIterator[JobRecord]:
        """Yield the jobs that ended later than `after_ms`, and not later than `until_ms`."""
        after = after_ms, 2**62
        while True:
            page = await self.run(self._store.read, partial(_ended_after, after=after, until_ms=until_ms))
            for record in page:
                yield record
            if len(page) < _PAGE:
                return
            after = page[-1].job.finished_at_ms, page[-1].number

    async def newest_first(self) -> AsyncIterator[tuple[str, int, Callable[[], JobRecord]]]:
        """Yield the id and the number of tasks of each ended job, and a function that returns the job's record."""
        before = 2**62
        while True:
            page = await self.run(self._store.read, partial(_newest_before, before=before))
            for number, job_id, tasks, launch, record in page:
                yield job_id, tasks, partial(unpack, record, launch, None, number)
            if len(page) < _PAGE:
                return
            before = page[-1][0]


def _ended_after(db: sqlite3.Connection, *, after: tuple[int, int], until_ms: int) -> list[JobRecord]:
    rows = db.execute(
        "SELECT number, launch, record FROM jobs"
        " WHERE state>0 AND (finished_at_ms, number) > (?, ?) AND finished_at_ms <= ?"
        " ORDER BY finished_at_ms, number LIMIT ?",
        (*after, until_ms, _PAGE),
    )
    return [unpack(record, launch, None, number) for number, launch, record in rows]


def _newest_before(db: sqlite3.Connection, *, before: int) -> list[tuple[int, str, int, bytes, bytes]]:
    return db.execute(
        "SELECT number, job_id, tasks, launch, record FROM jobs WHERE state>0 AND number < ? ORDER BY number DESC"
        " LIMIT ?",
        (before, _PAGE),
    ).fetchall()
