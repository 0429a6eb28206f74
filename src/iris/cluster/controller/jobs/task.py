"""The state machine of a task and its attempts.

The module is pure: it reads no clock, and uses no socket or database. Each event is a method call with the time as an
argument. When the call returns, the task is in its new state.

The states of a task and their transitions:
                     ┌────────────── retry (budget left, or the gang restarts) ◄──┐
                     ▼                                                            │
    PENDING ──► BUILDING ──► RUNNING ──► end of the attempt ──────────────────────┤
       │                                                                          ▼
       └──► KILLED, UNSCHEDULABLE                    SUCCEEDED, FAILED, KILLED, WORKER_FAILED
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from iris.cluster.controller.jobs.instructions import StopAttempt
from iris.cluster.controller.jobs.retry_rules import (
    ANY_EXIT_CODE,
    DEFAULT_RETRIES_FAILURE,
    DEFAULT_RETRIES_PREEMPTION,
    ExitCodeRules,
    failure_is_retried,
    lost_worker_is_retried,
)
from iris.cluster.types import is_task_finished, make_task_id, state_name
from iris.errors import InternalError
from iris.reasons import FailureCode

PENDING, BUILDING, RUNNING = 1, 2, 3
SUCCEEDED, FAILED, KILLED, WORKER_FAILED, UNSCHEDULABLE = 4, 5, 6, 7, 8


class Stop(enum.Enum):
    """Why an attempt is being stopped."""

    RESTART = "its gang restarts: the task goes on with another attempt"
    TASK = "a user has ended this task"
    END = "its job ends: the task ends with it"


@dataclass(slots=True)
class AttemptEnd:
    """How an attempt ended, according to its worker, or because its worker was lost.

    Attributes:
        state: The final state of the attempt: SUCCEEDED, FAILED, KILLED or WORKER_FAILED.
        finished_at_ms: When the attempt ended, as wall clock time.
        exit_code: The exit code, which is 128+n if signal n killed the process; None if there was no process.
        term_signal: The number of the signal that killed the process; None if no signal killed it.
        error: The error text of the attempt, for people; empty if there was no error.
        result_error: Why the return value of a successful callable is missing; empty if it is not missing.
        out_of_memory: True if the attempt ended because memory ran out.
        failure: The code of `error`, a `FailureCode`.
    """

    state: int
    finished_at_ms: int
    exit_code: int | None = None
    term_signal: int | None = None
    error: str = ""
    result_error: str = ""
    out_of_memory: bool = False
    failure: int = FailureCode.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Identifies one process of a worker by the worker's id, the process's address, and the process's incarnation."""

    worker_id: str
    address: str
    incarnation: str = ""


@dataclass(slots=True)
class TaskAttempt:
    """One execution of a task. The state of an ended attempt is final, even if a retry of the task follows."""

    attempt_id: int
    worker_id: str
    worker_address: str
    worker_incarnation: str = ""
    state: int = BUILDING
    exit_code: int | None = None
    term_signal: int | None = None
    error: str = ""
    # When the attempt got its slot. Records of older releases have no such time, and the value is 0.
    placed_at_ms: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0
    out_of_memory: bool = False
    failure: int = FailureCode.UNSPECIFIED

    @property
    def is_live(self) -> bool:
        """Whether the attempt is live, that is, no event has recorded its end."""
        return not is_task_finished(self.state)

    @property
    def ran_ms(self) -> int:
        """How long the attempt's process ran, in milliseconds; 0 if the process never started or still runs."""
        return self.finished_at_ms - self.started_at_ms if self.started_at_ms and self.finished_at_ms else 0

    @property
    def is_worker_failure(self) -> bool:
        """True if the attempt ended because its worker was lost."""
        return self.state == WORKER_FAILED


@dataclass(slots=True)
class Task:
    """One of the replicas of a job.

    Attributes:
        gang_id: The id of the task's current gang; empty before the task has its first gang.
        failure_count: The number of failed attempts that were charged to the failure budget, `max_retries_failure`.
        preemption_count: The number of lost attempts that were charged to the preemption budget,
            `max_retries_preemption`.
        retries_in_row: How many times in a row the gang was retried (see `retry_pause.py`).
        not_before_ms: The end of the retry pause of a PENDING task, as wall clock time.
        stop: The reason why the task's attempt is being stopped; None if the attempt is not being stopped.
        stop_error: The error that the task gets when the attempt has been stopped.
        stop_failure: The code of `stop_error`, a `FailureCode`.
        failure: The code of `error`, a `FailureCode`.
        revision: The job's revision at the task's last change. Watchers and the store use this number to find changed
            tasks.
    """

    job_id: str
    task_index: int
    max_retries_failure: int = DEFAULT_RETRIES_FAILURE
    max_retries_preemption: int = DEFAULT_RETRIES_PREEMPTION
    state: int = PENDING
    attempts: list[TaskAttempt] = field(default_factory=list)
    gang_id: str = ""
    failure_count: int = 0
    preemption_count: int = 0
    retries_in_row: int = 0
    not_before_ms: int = 0
    exit_code: int | None = None
    term_signal: int | None = None
    error: str = ""
    result_error: str = ""
    started_at_ms: int = 0
    finished_at_ms: int = 0
    stop: Stop | None = None
    stop_error: str = ""
    stop_failure: int = FailureCode.UNSPECIFIED
    failure: int = FailureCode.UNSPECIFIED
    revision: int = 0

    @property
    def task_id(self) -> str:
        """The task's id, `"{job_id}/task-{index}"`."""
        return make_task_id(self.job_id, self.task_index)

    @property
    def is_finished(self) -> bool:
        """True if the task's state is final, so that no event changes it."""
        return is_task_finished(self.state)

    @property
    def live_attempt(self) -> TaskAttempt | None:
        """The task's live attempt; None if no attempt of the task is live."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].is_live else None

    def start_attempt(self, worker: WorkerIdentity, now_ms: int = 0) -> TaskAttempt:
        """PENDING → BUILDING: create and return a new attempt, because the gang has its allocation.

        Raises:
            InternalError: The task is not PENDING.
        """
        if self.state != PENDING or self.live_attempt is not None:
            raise InternalError(
                f"task {self.task_id} must be PENDING to start an attempt, but is {state_name(self.state)}"
            )
        attempt = TaskAttempt(len(self.attempts), worker.worker_id, worker.address, worker.incarnation)
        attempt.placed_at_ms = now_ms
        self.attempts.append(attempt)
        self.state = BUILDING
        self.exit_code = self.term_signal = None
        self.error = ""
        self.failure = FailureCode.UNSPECIFIED
        self.finished_at_ms = 0
        return attempt

    def attempt_is_running(self, attempt_id: int, started_at_ms: int) -> bool:
        """BUILDING → RUNNING: record that the attempt's process runs. Return False if the attempt was already RUNNING
        or has ended.
        """
        attempt = self.live_attempt
        if attempt is None or attempt.attempt_id != attempt_id or attempt.state != BUILDING:
            return False
        attempt.state = self.state = RUNNING
        attempt.started_at_ms = started_at_ms
        self.started_at_ms = self.started_at_ms or started_at_ms
        return True

    def end_attempt(self, attempt_id: int, end: AttemptEnd, exit_codes: ExitCodeRules = ANY_EXIT_CODE) -> bool:
        """Record the end of an attempt. Afterwards the task is either PENDING, to be retried, or final. Return False if
        the attempt had already ended.

        The first of these rules that applies decides:
        1. A success is final, even if the attempt was being stopped.
        2. If the attempt was being stopped for a restart of its gang, and failed by itself with an exit code in
           `fail_on`, the failure is charged to the failure budget and is final.
        3. An attempt that is being stopped is charged to no budget, even if it failed, because the death of one task
           often makes the other tasks of its gang crash. A task terminated by a user is KILLED, even if its attempt
           failed before the stop arrived.
        4. A failure is charged to the failure budget, and a lost worker to the preemption budget. The task is PENDING
           if the charged budget allows a retry. After a failure, the exit code must allow the retry too.
        5. If an attempt was killed on its worker without a request of the controller, the task is KILLED.

        Args:
            attempt_id: The number of the attempt, from 0.
            end: The outcome of the attempt.
            exit_codes: The exit codes after which the job's tasks are retried.
        """
        attempt = self.live_attempt
        if attempt is None or attempt.attempt_id != attempt_id:
            return False
        attempt.state = end.state
        attempt.exit_code, attempt.term_signal = end.exit_code, end.term_signal
        attempt.error = end.error
        attempt.failure = end.failure
        attempt.out_of_memory = end.out_of_memory
        attempt.finished_at_ms = end.finished_at_ms
        stop, self.stop = self.stop, None

        if end.state == SUCCEEDED:
            self.result_error = end.result_error
            self._finish(SUCCEEDED, end, error="", failure=FailureCode.UNSPECIFIED)
        elif stop is Stop.RESTART and not (end.state == FAILED and exit_codes.forbid_retry(end.exit_code)):
            if end.state == KILLED:
                attempt.failure = FailureCode.GANG_RESTART
            self.state = PENDING
        elif stop is Stop.TASK:
            if end.state == KILLED:
                attempt.failure = self.stop_failure
            self._finish(KILLED, end, error=self.stop_error, failure=self.stop_failure)
        elif stop is Stop.END:
            if end.state == KILLED:
                attempt.failure = self.stop_failure
            if end.state == FAILED:  # The attempt failed before the stop reached the worker, so its own error is kept.
                self._finish(FAILED, end, error=end.error, failure=end.failure)
            else:
                self._finish(KILLED, end, error=self.stop_error, failure=self.stop_failure)
        elif end.state == FAILED:
            self.failure_count += 1
            retry = failure_is_retried(self.failure_count, self.max_retries_failure, end.exit_code, exit_codes)
            self._retry_or_finish(retry, end)
        elif end.state == WORKER_FAILED:
            self.preemption_count += 1
            self._retry_or_finish(lost_worker_is_retried(self.preemption_count, self.max_retries_preemption), end)
        else:
            self._finish(end.state, end, error=end.error, failure=end.failure)
        return True

    def finish_unstarted(self, state: int, error: str, now_ms: int, failure: int = FailureCode.UNSPECIFIED) -> None:
        """PENDING → KILLED or UNSCHEDULABLE: end a task that has no live attempt.

        Raises:
            InternalError: The task is not PENDING.
        """
        if self.state != PENDING:
            raise InternalError(
                f"task {self.task_id} must be PENDING to end without an attempt, but is {state_name(self.state)}"
            )
        self._finish(state, AttemptEnd(state, now_ms), error=error, failure=failure)

    def give_up(self, error: str, failure: int = FailureCode.UNSPECIFIED) -> None:
        """PENDING → the state of the last attempt: end a task that waits for a retry. The task gets no retry, even if
        its retry budget is not used up.

        Raises:
            InternalError: The task is not PENDING, or has had no attempt.
        """
        if self.state != PENDING or not self.attempts:
            raise InternalError(
                f"task {self.task_id} must be PENDING and have had an attempt, but is {state_name(self.state)} after"
                f" {len(self.attempts)} attempts"
            )
        last = self.attempts[-1]
        self._finish(
            last.state,
            AttemptEnd(last.state, last.finished_at_ms, last.exit_code, last.term_signal),
            error=error,
            failure=failure,
        )

    def request_stop(self, why: Stop) -> StopAttempt:
        """Record that the live attempt is being stopped, and return the instruction to stop the attempt.

        Raises:
            InternalError: The task has no live attempt.
        """
        attempt = self.live_attempt
        if attempt is None:
            raise InternalError(
                f"task {self.task_id} has no live attempt to stop, because it is {state_name(self.state)}"
            )
        self.stop = why
        return StopAttempt(self.task_index, attempt.attempt_id, attempt.worker_id)

    def request_final_stop(self, why: Stop, error: str, failure: int) -> list[StopAttempt]:
        """Record that the live attempt is being stopped and that the task gets no retry. Return the instruction to stop
        the attempt. If the attempt is already being stopped, return no instruction, and replace the reason of the stop
        by `why`.

        Args:
            why: The reason of the stop: `Stop.TASK` or `Stop.END`.
            error: The error that the task gets when the attempt has been stopped.
            failure: The code of `error`, a `FailureCode`.
        """
        instructions = [self.request_stop(why)] if self.stop is None else []
        self.stop, self.stop_error, self.stop_failure = why, error, failure
        return instructions

    def _retry_or_finish(self, retry: bool, end: AttemptEnd) -> None:
        if retry:
            self.state = PENDING
            self.failure = end.failure
            self.error = end.error  # The error of the ended attempt stays visible while the task waits for its retry.
        else:
            self._finish(end.state, end, error=end.error, failure=end.failure)

    def _finish(self, state: int, end: AttemptEnd, *, error: str, failure: int) -> None:
        self.state = state
        self.exit_code, self.term_signal = end.exit_code, end.term_signal
        self.error = error
        self.failure = failure
        self.finished_at_ms = end.finished_at_ms
