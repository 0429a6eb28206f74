"""Counts the tasks of a job by state, and remembers in which order they have changed. The module is pure.

A job may have 10,000 tasks, several reports about each task, and hundreds of watchers. Looking at all tasks after each
report, or for each watcher, would be slow. Therefore the classes of this module are updated after each change of a
task.
"""

from __future__ import annotations

from collections.abc import Iterable

from iris.cluster.controller.jobs.task import FAILED, Task
from iris.cluster.types import is_task_finished


class Tally:
    """The number of a job's tasks in each state. Call `recount` after each change of a task. A tally has the methods
    `count` and `__len__`, like a list of the states of all tasks.

    Attributes:
        attempts_failed: The number of failed attempts.
        attempts_lost: The number of attempts that were lost with their worker.
    """

    __slots__ = ("_counts", "_known", "attempts_failed", "attempts_lost")

    def __init__(self, tasks: Iterable[Task]) -> None:
        # The state of each task, and its numbers of failed and lost attempts, at the last call of `recount`.
        self._known: list[tuple[int, int, int]] = []
        self._counts: dict[int, int] = {}
        self.attempts_failed = self.attempts_lost = 0
        for task in tasks:
            self._known.append((0, 0, 0))
            self.recount(task)

    def recount(self, task: Task) -> None:
        """Update the counts for a task that has changed."""
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
        """Return how many tasks are in a state."""
        return self._counts.get(state, 0)

    @property
    def all_finished(self) -> bool:
        """True if the state of every task is final."""
        return not any(count for state, count in self._counts.items() if not is_task_finished(state))

    def __len__(self) -> int:
        return len(self._known)


class ChangedTasks:
    """The changed tasks of a job, in the order of their last changes.

    Args:
        tasks: The tasks of the job. A task whose revision is not 0 has already changed.
    """

    __slots__ = ("_tasks",)

    def __init__(self, tasks: Iterable[Task]) -> None:
        changed = sorted((task for task in tasks if task.revision), key=lambda task: task.revision)
        self._tasks: dict[int, Task] = {task.task_index: task for task in changed}

    def note(self, tasks: Iterable[Task], revision: int) -> None:
        """Set the revision of tasks that have changed. A call must not have a lower revision than an earlier call."""
        for task in tasks:
            task.revision = revision
            self._tasks.pop(task.task_index, None)
            self._tasks[task.task_index] = task

    def since(self, revision: int) -> list[Task]:
        """Return the tasks that have changed after a revision, in the order of their indices."""
        found = []
        for task in reversed(self._tasks.values()):
            if task.revision <= revision:
                break
            found.append(task)
        found.sort(key=lambda task: task.task_index)
        return found
