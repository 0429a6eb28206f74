"""A stand-in for a database without ended jobs, for tests of a `JobTable` whose jobs all stay in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from iris.cluster.controller.jobs.job_record import JobRecord


class NoEndedJobs:
    """A database without ended jobs."""

    async def find(self, job_id: str) -> JobRecord | None:
        return None

    def has(self, job_id: str) -> bool:
        return False

    async def ended_between(self, after_ms: int, until_ms: int) -> AsyncIterator[JobRecord]:
        for record in list[JobRecord]():
            yield record

    async def newest_first(self) -> AsyncIterator[tuple[str, int, Callable[[], JobRecord]]]:
        for found in list[tuple[str, int, Callable[[], JobRecord]]]():
            yield found
