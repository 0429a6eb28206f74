"""Derives the state of a job from the states of its tasks, and defines the records of state changes. The module is
pure.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of a job's state, or of the state of one of its attempts, for the event log.

    Attributes:
        state: The new state.
        task_index: The task of the attempt; None for a change of the job.
        attempt_id: The attempt.
    """

    state: int
    task_index: int | None = None
    attempt_id: int = 0


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
    4. The job is RUNNING if a task runs, BUILDING if a task is built, and RUNNING if some tasks have ended while others
       wait.
    5. Otherwise the job is PENDING.
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
