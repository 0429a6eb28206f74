"""Many clients watch one job. These tests count the messages that are made, never the time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from support.no_ended_jobs import NoEndedJobs

from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.api.watch import JobWatch, JobWatches
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.jobs.task import PENDING, RUNNING, SUCCEEDED, AttemptEnd, WorkerIdentity
from iris.rpc import cluster_pb2 as pb

pytestmark = pytest.mark.anyio

Messages = AsyncGenerator[pb.Controller.WatchJobResponse]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class SavedAtOnce:
    """A saver to which every change is saved at once."""

    def shown(self, record: JobRecord) -> JobRecord:
        return record

    async def settled(self) -> bool:
        return True


class Watched:
    """A job of independent tasks, and the clients that watch it."""

    def __init__(self, tasks: int) -> None:
        self.jobs = JobTable(NoEndedJobs())
        self.record = self._add_job(tasks)
        self.watches = JobWatches(self.jobs, SavedAtOnce(), Slices())
        self.clients: list[Messages] = []

    def _add_job(self, tasks: int) -> JobRecord:
        job = Job.new("job", tasks, 1, coscheduled=False)
        job.submit()
        record = JobRecord(job, pb.Controller.LaunchJobRequest(), [pb.TaskStatus() for _ in job.tasks])
        self.jobs.add(record)
        return record

    def replace_job(self, tasks: int) -> None:
        """Remove the ended job, and add a new job with the same name."""
        self.jobs.forget(self.record)
        self.record = self._add_job(tasks)

    @property
    def watch(self) -> JobWatch:
        return self.watches.of_job(self.record)

    def open(self, *, include_tasks: bool) -> Messages:
        return self.watches.messages(self.record, include_tasks=include_tasks)

    async def come(self, clients: int, *, include_tasks: bool = False) -> list[pb.JobStatus]:
        """Open the streams of some clients, and return their first messages."""
        self.clients = [self.open(include_tasks=include_tasks) for _ in range(clients)]
        return await self.next()

    async def next(self) -> list[pb.JobStatus]:
        """Return the next message of each client."""
        return [message.job for message in await asyncio.gather(*(anext(client) for client in self.clients))]

    async def leave(self) -> None:
        for client in self.clients:
            await client.aclose()

    def start(self, *indices: int) -> None:
        """Start some tasks, with one change for each task."""
        for index in indices:
            self.record.job.gang_placed(f"job@{index}", [WorkerIdentity("w", "http://w")])
            self.record.job.attempt_running(index, 0, 5)
            self.watches.publish(self.record)

    def end(self, *indices: int) -> None:
        for index in indices:
            self.record.job.attempt_ended(index, 0, AttemptEnd(SUCCEEDED, 9, exit_code=0))
            if self.record.job.is_finished:
                self.jobs.conclude(self.record)
            self.watches.publish(self.record)


@pytest.mark.parametrize("include_tasks", [False, True])
async def test_one_message_for_each_job_change_is_sent_once_to_each_of_500_watching_clients(
    include_tasks: bool,
) -> None:
    watched = Watched(5)
    await watched.come(500, include_tasks=include_tasks)
    assert watched.watch.built == 1
    for index in range(4):
        watched.start(index)
        news = await watched.next()
        assert all(job is news[0] for job in news), "the same message"
        assert news[0].tasks_running == index + 1
        assert [task.task_index for task in news[0].tasks] == ([index] if include_tasks else [])
        assert watched.watch.built == index + 2
    await watched.leave()
    assert len(watched.watches) == 0


async def test_job_changes_at_the_same_time_share_one_message() -> None:
    watched = Watched(300)
    await watched.come(10, include_tasks=True)
    watched.start(*range(300))
    news = await watched.next()
    assert [task.state for task in news[0].tasks] == [RUNNING] * 300
    assert watched.watch.built == 2
    await watched.leave()


async def test_message_about_a_job_of_5000_tasks_has_only_the_changed_tasks() -> None:
    watched = Watched(5000)
    (job,) = await watched.come(1, include_tasks=True)
    assert len(job.tasks) == 5000
    watched.start(17, 4711)
    (job,) = await watched.next()
    assert [task.task_index for task in job.tasks] == [17, 4711]
    assert (job.num_tasks, job.tasks_running) == (5000, 2)
    await watched.leave()


async def test_client_that_begins_to_watch_a_running_job_gets_the_current_state_first() -> None:
    watched = Watched(3)
    await watched.come(2, include_tasks=True)
    watched.start(0, 1)
    late = watched.open(include_tasks=True)
    job = (await anext(late)).job
    assert [task.state for task in job.tasks] == [RUNNING, RUNNING, 1]
    await late.aclose()
    await watched.leave()


async def test_slow_watching_client_gets_all_missed_changes_in_one_message() -> None:
    watched = Watched(100)
    watched.clients = [watched.open(include_tasks=True) for _ in range(2)]
    await watched.next()
    slow, fast = watched.clients
    watched.clients = [fast]
    for index in range(60):
        watched.start(index)
        await watched.next()
    made = watched.watch.built
    job = (await anext(slow)).job
    assert [task.task_index for task in job.tasks] == list(range(60)), "one message has all missed changes"
    assert watched.watch.built == made + 1
    watched.clients = [slow, fast]
    await watched.leave()


async def test_end_of_a_watched_job_is_sent_at_once_and_is_the_last_message() -> None:
    watched = Watched(2)
    await watched.come(3)
    watched.start(0, 1)
    watched.end(0, 1)
    news = await watched.next()  # the end did not wait for the message before it
    assert [job.state for job in news] == [pb.JOB_STATE_SUCCEEDED] * 3
    for client in watched.clients:
        with pytest.raises(StopAsyncIteration):
            await anext(client)
    assert len(watched.watches) == 0


async def test_client_that_watches_a_new_job_gets_no_state_of_a_removed_job_with_the_same_name() -> None:
    watched = Watched(1)
    await watched.come(1)
    slow = watched.clients
    watched.start(0)
    watched.end(0)
    watched.replace_job(2)
    (job,) = await watched.come(1)
    assert (job.state, job.num_tasks) == (PENDING, 2)
    watched.start(0)
    (job,) = await watched.next()
    assert job.tasks_running == 1
    await watched.leave()
    assert (await anext(slow[0])).job.state == SUCCEEDED, "the slow client gets the end of the removed job"
    assert [message async for message in slow[0]] == []
    assert len(watched.watches) == 0
