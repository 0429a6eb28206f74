"""Counts what happens to jobs and attempts, for the metrics of the controller. The module is pure."""

from __future__ import annotations

from collections.abc import Iterable

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_state import Transition
from iris.cluster.controller.jobs.task import BUILDING, FAILED, KILLED, RUNNING, SUCCEEDED, WORKER_FAILED, Task
from iris.cluster.states import FINAL_STATES
from iris.cluster.types import state_name
from iris.metrics.definitions import Family, counter, histogram
from iris.metrics.tallies import WAIT_SECONDS, Counts, Histogram
from iris.reasons import FailureCode

SUBMITTED = counter("iris_jobs_submitted_total", "Jobs that were submitted.")
ENDED_JOBS = counter("iris_jobs_ended_total", "Jobs that have ended, by final state.", "state")
STARTED = counter("iris_attempts_started_total", "Attempts that have got a slot.")
ENDED_ATTEMPTS = counter("iris_attempts_ended_total", "Attempts that have ended, by final state.", "state")
FAILURES = counter(
    "iris_attempt_failures_total",
    "Attempts that failed or were lost with their worker, by reason. The reasons are the failure reasons of the API.",
    "reason",
)
RETRIES = counter(
    "iris_retries_total",
    "Attempts that follow an earlier attempt of the same task, by cause: failure (the task failed), worker_lost (its"
    " worker was lost), or gang_restart (another task of its gang is retried).",
    "cause",
)
PLACEMENT = histogram(
    "iris_task_placement_seconds",
    "How long tasks waited for a slot. The time begins with the submission, the end of the jobs that the job waits for,"
    " or the end of the retry pause.",
)
RUNNING_AFTER = histogram(
    "iris_task_start_seconds",
    "How long it took until the processes of tasks were running. The time begins when iris_task_placement_seconds"
    " begins, and includes the preparation of the attempt.",
)
JOB_TALLY_METRICS = (
    SUBMITTED,
    ENDED_JOBS,
    STARTED,
    ENDED_ATTEMPTS,
    FAILURES,
    RETRIES,
    PLACEMENT,
    RUNNING_AFTER,
)


_CAUSES = ("failure", "worker_lost", "gang_restart")


class JobTally:
    """The tally of the saved changes of all jobs since the start of the controller."""

    def __init__(self) -> None:
        self._submitted = 0
        self._started = 0
        self._ended_jobs = Counts(map(_label, sorted(FINAL_STATES)))
        self._ended_attempts = Counts(map(_label, (SUCCEEDED, FAILED, KILLED, WORKER_FAILED)))
        self._failures = Counts(code.name.lower() for code in FailureCode)
        self._retries = Counts(_CAUSES)
        self._placement = Histogram(WAIT_SECONDS)
        self._running = Histogram(WAIT_SECONDS)

    def job_added(self) -> None:
        """Count a new job."""
        self._submitted += 1

    def add(self, job: Job, transitions: Iterable[Transition]) -> None:
        """Count the saved changes of a job."""
        for change in transitions:
            if change.task_index is not None:
                if change.attempt_id is not None:
                    self._add_attempt(job.tasks[change.task_index], change.attempt_id, change.state)
            elif change.state in FINAL_STATES:
                self._ended_jobs.add(_label(change.state))

    def _add_attempt(self, task: Task, attempt_id: int, state: int) -> None:
        attempt = task.attempts[attempt_id]
        if state in FINAL_STATES:
            self._ended_attempts.add(_label(state))
            if state in (FAILED, WORKER_FAILED):
                self._failures.add(FailureCode(attempt.failure).name.lower())
            return
        waits_since_ms = _waits_since_ms(task, attempt_id)
        if state == BUILDING:
            self._started += 1
            if attempt.attempt_id:
                self._retries.add(_cause(task.attempts[attempt.attempt_id - 1].state))
            if attempt.placed_at_ms and waits_since_ms:
                self._placement.add(max(0, attempt.placed_at_ms - waits_since_ms) / 1000)
        elif state == RUNNING and attempt.started_at_ms and waits_since_ms:
            self._running.add(max(0, attempt.started_at_ms - waits_since_ms) / 1000)

    def families(self) -> list[Family]:
        """Return the present values."""
        return [
            SUBMITTED.one(self._submitted),
            ENDED_JOBS.many(self._ended_jobs),
            STARTED.one(self._started),
            ENDED_ATTEMPTS.many(self._ended_attempts),
            FAILURES.many(self._failures),
            RETRIES.many(self._retries),
            PLACEMENT.distribution(self._placement),
            RUNNING_AFTER.distribution(self._running),
        ]


def _waits_since_ms(task: Task, attempt_id: int) -> int:
    """Return the time from which an attempt has waited for its slot, as wall clock time; 0 if it is unknown."""
    if attempt_id == len(task.attempts) - 1:
        return task.not_before_ms
    # The task stores `not_before_ms` for its last attempt only. Therefore an earlier attempt counts as waiting since
    # the end of the attempt before it.
    return task.attempts[attempt_id - 1].finished_at_ms if attempt_id else 0


def _cause(state_before: int) -> str:
    if state_before == FAILED:
        return "failure"
    return "worker_lost" if state_before == WORKER_FAILED else "gang_restart"


def _label(state: int) -> str:
    return state_name(state).lower()
