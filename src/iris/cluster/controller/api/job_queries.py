"""Answers the calls that read jobs and tasks. An answer never shows a change that is not saved yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from iris.cluster.controller.api import messages
from iris.cluster.controller.api.job_lists.pages import LIST_NAME, JobPages, PageChoice
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable, removed_meanwhile
from iris.cluster.controller.removal.dropped_results import explain_dropped_results
from iris.cluster.controller.storage.contents.stored_outcome import add_outcome, result_in
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.rpc import cluster_pb2
from iris.rpc.pages import PAGE_BYTES, Page, cut_page, page_token_of
from iris.rpc.serving.steps import Steps

ListJobsRequest = cluster_pb2.Controller.ListJobsRequest
ListJobsResponse = cluster_pb2.Controller.ListJobsResponse

T = TypeVar("T")


class JobQueries:
    """Answers the calls that read jobs and tasks.

    Args:
        jobs: The table of all jobs of the cluster.
        pages: The object that reads pages of the list of jobs.
        stored_jobs: The object that reads ended jobs from the database, in its own threads.
        store: The database, which contains the ended jobs and the results of tasks.
        workers: The workers that have registered, by id.
        saver: The object that returns the last saved state of a job, which readers may see.
        slices: The object that makes large answers in small steps.
    """

    def __init__(
        self,
        jobs: JobTable,
        pages: JobPages,
        stored_jobs: StoredJobs,
        store: Store,
        workers: Mapping[str, WorkerRecord],
        saver: Saver,
        slices: Slices,
    ) -> None:
        self._jobs = jobs
        self._pages = pages
        self._stored_jobs = stored_jobs
        self._store = store
        self._workers = workers
        self._saver = saver
        self._slices = slices

    async def get_job_status(
        self, job_id: str, *, include_result: bool, without_tasks: bool = False
    ) -> cluster_pb2.Controller.GetJobStatusResponse:
        """Return a job with as many of its tasks as fit into one answer. With `without_tasks`, the answer has no tasks.
        With `include_result`, the answer has the result of task 0.
        """
        record = await self._jobs.find(job_id)
        make = self._job_alone if without_tasks else self._job_with_tasks
        answer = await self._saved_answer(lambda: make(record))
        if include_result:
            answer.job.serialized_result = result_in(await self._outcome(record, 0))
            if not answer.job.serialized_result:
                await explain_dropped_results(record, answer.job.tasks[:1], self._stored_jobs, self._store)
        return answer

    async def list_jobs(self, request: cluster_pb2.Controller.ListJobsRequest) -> ListJobsResponse:
        """Return a page of the jobs that match the request, without tasks, in the order of their submission.

        Raises:
            InvalidArgumentError: The page size, the page token or a filter is invalid.
        """
        choice = self._pages.choice(request)
        return await self._saved_answer(lambda: self._list_jobs(request, choice))

    async def _list_jobs(self, request: ListJobsRequest, choice: PageChoice) -> ListJobsResponse:
        found = await self._pages.read(choice)
        answer = _fill_page(found, limit=choice.limit)
        if request.include_counts and not request.page_token:
            answer.num_unfinished, answer.num_ended = await self._pages.count(choice.wanted)
        return answer

    async def get_task_status(self, job_id: str, task_index: int, *, include_result: bool) -> cluster_pb2.TaskStatus:
        """Return one task, with its result if the request asks for the result."""
        record = await self._jobs.find(job_id)
        record.check_index(task_index)

        async def make() -> cluster_pb2.TaskStatus:
            return self._task_status(record, task_index)

        answer = await self._saved_answer(make)
        if include_result:
            add_outcome(answer, await self._outcome(record, task_index))
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

    async def _outcome(self, record: JobRecord, task_index: int) -> bytes:
        outcome = await self._stored_jobs.run(self._store.result, record.number, task_index)
        if outcome is None:
            raise removed_meanwhile(record, what="results")
        return outcome

    async def _saved_answer(self, make: Callable[[], Awaitable[T]]) -> T:
        """Return an answer that shows only saved changes.

        Args:
            make: A function that makes the answer from the job states that `Saver.shown` returns. If such a state could
                not be saved, `make` is called a second time. During the second call, `Saver.shown` returns the last
                saved state.
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


def _fill_page(found: Mapping[int, cluster_pb2.JobStatus], *, limit: int) -> ListJobsResponse:
    """Return a page with as many of the first jobs in `found` as fit.

    Args:
        found: The statuses of jobs by number, in the order of the list. If further pages follow, `found` has more than
            `limit` jobs.
        limit: The largest number of jobs on the page.
    """
    answer = ListJobsResponse()
    size = 0
    for number, status in found.items():
        size += status.ByteSize()
        if len(answer.jobs) == limit or (answer.jobs and size > PAGE_BYTES):
            answer.next_page_token = page_token_of(LIST_NAME, number)
            break
        answer.jobs.append(status)
    return answer
