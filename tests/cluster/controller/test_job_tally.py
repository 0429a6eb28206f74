"""The tally of changed jobs: what the metrics count when jobs change."""

from __future__ import annotations

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import AttemptEnd, WorkerIdentity
from iris.cluster.controller.metrics.job_tally import JobTally
from iris.metrics.tallies import Histogram
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2

FAILED, SUCCEEDED = cluster_pb2.TASK_STATE_FAILED, cluster_pb2.TASK_STATE_SUCCEEDED


def place(job: Job, gang_id: str, now_ms: int) -> None:
    gang = job.gangs[gang_id]
    workers = [WorkerIdentity(f"w{index}", "http://w", "0") for index in gang.task_indices]
    job.gang_placed(gang_id, workers, now_ms)


def values(tally: JobTally) -> dict[str, float]:
    """Return all numbers of the tally that are not 0, by name and label. A histogram is its sum."""
    found: dict[str, float] = {}
    for family in tally.families():
        for labels, value in family.samples:
            number = value.total if isinstance(value, Histogram) else value
            if number:
                found[".".join((family.metric.name.removeprefix("iris_"), *labels))] = number
    return found


def test_metrics_count_the_attempts_failures_and_times_of_a_retried_task() -> None:
    job = Job.new("job", 1, 1_000, max_retries_failure=1, retry_pause_ms=0)
    tally = JobTally()
    tally.job_added()
    job.submit()
    place(job, next(iter(job.gangs)), 3_000)
    job.attempt_running(0, 0, 3_500)
    tally.add(job, job.pop_transitions())
    assert values(tally) == {
        "jobs_submitted_total": 1,
        "attempts_started_total": 1,
        "task_placement_seconds": 2.0,
        "task_start_seconds": 2.5,
    }
    job.attempt_ended(0, 0, AttemptEnd(FAILED, 4_000, exit_code=3, failure=FailureCode.EXIT_CODE), 4_000)
    place(job, next(iter(job.gangs)), 5_000)
    job.attempt_running(0, 1, 5_000)
    job.attempt_ended(0, 1, AttemptEnd(SUCCEEDED, 6_000, exit_code=0), 6_000)
    tally.add(job, job.pop_transitions())
    found = values(tally)
    assert found.pop("task_placement_seconds") >= 2.0
    assert found.pop("task_start_seconds") >= 2.5
    assert found == {
        "jobs_submitted_total": 1,
        "jobs_ended_total.succeeded": 1,
        "attempts_started_total": 2,
        "attempts_ended_total.failed": 1,
        "attempts_ended_total.succeeded": 1,
        "attempt_failures_total.exit_code": 1,
        "retries_total.failure": 1,
    }


def test_metrics_count_one_retry_for_each_task_of_a_gang_restarted_after_a_lost_worker() -> None:
    job = Job.new("job", 2, 1_000, retry_pause_ms=0)
    tally = JobTally()
    job.submit()
    place(job, next(iter(job.gangs)), 2_000)
    job.attempts_lost({0: 0}, "lost", 3_000, FailureCode.LEASE_EXPIRED)
    job.attempt_ended(1, 0, AttemptEnd(cluster_pb2.TASK_STATE_KILLED, 3_100), 3_100)
    place(job, next(iter(job.gangs)), 4_000)
    tally.add(job, job.pop_transitions())
    found = values(tally)
    assert found["attempt_failures_total.lease_expired"] == 1
    assert found["retries_total.worker_lost"] == 1
    assert found["retries_total.gang_restart"] == 1
    assert found["attempts_ended_total.worker_failed"] == 1
    assert found["attempts_ended_total.killed"] == 1


def test_wait_of_an_earlier_attempt_is_not_measured_from_a_later_retry_pause() -> None:
    job = Job.new("job", 1, 1_000, max_retries_failure=1, retry_pause_ms=0)
    tally = JobTally()
    job.submit()
    place(job, next(iter(job.gangs)), 3_000)
    job.attempt_ended(0, 0, AttemptEnd(FAILED, 4_000, exit_code=3), 4_000)
    place(job, next(iter(job.gangs)), 9_000)
    tally.add(job, job.pop_transitions())
    # The first attempt has no known begin any more, and the second one waited from the end of its retry pause.
    assert values(tally).get("task_placement_seconds", 0.0) <= 5.0
