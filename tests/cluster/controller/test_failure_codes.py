"""The codes of failures, as the pure state of a job decides them."""

from __future__ import annotations

import pytest

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import FAILED, KILLED, SUCCEEDED, WORKER_FAILED, AttemptEnd, WorkerIdentity
from iris.reasons import FailureCode

EXITED = AttemptEnd(FAILED, 20, exit_code=1, error="exit code 1", failure=FailureCode.EXIT_CODE)
STOPPED = AttemptEnd(KILLED, 30, error="stopped", failure=FailureCode.STOPPED_ON_WORKER)


def placed_job(replicas: int = 2, **options: int) -> Job:
    """Return a job whose gang was placed."""
    job = Job.new("job", replicas, 10, **options)  # type: ignore[arg-type]
    job.submit()
    place(job)
    return job


def place(job: Job) -> None:
    (gang,) = [gang for gang in job.gangs.values() if not gang.placed]
    job.gang_placed(gang.gang_id, [WorkerIdentity(f"w-{index}", "http://w") for index in gang.task_indices])


def failures(job: Job) -> tuple[int, list[int]]:
    """Return the codes of the job and of its tasks."""
    return job.failure, [task.failure for task in job.tasks]


def test_failed_task_gives_its_failure_code_to_its_job_and_the_code_max_task_failures_to_other_tasks() -> None:
    job = placed_job()
    job.attempt_ended(1, 0, EXITED)
    job.attempt_ended(0, 0, STOPPED)
    assert failures(job) == (FailureCode.EXIT_CODE, [FailureCode.MAX_TASK_FAILURES, FailureCode.EXIT_CODE])
    assert job.tasks[0].attempts[0].failure == FailureCode.MAX_TASK_FAILURES


def test_retried_attempt_keeps_its_failure_code_and_other_attempts_have_the_code_gang_restart() -> None:
    job = placed_job(max_retries_failure=1)
    job.attempt_ended(1, 0, EXITED)
    job.attempt_ended(0, 0, STOPPED)
    assert job.tasks[1].failure == FailureCode.EXIT_CODE, "while it waits: why it is retried"
    place(job)
    assert [task.attempts[0].failure for task in job.tasks] == [FailureCode.GANG_RESTART, FailureCode.EXIT_CODE]
    for index in (0, 1):
        job.attempt_ended(index, 1, AttemptEnd(SUCCEEDED, 40))
    assert failures(job) == (FailureCode.UNSPECIFIED, [FailureCode.UNSPECIFIED] * 2)


@pytest.mark.parametrize("code", [FailureCode.TERMINATED, FailureCode.PARENT_ENDED])
def test_terminated_job_has_the_failure_code_of_its_termination(code: FailureCode) -> None:
    job = placed_job()
    job.terminate("ended", 20, code)
    for index in (0, 1):
        job.attempt_ended(index, 0, STOPPED)
    assert failures(job) == (code, [code, code])


def test_terminated_task_ends_its_gang_and_the_other_tasks_have_the_code_job_ended() -> None:
    job = placed_job()
    job.terminate_task(1, "terminated by a user", 20)
    for index in (0, 1):
        job.attempt_ended(index, 0, STOPPED)
    assert failures(job) == (FailureCode.TERMINATED, [FailureCode.JOB_ENDED, FailureCode.TERMINATED])


def test_lost_worker_without_a_retry_left_ends_the_job_with_the_code_worker_lost() -> None:
    job = placed_job(1, max_retries_preemption=0)
    job.attempts_lost({0: 0}, "worker w-0 was lost", 20)
    assert (job.state, *failures(job)) == (WORKER_FAILED, FailureCode.WORKER_LOST, [FailureCode.WORKER_LOST])


def test_job_timeout_and_a_gang_that_fits_nowhere_have_different_failure_codes() -> None:
    late = placed_job(1)
    late.time_out("too late", 20)
    late.attempt_ended(0, 0, STOPPED)
    assert failures(late) == (FailureCode.JOB_TIMEOUT, [FailureCode.JOB_TIMEOUT])
    large = Job.new("large", 1, 10)
    large.submit()
    large.unschedulable("too large", 20)
    assert failures(large) == (FailureCode.UNPLACEABLE, [FailureCode.UNPLACEABLE])


def test_attempt_stopped_on_its_worker_without_a_request_has_the_failure_code_stopped_on_worker() -> None:
    job = placed_job()
    job.attempt_ended(0, 0, STOPPED)
    job.attempt_ended(1, 0, STOPPED)
    assert failures(job) == (FailureCode.STOPPED_ON_WORKER, [FailureCode.STOPPED_ON_WORKER, FailureCode.JOB_ENDED])
