"""Reads pages of the list of jobs, from the memory and from the database.

Jobs are listed by their numbers, which are the order of their submission. A page token contains the number of the job
with which the next page begins. Therefore each job that exists while all pages are read is on exactly one page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from iris.arguments import MAX_INT32, MAX_INT64, check_whole_number
from iris.cluster.controller.api import messages
from iris.cluster.controller.api.slices import Slices, uncounted
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.job_lists import JobFilter, Range, count_by_state, count_jobs, read_page
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.cluster.states import STATE_NAMES
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2
from iris.rpc.pages import LONGEST_PAGE, number_in
from iris.rpc.serving.steps import Steps

ListRequest = cluster_pb2.Controller.ListJobsRequest | cluster_pb2.Controller.WatchJobsRequest

# Page tokens of the list of jobs begin with this word.
LIST_NAME = "jobs"
# A number that is higher than the number of every job.
LAST_NUMBER = 2**62
# If a job ends during a count, the count is repeated. After this many tries, the last count is returned, although some
# jobs may be missing from it.
_COUNT_TRIES = 5


@dataclass(frozen=True, slots=True)
class PageChoice:
    """The jobs that a request chooses.

    Attributes:
        wanted: The conditions that the jobs must meet.
        newest_first: Whether the newest job comes first.
        limit: The largest number of jobs on the page.
        first: The number of the job with which the page begins; None for the first page of the list.
    """

    wanted: JobFilter
    newest_first: bool
    limit: int
    first: int | None

    def in_range(self, number: int) -> bool:
        """Return whether the number of a job lies on this page or on a later page. The conditions are not checked."""
        if self.first is None:
            return True
        return number <= self.first if self.newest_first else number >= self.first


class JobPages:
    """Reads pages of jobs, and counts jobs.

    Args:
        jobs: The table of all jobs of the cluster.
        stored_jobs: The object that reads ended jobs from the database, in its own threads.
        store: The database, which contains the ended jobs.
        saver: The object that returns the last saved state of a job, which readers may see.
        slices: The object that makes large answers in small steps.
    """

    def __init__(self, jobs: JobTable, stored_jobs: StoredJobs, store: Store, saver: Saver, slices: Slices) -> None:
        self._jobs = jobs
        self._stored_jobs = stored_jobs
        self._store = store
        self._saver = saver
        self._slices = slices

    def choice(self, request: ListRequest) -> PageChoice:
        """Return the jobs that a request chooses.

        Raises:
            InvalidArgumentError: The page size, the page token, a state or a time is invalid.
        """
        wanted = _filter_of(request)
        check_whole_number("page_size", request.page_size, most=MAX_INT32)
        limit = min(request.page_size or LONGEST_PAGE, LONGEST_PAGE)
        token = request.page_token
        first = number_in(LIST_NAME, token, self._saver.last_number) if token else None
        return PageChoice(wanted, request.newest_first, limit, first)

    async def read(
        self, choice: PageChoice, tally: Callable[[float], None] = uncounted
    ) -> dict[int, cluster_pb2.JobStatus]:
        """Return the statuses of the jobs of a page by number, and one more job if further pages follow. The statuses
        may show unsaved changes (see `Saver.settled`).

        The jobs in memory are listed before the database is read. Therefore a job that ends meanwhile may be found
        twice, in memory and in the database. In this case, the page shows the job once, with the status from memory.

        Args:
            choice: The jobs to read.
            tally: A function that gets how long each part of the read has kept the event loop or a thread busy, in
                seconds. The time in which the read has waited for other work does not count.
        """
        begin_s = self._slices.clock()
        within = _range_of(choice)
        within = replace(within, last=min(within.last, self._saver.last_number))
        live = {record.number: record for record in self._jobs.open_jobs() if within.contains(record.number)}
        tally(self._slices.clock() - begin_s)
        ended, thread_s = await self._stored_jobs.run(self._read_ended, choice.wanted, within)
        tally(thread_s)
        in_order = [live[number] for number in sorted(live, reverse=within.newest_first)]
        making = self._live_statuses(in_order, choice.wanted, within.limit)
        found = {number: status for number, status in ended if number not in live}
        found |= await self._slices.run(making, tally)
        return {number: found[number] for number in sorted(found, reverse=choice.newest_first)[: within.limit]}

    def _read_ended(self, wanted: JobFilter, within: Range) -> tuple[list[tuple[int, cluster_pb2.JobStatus]], float]:
        """Return the number and the status of each ended job of a page, and the CPU time of the read in seconds. This
        method runs in a thread.
        """
        begin_s = time.thread_time()
        records = self._store.read(partial(read_page, wanted=wanted, within=within))
        found = [(record.number, messages.job_status(record)) for record in records]
        return found, time.thread_time() - begin_s

    def _live_statuses(
        self, records: Sequence[JobRecord], wanted: JobFilter, limit: int
    ) -> Steps[dict[int, cluster_pb2.JobStatus]]:
        """Return the statuses of the first `limit` jobs in `records` that match the filter `wanted`, by number."""
        found: dict[int, cluster_pb2.JobStatus] = {}
        for record in records:
            if len(found) == limit:
                break
            shown = self._saver.shown(record)
            if wanted.matches(shown.job):
                found[record.number] = messages.job_status(shown)
            yield
        return found

    async def count(self, wanted: JobFilter) -> tuple[int, int]:
        """Return how many unfinished and how many ended jobs match a filter."""
        num_ended = 0
        for _ in range(_COUNT_TRIES):
            before = self._jobs.count()
            if wanted.accepts_all:
                num_ended = before[1]
            else:
                num_ended = await self._stored_jobs.run(self._store.read, partial(count_jobs, wanted=wanted))
            if before[1] == self._jobs.count()[1]:
                break  # The count is complete, because no job has ended during the count.
        shown = [self._saver.shown(record).job for record in self._jobs.open_jobs()]
        states = [job.is_finished for job in shown if wanted.matches(job)]
        return states.count(False), num_ended + states.count(True)

    async def count_ended(self, wanted: JobFilter, *, last: int, without: Sequence[int]) -> dict[int, int]:
        """Return how many ended jobs match a filter, by state.

        Args:
            wanted: The filter that selects the jobs.
            last: The highest number of a job that is counted.
            without: The numbers of further jobs that are not counted.
        """
        counting = partial(count_by_state, wanted=wanted, last=last, without=without)
        return await self._stored_jobs.run(self._store.read, counting)


def _range_of(choice: PageChoice) -> Range:
    """Return the numbers of the jobs on a page and on all later pages. One job more than fits onto the page is read, so
    that the caller knows whether there is a further page.
    """
    limit = choice.limit + 1
    if choice.newest_first:
        return Range(1, LAST_NUMBER if choice.first is None else choice.first, True, limit)
    return Range(choice.first or 1, LAST_NUMBER, False, limit)


def _filter_of(request: ListRequest) -> JobFilter:
    """Return the conditions of a request.

    Raises:
        InvalidArgumentError: A state or a time is invalid.
    """
    for state in request.states:
        if not state or state not in STATE_NAMES:
            raise InvalidArgumentError(f"states must be numbers of job states, 1 to 8, got {state}")
    for name, value in (("since_ms", request.since_ms), ("until_ms", request.until_ms)):
        check_whole_number(name, value, most=MAX_INT64)
    return JobFilter(
        request.id_prefix,
        frozenset(request.states),
        request.owner,
        request.since_ms,
        request.until_ms,
        request.id_contains,
    )
