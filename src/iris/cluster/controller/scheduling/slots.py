"""The table of the machines and devices that the engine has assigned to the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iris.cluster.engine.base import Slot


class SlotTable:
    """The slots of the tasks that the engine has placed. Only the scheduler changes the table."""

    def __init__(self) -> None:
        self._by_job: dict[str, dict[int, Slot]] = {}

    def assign(self, job_id: str, task_indices: Sequence[int], slots: Sequence[Slot]) -> None:
        """Store the slots of some tasks of a job, one for each task index."""
        self._by_job.setdefault(job_id, {}).update(zip(task_indices, slots, strict=True))

    def forget_job(self, job_id: str) -> None:
        """Remove the slots of a job that has ended."""
        self._by_job.pop(job_id, None)

    def of_job(self, job_id: str) -> Mapping[int, Slot]:
        """Return the slots of a job by task index; a task that was never placed has none."""
        return self._by_job.get(job_id, {})
