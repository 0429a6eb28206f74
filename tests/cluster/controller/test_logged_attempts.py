"""The attempts of logs are found in steps, because a job may have 10,000 tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.no_ended_jobs import NoEndedJobs

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.jobs.task import WorkerIdentity
from iris.cluster.controller.logs.logged_attempts import LoggedAttempts
from iris.cluster.logs.directories import LogDirectories
from iris.rpc import cluster_pb2 as pb

pytestmark = pytest.mark.anyio
TASKS = 1000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class OneEndedJob(NoEndedJobs):
    """A database with one ended job."""

    def __init__(self, record: JobRecord) -> None:
        self._record = record

    async def ended_between(self, after_ms: int, until_ms: int) -> AsyncIterator[JobRecord]:
        yield self._record

    async def newest_first(self) -> AsyncIterator[tuple[str, int, Callable[[], JobRecord]]]:
        yield self._record.job_id, len(self._record.job.tasks), lambda: self._record


def job_with_attempts() -> JobRecord:
    job = Job.new("job", TASKS, 1, coscheduled=False)
    job.submit()
    for gang_id in list(job.gangs):
        job.gang_placed(gang_id, [WorkerIdentity("w", "http://w")])
    return JobRecord(job, pb.Controller.LaunchJobRequest(), [pb.TaskStatus() for _ in job.tasks])


async def turns_of_the_loop_during(work: asyncio.Future[object]) -> int:
    turns = 0
    while not work.done():
        turns += 1
        await asyncio.sleep(0)
    return turns


async def test_attempts_of_an_unfinished_job_with_1000_tasks_are_found_in_several_turns_of_the_loop() -> None:
    jobs = JobTable(NoEndedJobs())
    jobs.add(job_with_attempts())
    finding = asyncio.ensure_future(LoggedAttempts(jobs, LogDirectories(Path("logs"))).of_unfinished_jobs())
    assert await turns_of_the_loop_during(finding) >= 10
    assert len(finding.result()) == TASKS


@pytest.mark.parametrize("task", [0, TASKS - 1])
async def test_log_of_an_ended_job_with_1000_tasks_is_found_in_several_turns_of_the_loop(task: int) -> None:
    directories = LogDirectories(Path("logs"))
    attempts = LoggedAttempts(JobTable(OneEndedJob(job_with_attempts())), directories)
    name = directories.name(f"job/task-{task}", 0)
    finding = asyncio.ensure_future(attempts.of_logs([name, "unknown/0"]))
    assert await turns_of_the_loop_during(finding) >= 10
    assert list(finding.result()) == [name]


async def test_attempts_of_an_ended_job_with_1000_tasks_are_found_in_several_turns_of_the_loop() -> None:
    attempts = LoggedAttempts(JobTable(OneEndedJob(job_with_attempts())), LogDirectories(Path("logs")))
    finding = asyncio.ensure_future(attempts.of_jobs_ended(0, 1))
    assert await turns_of_the_loop_during(finding) >= 10
    assert len(finding.result()) == TASKS
