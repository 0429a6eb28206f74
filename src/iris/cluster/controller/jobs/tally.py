"""What is known of all tasks of a job without looking at each of them.

A job of thousands of tasks hears of each of them several times; to count them all each time is what would make it slow.
Pure, like `task` and `job`.
"""

from __future__ import annotations

from collections.abc import Iterable

from iris.cluster.controller.jobs.task import FAILED, Task
from iris.cluster.types import is_task_finished


class Tally:
    """The states of a job's tasks, counted; kept up to date by `recount`. Counts as a list of all states would.

    Attributes:
        attempts_failed: How many attempts have failed.
        attempts_lost: How many were lost with their worker.
    """

    __slots__ = ("_counts", "_known", "attempts_failed", "attempts_lost")

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._known: list[tuple[int, int, int]] = []  # by task index, as it was counted
        self._counts: dict[int, int] = {}
        self.attempts_failed = self.attempts_lost = 0
        for task in tasks:
            self._known.append((0, 0, 0))
            self.recount(task)

    def recount(self, task: Task) -> None:
        """The task has changed."""
        before, failed_before, lost_before = self._known[task.task_index]
        failed = sum(attempt.state == FAILED for attempt in task.attempts)
        lost = sum(attempt.is_worker_failure for attempt in task.attempts)
        self._known[task.task_index] = (task.state, failed, lost)
        if before:
            self._counts[before] -= 1
        self._counts[task.state] = self._counts.get(task.state, 0) + 1
        self.attempts_failed += failed - failed_before
        self.attempts_lost += lost - lost_before

    def count(self, state: int) -> int:
        """How many tasks are in a state."""
        return self._counts.get(state, 0)

    @property
    def all_finished(self) -> bool:
        """Whether the state of every task is final."""
        return not any(count for state, count in self._counts.items() if not is_task_finished(state))

    def __len__(self) -> int:
        return len(self._known)
