"""Stores which machines and devices the engine has assigned to each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iris.cluster.engine.base import Slot


class SlotTable:
    """The slots of all placed tasks. Only the scheduler changes this table."""

    def __init__(self) -> None:
        self._by_job: dict[str, dict[int, Slot]] = {}

    def assign(self, job_id: str, task_indices: Sequence[int], slots: Sequence[Slot]) -> None:
        """Store the slots of some tasks of a job. `slots` has one slot for each task index."""
        self._by_job.setdefault(job_id, {}).update(zip(task_indices, slots, strict=True))

    def forget_job(self, job_id: str) -> None:
        """Remove the slots of a job that has ended."""
        self._by_job.pop(job_id, None)

    def of_job(self, job_id: str) -> Mapping[int, Slot]:
        """Return the slots of a job, by task index. The result has no entry for a task that was never placed."""
        return self._by_job.get(job_id, {})
