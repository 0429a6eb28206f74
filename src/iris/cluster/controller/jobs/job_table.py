"""All jobs of the cluster, by id and in the order of their submission."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.types import parse_task_id
from iris.errors import InvalidArgumentError, NotFoundError, quoted
from iris.reasons import ErrorReason


class JobTable:
    """The saved jobs of a cluster.

    The controller adds a job to the table once the job is saved, and marks the job as concluded once the job's end is
    saved. All other code only reads the table.

    Attributes:
        by_id: A read-only view of all jobs by id. The view follows every change.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, JobRecord] = {}
        self._in_order: list[JobRecord] = []
        self._open: dict[str, JobRecord] = {}
        self._children: dict[str, list[JobRecord]] = {}
        self.by_id: Mapping[str, JobRecord] = MappingProxyType(self._by_id)

    def __len__(self) -> int:
        return len(self._in_order)

    def add(self, record: JobRecord) -> None:
        """Add a job. A job that has ended counts as concluded."""
        job_id = record.job_id
        self._by_id[job_id] = record
        self._in_order.append(record)
        if not record.job.is_finished:
            self._open[job_id] = record
        if record.job.parent_job_id:
            self._children.setdefault(record.job.parent_job_id, []).append(record)

    def conclude(self, record: JobRecord) -> None:
        """Mark a job as concluded, because its final state is saved."""
        self._open.pop(record.job_id, None)

    def is_concluded(self, record: JobRecord) -> bool:
        """Return whether the job's final state is saved."""
        return record.job_id not in self._open

    def get(self, job_id: str) -> JobRecord | None:
        """Return a job; None if there is no job with this id."""
        return self._by_id.get(job_id)

    def find(self, job_id: str) -> JobRecord:
        """Return a job.

        Raises:
            NotFoundError: There is no job with this id.
        """
        record = self._by_id.get(job_id)
        if record is None:
            raise NotFoundError(
                f"no job named {quoted(job_id)}{self._hint(job_id)}" if job_id else "a job id must not be empty",
                reason=ErrorReason.JOB_NOT_FOUND,
                metadata={"job_id": job_id},
            )
        return record

    def at(self, number: int) -> JobRecord:
        """Return the job at a position in the order of submission, counted from 0."""
        return self._in_order[number]

    def open_jobs(self) -> list[JobRecord]:
        """Return the jobs that are not concluded."""
        return list(self._open.values())

    def open_children(self, parent_job_id: str) -> list[JobRecord]:
        """Return the child jobs of a job that have not ended."""
        children = [child for child in self._children.get(parent_job_id, ()) if not child.job.is_finished]
        if children:
            self._children[parent_job_id] = children
        else:
            self._children.pop(parent_job_id, None)
        return children

    def count(self) -> tuple[int, int]:
        """Return the number of jobs that are not concluded, and the number of concluded jobs."""
        return len(self._open), len(self._in_order) - len(self._open)

    def task_count(self, job_id: str) -> int:
        """Return how many tasks a job has; 0 if there is no job with this id."""
        record = self._by_id.get(job_id)
        return 0 if record is None else len(record.job.tasks)

    def is_attempt_live(self, job_id: str, task_index: int, attempt_id: int) -> bool:
        """Return whether an attempt has not ended yet."""
        record = self._by_id.get(job_id)
        if record is None or not 0 <= task_index < len(record.job.tasks):
            return False
        return record.job.is_attempt_live(task_index, attempt_id)

    def _hint(self, name: str) -> str:
        """Return a hint for the error about an unknown job id. The hint is empty unless the id is the id of a task."""
        try:
            job_id, task_index = parse_task_id(name)
        except InvalidArgumentError:
            return ""
        return f": that is task {task_index} of job {quoted(job_id)}" if job_id in self._by_id else ""
