"""Answers the calls that read jobs and tasks. An answer never shows a change that is not saved yet.

Jobs are listed by their numbers, which are the order of their submission. A page token contains the number of the job
with which the next page begins. Therefore each job that exists while all pages are read is on exactly one page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from iris.arguments import MAX_INT32, MAX_INT64, check_whole_number
from iris.cluster.controller.api import messages
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.jobs.outcomes import add_outcome, result_in
from iris.cluster.controller.removal.dropped_results import explain_dropped_results
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.job_lists import JobFilter, Range, count_jobs, read_page
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.cluster.states import STATE_NAMES
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2
from iris.rpc.pages import LONGEST_PAGE, PAGE_BYTES, Page, cut_page, number_in, page_token_of
from iris.rpc.serving.steps import Steps

ListJobsRequest = cluster_pb2.Controller.ListJobsRequest
ListJobsResponse = cluster_pb2.Controller.ListJobsResponse

_LAST = 2**62  # This number is higher than the number of every job.
_LIST = "jobs"
# If a job ends during a count, the count is repeated. After this many tries, the last count is returned, although some
# jobs may be missing from it.
_COUNT_TRIES = 5

T = TypeVar("T")


class JobQueries:
    """Answers the calls that read jobs and tasks.

    Args:
        jobs: All jobs.
        stored_jobs: Calls functions that read the store, in other threads.
        store: Contains the ended jobs, and the results of tasks.
        workers: The workers that have registered, by id.
        saver: Decides which saved state of a job a reader may see.
        slices: Makes large answers in small steps.
    """

    def __init__(
        self,
        jobs: JobTable,
        stored_jobs: StoredJobs,
        store: Store,
        workers: Mapping[str, WorkerRecord],
        saver: Saver,
        slices: Slices,
    ) -> None:
        self._jobs = jobs
        self._stored_jobs = stored_jobs
        self._store = store
        self._workers = workers
        self._saver = saver
        self._slices = slices

    async def get_job_status(
        self, job_id: str, *, include_result: bool, without_tasks: bool = False
    ) -> cluster_pb2.Controller.GetJobStatusResponse:
        """Return a job with as many of its tasks as fit into one answer. With `without_tasks`, the answer has no tasks.
        With `include_result`, it has the result of task 0.
        """
        record = await self._jobs.find(job_id)
        make = self._job_alone if without_tasks else self._job_with_tasks
        answer = await self._saved_answer(lambda: make(record))
        if include_result:
            answer.job.serialized_result = result_in(await self._stored_jobs.run(self._store.result, job_id, 0))
            if not answer.job.serialized_result:
                await explain_dropped_results(record, answer.job.tasks[:1], self._stored_jobs, self._store)
        return answer

    async def list_jobs(self, request: cluster_pb2.Controller.ListJobsRequest) -> ListJobsResponse:
        """Return a page of the jobs that match the request, without tasks, in the order of their submission.

        Raises:
            InvalidArgumentError: The page size, the page token or a filter is invalid.
        """
        wanted = _filter_of(request)
        first, limit = _page_start(request, self._saver.last_number)
        return await self._saved_answer(lambda: self._list_jobs(request, wanted, first, limit))

    async def _list_jobs(self, request: ListJobsRequest, wanted: JobFilter, first: int, limit: int) -> ListJobsResponse:
        """Make a page of jobs from the memory and the database.

        The jobs in memory are listed before the database is read. Therefore a job that ends in between is in the first
        list, and may also be in the second list. If a job is in both lists, the page shows the entry of the first list.
        """
        within = Range(1, first, True, limit + 1) if request.newest_first else Range(first, _LAST, False, limit + 1)
        within = replace(within, last=min(within.last, self._saver.last_number))
        live = {record.number: record for record in self._jobs.open_jobs() if within.contains(record.number)}
        ended = await self._stored_jobs.run(self._read_ended, wanted, within)
        in_order = [live[number] for number in sorted(live, reverse=within.newest_first)]
        making = self._live_statuses(in_order, wanted, within.limit)
        found = {number: status for number, status in ended if number not in live}
        found |= await self._slices.run(making)
        answer = _fill_page(found, newest_first=request.newest_first, limit=limit)
        if request.include_counts and not request.page_token:
            answer.num_unfinished, answer.num_ended = await self._count(wanted)
        return answer

    def _read_ended(self, wanted: JobFilter, within: Range) -> list[tuple[int, cluster_pb2.JobStatus]]:
        """Return the messages of ended jobs with their numbers. This method runs in a thread."""
        records = self._store.read(partial(read_page, wanted=wanted, within=within))
        return [(record.number, messages.job_status(record)) for record in records]

    def _live_statuses(
        self, records: Sequence[JobRecord], wanted: JobFilter, limit: int
    ) -> Steps[dict[int, cluster_pb2.JobStatus]]:
        """Make the messages of the first `limit` records that match, by number."""
        found: dict[int, cluster_pb2.JobStatus] = {}
        for record in records:
            if len(found) == limit:
                break
            shown = self._saver.shown(record)
            if wanted.matches(shown.job):
                found[record.number] = messages.job_status(shown)
            yield
        return found

    async def _count(self, wanted: JobFilter) -> tuple[int, int]:
        """Return how many unfinished and how many ended jobs match a filter."""
        num_ended = 0
        for _ in range(_COUNT_TRIES):
            before = self._jobs.count()
            if wanted.accepts_all:
                num_ended = before[1]
            else:
                num_ended = await self._stored_jobs.run(self._store.read, partial(count_jobs, wanted=wanted))
            if before[1] == self._jobs.count()[1]:
                break  # No job has ended during the count, so no job is missing from it.
        shown = [self._saver.shown(record).job for record in self._jobs.open_jobs()]
        states = [job.is_finished for job in shown if wanted.matches(job)]
        return states.count(False), num_ended + states.count(True)

    async def get_task_status(self, job_id: str, task_index: int, *, include_result: bool) -> cluster_pb2.TaskStatus:
        """Return one task, with its result if the request asks for the result."""
        record = await self._jobs.find(job_id)
        record.check_index(task_index)

        async def make() -> cluster_pb2.TaskStatus:
            return self._task_status(record, task_index)

        answer = await self._saved_answer(make)
        if include_result:
            add_outcome(answer, await self._stored_jobs.run(self._store.result, job_id, task_index))
            await explain_dropped_results(record, [answer], self._stored_jobs, self._store)
        return answer

    async def list_tasks(self, job_id: str, page_size: int, page_token: str) -> Page[cluster_pb2.TaskStatus]:
        """Return a page of the tasks of a job, in index order."""
        record = await self._jobs.find(job_id)
        return await self._saved_answer(
            lambda: self._slices.run(
                cut_page(
                    "tasks",
                    len(record.job.tasks),
                    lambda index: self._task_status(record, index),
                    page_size=page_size,
                    page_token=page_token,
                )
            )
        )

    async def _saved_answer(self, make: Callable[[], Awaitable[T]]) -> T:
        """Return an answer that shows only saved changes.

        Args:
            make: Makes the answer from the job states that `Saver.shown` returns. If such a state could not be saved,
                `make` is called a second time. By that time, `Saver.shown` returns the last saved state.
        """
        while True:
            answer = await make()
            if await self._saver.settled():
                return answer

    async def _job_alone(self, record: JobRecord) -> cluster_pb2.Controller.GetJobStatusResponse:
        return cluster_pb2.Controller.GetJobStatusResponse(job=messages.job_status(self._saver.shown(record)))

    async def _job_with_tasks(self, record: JobRecord) -> cluster_pb2.Controller.GetJobStatusResponse:
        job = await self._slices.run(messages.job_with_tasks(self._saver.shown(record)))
        answer = cluster_pb2.Controller.GetJobStatusResponse(job=job)
        fitting = await self._slices.run(self._fitting_tasks(answer.job))
        if fitting < len(answer.job.tasks):
            del answer.job.tasks[fitting:]
            answer.next_page_token = page_token_of("tasks", fitting)
        return answer

    def _fitting_tasks(self, job: cluster_pb2.JobStatus) -> Steps[int]:
        """Update the worker addresses in the tasks of an answer, and return how many tasks fit into one page."""
        left = PAGE_BYTES
        for number, task in enumerate(job.tasks):
            left -= self._update_addresses(task).ByteSize()
            if left < 0 and number:
                return number
            yield
        return len(job.tasks)

    def _task_status(self, record: JobRecord, task_index: int) -> cluster_pb2.TaskStatus:
        return self._update_addresses(messages.task_status(self._saver.shown(record), task_index))

    def _update_addresses(self, task: cluster_pb2.TaskStatus) -> cluster_pb2.TaskStatus:
        """Set the worker address of each attempt to the worker's current address. A restarted worker may have a new
        address, and still serves the logs of its earlier attempts.
        """
        for attempt in task.attempts:
            worker = self._workers.get(attempt.worker_id)
            if worker is not None:
                attempt.worker_address = task.worker_address = worker.identity.address
        return task


def _filter_of(request: ListJobsRequest) -> JobFilter:
    """Return the conditions of a request.

    Raises:
        InvalidArgumentError: A state or a time is invalid.
    """
    for state in request.states:
        if not state or state not in STATE_NAMES:
            raise InvalidArgumentError(f"states must be numbers of job states, 1 to 8, got {state}")
    for name, value in (("since_ms", request.since_ms), ("until_ms", request.until_ms)):
        check_whole_number(name, value, most=MAX_INT64)
    return JobFilter(request.id_prefix, frozenset(request.states), request.owner, request.since_ms, request.until_ms)


def _page_start(request: ListJobsRequest, last_number: int) -> tuple[int, int]:
    """Return the number with which the requested page begins, and the largest number of jobs on the page.

    Args:
        request: The request.
        last_number: The number of the newest job.

    Raises:
        InvalidArgumentError: The page size or the page token is invalid.
    """
    check_whole_number("page_size", request.page_size, most=MAX_INT32)
    limit = min(request.page_size or LONGEST_PAGE, LONGEST_PAGE)
    if not request.page_token:
        return (last_number if request.newest_first else 1), limit
    return number_in(_LIST, request.page_token, last_number), limit


def _fill_page(found: Mapping[int, cluster_pb2.JobStatus], *, newest_first: bool, limit: int) -> ListJobsResponse:
    """Return the first jobs of a list as a page.

    Args:
        found: The messages of jobs by number. If further pages follow, `found` has more than `limit` jobs.
        newest_first: Whether the highest number comes first.
        limit: The largest number of jobs on the page.
    """
    answer = ListJobsResponse()
    size = 0
    for number in sorted(found, reverse=newest_first):
        size += found[number].ByteSize()
        if len(answer.jobs) == limit or (answer.jobs and size > PAGE_BYTES):
            answer.next_page_token = page_token_of(_LIST, number)
            break
        answer.jobs.append(found[number])
    return answer
