"""Makes the labels of lines from several jobs, and numbers the tasks of several jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from iris.client import LogEntry


class NumberedEntry(NamedTuple):
    """A line of a task, with a task number that no task of another job has."""

    data: bytes
    task_index: int
    attempt_id: int
    source: str
    partial: bool


class JobLabels:
    """The labels of the tasks of several jobs.

    A job with one task has its id as the label. A job with several tasks has a label for each task, such as
    `train/task-2`. All labels have the same width.

    Args:
        counts: The number of tasks of each job, by job id.
        indices: The indices of the shown tasks of each job, by job id.
    """

    def __init__(self, counts: Mapping[str, int], indices: Mapping[str, Sequence[int]]) -> None:
        self._counts = dict(counts)
        # For each job, the number that its first task has among the tasks of all jobs.
        self._first = dict(zip(counts, accumulate(counts.values(), initial=0), strict=False))
        names = (self._name(job_id, index) for job_id in counts for index in indices[job_id])
        self._width = max(map(len, names), default=0)

    def add_job(self, job_id: str, num_tasks: int) -> None:
        """Add a job, unless it is known. If the new job has long labels, all later labels become wider."""
        if job_id not in self._counts:
            self._first[job_id] = sum(self._counts.values())
            self._counts[job_id] = num_tasks
            self._width = max(self._width, len(self._name(job_id, num_tasks - 1)))

    def label(self, job_id: str, task_index: int) -> str:
        """Return the label of a task, padded to the width of all labels."""
        return self._name(job_id, task_index).ljust(self._width) + " |"

    def number(self, job_id: str, task_index: int) -> int:
        """Return a number that no other task of the shown jobs has."""
        return self._first[job_id] + task_index

    def numbered(self, entries: Sequence[LogEntry]) -> list[NumberedEntry]:
        """Return the lines of one task with the task's number instead of its index."""
        first = entries[0]
        number = self.number(first.job_id, first.task_index)
        return [NumberedEntry(entry.data, number, entry.attempt_id, entry.source, entry.partial) for entry in entries]

    def _name(self, job_id: str, task_index: int) -> str:
        return job_id if self._counts[job_id] == 1 else f"{job_id}/task-{task_index}"
