"""Derives the state of a job from the states of its tasks, defines the records of state changes, and defines the
conditions under which a job may start after other jobs. The module is pure.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from iris.cluster.controller.jobs.task import (
    BUILDING,
    FAILED,
    KILLED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    UNSCHEDULABLE,
    WORKER_FAILED,
    Task,
)
from iris.cluster.types import state_name
from iris.reasons import FailureCode

EXCEEDED_FAILURES = "Job exceeded max_task_failures"
Why = tuple[str, int]  # A pair of an error text for people and its `FailureCode`.


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision that a job ends, because of the states of its tasks.

    Attributes:
        state: The final state of the job.
        why: The error text of the job, with its code.
        stopped: The error of each task that is stopped, or that never starts.
        first_failed: The index of the task that is reported as the first failed task; None if there is none.
    """

    state: int
    why: Why
    stopped: Why
    first_failed: int | None


def judge(
    ended: Sequence[Task],
    unasked: Task | None,
    tasks: Sequence[Task],
    tally: States,
    max_task_failures: int,
    first_failed: int | None,
) -> Verdict | None:
    """Return how a job ends after the ends of some attempts. Return None if the job continues.

    Args:
        ended: The tasks whose attempts have just ended.
        unasked: A task whose attempt was killed on its worker without a request of the controller; None if there is
            none.
        tasks: All tasks of the job.
        tally: The object that counts the tasks of the job by state.
        max_task_failures: How many tasks may fail before the job fails.
        first_failed: The index of the first task that has failed for good; None if no task has.
    """
    decided = roll_up(tally, max_task_failures)
    if decided == FAILED and first_failed is not None:
        failed = tasks[first_failed]
        exceeded = (EXCEEDED_FAILURES, FailureCode.MAX_TASK_FAILURES)
        return Verdict(FAILED, (failed.error, failed.failure), exceeded, first_failed)
    if decided == WORKER_FAILED:
        lost = next(task for task in ended if task.state == WORKER_FAILED)
        ended_with = (f"Job ended: {lost.error}", FailureCode.JOB_ENDED)
        # The job ends because of the lost task, not because of an earlier failure within `max_task_failures`.
        return Verdict(WORKER_FAILED, (lost.error, lost.failure), ended_with, lost.task_index)
    if unasked is not None:
        error = unasked.error or f"{unasked.task_id} was killed on its worker"
        return Verdict(KILLED, (error, unasked.failure), (f"Job ended: {error}", FailureCode.JOB_ENDED), first_failed)
    return None


def incomplete_rendezvous_texts(culprit: Task, gone: Task) -> tuple[str, str]:
    """Return the error texts of a job with a rendezvous that ends because one task needs a retry, but another task has
    already succeeded.

    Args:
        culprit: The task that needs a retry.
        gone: The task that has succeeded and will not run again.

    Returns:
        The error of `culprit`, and the error of the other tasks.
    """
    own = (
        f"{culprit.error}; it is not tried again, since task {gone.task_index} has succeeded already, and the tasks"
        " of a rendezvous only start together"
    )
    return own, f"Job ended: task {culprit.task_index} cannot be tried again without task {gone.task_index}"


class Condition(enum.StrEnum):
    """The condition that the end of one job must meet before another job may start."""

    SUCCEEDED = "ok"
    ENDED = "any"

    def is_met(self, state: int | None) -> bool:
        """Return whether a job that has ended in a state meets the condition.

        Args:
            state: The final state, or None if the ended job was removed, so that its state is unknown.
        """
        return self is Condition.ENDED or state == SUCCEEDED


def waiting_text(waits_for: Mapping[str, str]) -> str:
    """Return the status message of a job that waits for other jobs. The argument maps job ids to conditions."""
    job_id, condition = next(iter(waits_for.items()))
    what = "end" if condition == Condition.ENDED else "succeed"
    more = f", and for {len(waits_for) - 1} more" if len(waits_for) > 1 else ""
    return f"waiting for job {job_id!r} to {what}{more}"


def failed_dependency_text(job_id: str, state: int | None) -> str:
    """Return the error text of a job that never starts, because another job did not succeed."""
    how = "was removed, and its final state is unknown" if state is None else f"ended as {state_name(state)}"
    return f"not started: job {job_id!r} had to succeed first, but it {how}"


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state from which an event is made: of a job, of an attempt, or of a task without a live attempt.

    Attributes:
        state: The new state of the job, the task or the attempt.
        task_index: The index of the task whose state, or whose attempt's state, has changed; None for a change of the
            job.
        attempt_id: The number of the attempt whose state has changed; None if a task ended without a live attempt.
        will_retry: Whether the attempt has ended and its task waits for another attempt.
    """

    state: int
    task_index: int | None = None
    attempt_id: int | None = None
    will_retry: bool = False


class States(Protocol):
    """The interface for counting the states of a job's tasks. A list of states and a `Tally` both implement it."""

    def count(self, state: int, /) -> int:
        """Return how many tasks are in a state."""

    def __len__(self) -> int: ...


def roll_up(states: States, max_task_failures: int) -> int:
    """Return the state of a job, derived from the states of its tasks. If an event has already decided how the job
    ends, the result does not apply.

    The first rule that applies wins:
    1. The job is FAILED if more than `max_task_failures` tasks have failed, even while other tasks run.
    2. If a task is WORKER_FAILED or UNSCHEDULABLE, the job has the same state as this task.
    3. If all tasks are final, the job is KILLED if a user has ended one of them, and SUCCEEDED otherwise.
    4. If a task is RUNNING, the job is RUNNING.
    5. If a task is BUILDING, the job is BUILDING.
    6. If some tasks have ended and the others wait, the job is RUNNING.
    7. Otherwise the job is PENDING.
    """
    if states.count(FAILED) > max_task_failures:
        return FAILED
    for final in (WORKER_FAILED, UNSCHEDULABLE):
        if states.count(final):
            return final
    if states.count(SUCCEEDED) + states.count(FAILED) + states.count(KILLED) == len(states):
        return KILLED if states.count(KILLED) else SUCCEEDED
    if states.count(RUNNING):
        return RUNNING
    if states.count(BUILDING):
        return BUILDING
    return RUNNING if states.count(PENDING) < len(states) else PENDING


def terminated_tasks_text(tasks: Sequence[Task]) -> str:
    """Return the error text of a job that is KILLED because users have terminated some of its tasks."""
    killed = [task for task in tasks if task.state == KILLED]
    more = f" and {len(killed) - 1} more were" if len(killed) > 1 else " was"
    return f"task {killed[0].task_index}{more} {killed[0].error}"
