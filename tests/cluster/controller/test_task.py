"""The transitions of a task and its attempts, as tables."""

from __future__ import annotations

import pytest

from iris.cluster.controller.jobs.retry_rules import ExitCodeRules
from iris.cluster.controller.jobs.task import (
    BUILDING,
    FAILED,
    KILLED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    UNSCHEDULABLE,
    WORKER_FAILED,
    AttemptEnd,
    Stop,
    Task,
    TaskAttempt,
    WorkerIdentity,
)
from iris.cluster.types import is_task_finished, state_name
from iris.errors import InternalError

PLACE = WorkerIdentity("w0", "http://127.0.0.1:1", "first")


def started(*, retries: int = 0, preemptions: int = 0, stop: Stop | None = None, running: bool = True) -> Task:
    """Return a task with the live attempt 0."""
    task = Task("job", 3, retries, preemptions)
    task.start_attempt(PLACE)
    if running:
        task.attempt_is_running(0, 1000)
    task.stop = stop
    task.stop_error = "stopped for a test" if stop in (Stop.END, Stop.TASK) else ""
    return task


def end(state: int, *, at: int = 2000) -> AttemptEnd:
    return AttemptEnd(state, at, exit_code=143, term_signal=15, error=f"ended {state_name(state)}")


def test_task_of_a_new_job_is_pending() -> None:
    task = Task("parent/job", 3)
    assert task.task_id == "parent/job/task-3"
    assert (task.state, task.is_finished, task.live_attempt, task.attempts) == (PENDING, False, None, [])
    assert (task.max_retries_failure, task.max_retries_preemption) == (0, 100)


def test_out_of_memory_is_charged_to_the_failure_budget() -> None:
    task = started(retries=1)
    assert task.end_attempt(0, AttemptEnd(FAILED, 2000, exit_code=137, term_signal=9, out_of_memory=True))
    assert (task.state, task.failure_count, task.attempts[0].out_of_memory) == (PENDING, 1, True)
    assert not task.start_attempt(PLACE).out_of_memory


@pytest.mark.parametrize(
    ("exit_code", "retry_on", "fail_on", "is_retried"),
    [
        (1, [], [], True),
        (75, [75], [], True),
        (1, [75], [], False),
        (None, [75], [], False),  # The exit code is None because the attempt had no process.
        (2, [], [2], False),
        (1, [], [2], True),
        (None, [], [2], True),
        (75, [75], [2], True),
        (137, [137], [], True),  # SIGKILL
    ],
)
def test_exit_code_decides_whether_a_failure_within_the_budget_is_retried(
    exit_code: int | None, retry_on: list[int], fail_on: list[int], is_retried: bool
) -> None:
    task = started(retries=1)
    end = AttemptEnd(FAILED, 2000, exit_code=exit_code, error="failed")
    assert task.end_attempt(0, end, ExitCodeRules(retry_on, fail_on))
    assert (task.state, task.failure_count) == (PENDING if is_retried else FAILED, 1)


def test_exit_code_in_retry_on_is_not_retried_beyond_the_budget() -> None:
    task = started(retries=0)
    assert task.end_attempt(0, AttemptEnd(FAILED, 2000, exit_code=75, error="failed"), ExitCodeRules([75]))
    assert (task.state, task.error) == (FAILED, "failed")


def test_failure_with_a_code_in_fail_on_is_final_although_the_gang_restarts() -> None:
    for exit_code, state, charged in ((2, FAILED, 1), (1, PENDING, 0)):
        task = started(retries=5)
        task.request_stop(Stop.RESTART)
        end = AttemptEnd(FAILED, 2000, exit_code=exit_code, error="failed")
        assert task.end_attempt(0, end, ExitCodeRules(fail_on=[2]))
        assert (task.state, task.failure_count) == (state, charged)


def test_attempt_passes_through_building_and_running_to_its_end() -> None:
    task = Task("job", 0)
    attempt = task.start_attempt(PLACE)
    assert attempt == TaskAttempt(0, "w0", "http://127.0.0.1:1", "first", state=BUILDING)
    assert task.live_attempt is attempt
    assert task.state == BUILDING
    assert task.attempt_is_running(0, 1000)
    assert (task.state, attempt.state, task.started_at_ms, attempt.started_at_ms) == (RUNNING, RUNNING, 1000, 1000)
    assert task.end_attempt(0, AttemptEnd(SUCCEEDED, 2000, exit_code=0, result_error="a command has no return value"))
    assert (task.state, task.exit_code, task.error) == (SUCCEEDED, 0, "")
    assert (task.result_error, task.finished_at_ms) == ("a command has no return value", 2000)
    assert (attempt.state, attempt.exit_code, attempt.finished_at_ms, attempt.is_live) == (SUCCEEDED, 0, 2000, False)
    assert task.live_attempt is None
    assert task.is_finished


# The end of an attempt, the stop and the budgets, then the state of the task, the charges and the error. The error is
# that of the attempt ("own"), that of the stop ("stop"), or empty.
ENDS = [
    # end, stop, retries, preemptions -> state, failures charged, preemptions charged, error
    (SUCCEEDED, None, 0, 0, SUCCEEDED, 0, 0, ""),
    (SUCCEEDED, Stop.RESTART, 0, 0, SUCCEEDED, 0, 0, ""),  # a success is final, although the attempt was being stopped
    (SUCCEEDED, Stop.END, 0, 0, SUCCEEDED, 0, 0, ""),
    (SUCCEEDED, Stop.TASK, 0, 0, SUCCEEDED, 0, 0, ""),
    (FAILED, None, 0, 0, FAILED, 1, 0, "own"),
    (FAILED, None, 1, 0, PENDING, 1, 0, "own"),
    (FAILED, None, 0, 5, FAILED, 1, 0, "own"),  # the preemption budget does not count
    (FAILED, Stop.RESTART, 0, 0, PENDING, 0, 0, ""),  # the peers of a dead task crash as well
    (FAILED, Stop.END, 5, 5, FAILED, 0, 0, "own"),
    (FAILED, Stop.TASK, 5, 5, KILLED, 0, 0, "stop"),  # the termination by a user is no failure
    (KILLED, None, 5, 5, KILLED, 0, 0, "own"),  # the worker was asked directly
    (KILLED, Stop.RESTART, 0, 0, PENDING, 0, 0, ""),
    (KILLED, Stop.END, 5, 5, KILLED, 0, 0, "stop"),
    (KILLED, Stop.TASK, 5, 5, KILLED, 0, 0, "stop"),
    (WORKER_FAILED, None, 0, 0, WORKER_FAILED, 0, 1, "own"),
    (WORKER_FAILED, None, 0, 1, PENDING, 0, 1, "own"),
    (WORKER_FAILED, None, 5, 0, WORKER_FAILED, 0, 1, "own"),  # a lost worker never spends the failure budget
    (WORKER_FAILED, Stop.RESTART, 0, 0, PENDING, 0, 0, ""),
    (WORKER_FAILED, Stop.END, 5, 5, KILLED, 0, 0, "stop"),
    (WORKER_FAILED, Stop.TASK, 5, 5, KILLED, 0, 0, "stop"),
]


@pytest.mark.parametrize("running", [True, False], ids=["running", "building"])
@pytest.mark.parametrize(("how", "stop", "retries", "preemptions", "state", "failed", "lost", "error"), ENDS)
def test_state_of_a_task_follows_from_the_end_of_its_attempt(
    how: int, stop: Stop | None, retries: int, preemptions: int, state: int, failed: int, lost: int, error: str,
    running: bool,
) -> None:  # fmt: skip
    task = started(retries=retries, preemptions=preemptions, stop=stop, running=running)
    assert task.end_attempt(0, end(how))
    assert state_name(task.state) == state_name(state)
    assert (task.failure_count, task.preemption_count) == (failed, lost)
    assert task.error == {"own": f"ended {state_name(how)}", "stop": "stopped for a test", "": ""}[error]
    assert task.stop is None
    assert task.finished_at_ms == (2000 if is_task_finished(state) else 0)
    (attempt,) = task.attempts
    # The attempt keeps its own end, even if the task is retried.
    assert (attempt.state, attempt.error) == (how, f"ended {state_name(how)}")
    assert (attempt.exit_code, attempt.term_signal, attempt.finished_at_ms) == (143, 15, 2000)
    assert attempt.is_worker_failure is (how == WORKER_FAILED)


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("lost_in_between", [0, 2])
def test_only_failed_attempts_are_charged_to_the_failure_budget(retries: int, lost_in_between: int) -> None:
    task = Task("job", 0, retries, 100)
    for _ in range(lost_in_between):
        attempt = task.start_attempt(PLACE)
        task.end_attempt(attempt.attempt_id, end(WORKER_FAILED))
    for failure in range(retries + 1):
        assert task.state == PENDING
        attempt = task.start_attempt(PLACE)
        assert attempt.attempt_id == lost_in_between + failure
        task.end_attempt(attempt.attempt_id, end(FAILED))
    assert task.state == FAILED
    assert (task.failure_count, task.preemption_count) == (retries + 1, lost_in_between)
    assert len(task.attempts) == retries + 1 + lost_in_between


@pytest.mark.parametrize("preemptions", [0, 1, 4])
def test_attempts_of_lost_workers_are_charged_to_the_preemption_budget(preemptions: int) -> None:
    task = Task("job", 0, 9, preemptions)
    for _ in range(preemptions + 1):
        assert task.state == PENDING
        task.end_attempt(task.start_attempt(PLACE).attempt_id, end(WORKER_FAILED))
    assert (task.state, task.failure_count, task.preemption_count) == (WORKER_FAILED, 0, preemptions + 1)


def test_retry_of_a_task_resets_its_outcome_and_keeps_the_first_start_time() -> None:
    task = started(retries=1)
    task.end_attempt(0, end(FAILED))
    assert (task.state, task.error, task.exit_code) == (PENDING, "ended FAILED", None)
    task.start_attempt(PLACE)
    assert (task.state, task.error, task.exit_code, task.term_signal) == (BUILDING, "", None, None)
    task.attempt_is_running(1, 5000)
    assert (task.started_at_ms, task.attempts[1].started_at_ms) == (1000, 5000)
    task.end_attempt(1, AttemptEnd(SUCCEEDED, 6000, exit_code=0))
    assert (task.state, task.exit_code, task.error) == (SUCCEEDED, 0, "")
    assert [attempt.state for attempt in task.attempts] == [FAILED, SUCCEEDED]


def test_reports_of_other_attempts_do_not_change_a_task() -> None:
    task = started(retries=1)
    assert not task.attempt_is_running(0, 1234)  # repeated
    assert not task.attempt_is_running(1, 1234)  # the attempt does not exist yet
    assert not task.end_attempt(1, end(FAILED))
    assert task.started_at_ms == 1000
    assert task.end_attempt(0, end(FAILED))
    assert not task.end_attempt(0, end(SUCCEEDED))  # no attempt is live
    task.start_attempt(PLACE)
    assert not task.end_attempt(0, end(SUCCEEDED))  # the attempt has ended before
    assert not task.attempt_is_running(0, 1234)
    assert task.state == BUILDING
    assert task.attempts[0].state == FAILED


@pytest.mark.parametrize("state", [SUCCEEDED, FAILED, KILLED, WORKER_FAILED])
def test_final_state_of_a_task_never_changes(state: int) -> None:
    task = started()
    task.end_attempt(0, end(state))
    for other in (SUCCEEDED, FAILED, KILLED, WORKER_FAILED):
        assert not task.end_attempt(0, end(other, at=9000))
    assert not task.attempt_is_running(0, 9000)
    assert (task.state, task.finished_at_ms) == (state, 2000)
    with pytest.raises(InternalError, match="must be PENDING to start an attempt"):
        task.start_attempt(PLACE)
    with pytest.raises(InternalError, match="must be PENDING to end without an attempt"):
        task.finish_unstarted(KILLED, "", 9000)


def test_starting_a_second_live_attempt_raises_internal_error() -> None:
    task = started()
    with pytest.raises(InternalError, match="job/task-3 must be PENDING to start an attempt, but is RUNNING"):
        task.start_attempt(PLACE)


@pytest.mark.parametrize("state", [KILLED, UNSCHEDULABLE])
def test_waiting_task_can_end_without_an_attempt(state: int) -> None:
    task = Task("job", 0)
    task.finish_unstarted(state, "no room", 7000)
    assert (task.state, task.error, task.finished_at_ms, task.attempts) == (state, "no room", 7000, [])
    assert (task.exit_code, task.term_signal) == (None, None)


def test_running_task_cannot_end_without_an_attempt() -> None:
    with pytest.raises(InternalError, match="but is RUNNING"):
        started().finish_unstarted(KILLED, "", 7000)
