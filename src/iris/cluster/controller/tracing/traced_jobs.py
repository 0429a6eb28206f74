"""Finds the job that a trace span belongs to, also for a while after the job was removed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.tracing.job_spans import JobTrace

# The removed jobs that are kept have at most this many tasks together. A task takes a few kilobytes.
MAX_KEPT_TASKS = 5000
FoundJob = tuple[Job, JobTrace | None]


class Jobs(Protocol):
    """An object that finds a job by its id."""

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a job; None if there is no job with this id."""


class TracedJobs:
    """The jobs whose spans are sent.

    Args:
        jobs: The object that finds the jobs that are not removed.
        max_kept_tasks: The largest number of tasks of all kept removed jobs together. A single kept job may have more
            tasks.
    """

    def __init__(self, jobs: Jobs, max_kept_tasks: int = MAX_KEPT_TASKS) -> None:
        self._jobs = jobs
        self._max_kept_tasks = max_kept_tasks
        # The kept removed jobs by id, each with the number of the event up to which the job is kept. `_kept_tasks` is
        # the number of tasks of all kept jobs.
        self._removed: OrderedDict[str, tuple[JobRecord, int]] = OrderedDict()
        self._kept_tasks = 0
        # The job that was looked up last. This cache of one job is enough, because the events of one job often follow
        # each other.
        self._last: tuple[str, Job, JobTrace | None] | None = None

    def find_again(self, job_id: str, time_ms: int) -> FoundJob | None:
        """Return the same as `find`, without an await, if the last call of `find` has found this job. Otherwise return
        None.
        """
        last = self._last
        # The times are compared, because a later job may have the id of a removed job.
        if last is None or last[0] != job_id or last[1].submitted_at_ms > time_ms or job_id in self._removed:
            return None
        return last[1], last[2]

    async def find(self, job_id: str, time_ms: int) -> FoundJob | None:
        """Return the job that had the given id at the given time, and the identities of the job's spans. The identities
        are None if the job's spans are not recorded. If the job was removed and is not kept, return None.
        """
        record = await self._jobs.get(job_id)
        # A job that was submitted after `time_ms` is a later job with the same id.
        if record is None or record.job.submitted_at_ms > time_ms:
            record = self._removed[job_id][0] if job_id in self._removed else None
        if record is None or record.job.submitted_at_ms > time_ms:
            return None
        job, launch = record.job, record.launch
        trace = JobTrace(job.job_id, job.submitted_at_ms, launch) if launch.is_traced else None
        self._last = job_id, job, trace
        return job, trace

    def forget_last(self) -> None:
        """Forget the job that the last call of `find` has found, because the job may be removed soon."""
        self._last = None

    def keep(self, record: JobRecord, number: int) -> None:
        """Keep a removed job until the spans of its events are sent.

        Args:
            record: The record of the job.
            number: The number of the newest event. No later event belongs to the job.
        """
        self._forget(record.job_id)
        self._removed[record.job_id] = record, number
        self._kept_tasks += len(record.job.tasks)
        while self._kept_tasks > self._max_kept_tasks and len(self._removed) > 1:
            self._forget(next(iter(self._removed)))

    def release(self, number: int) -> None:
        """Forget each removed job whose last event is handled. All events up to `number` are handled."""
        while self._removed:
            job_id, (_, until) = next(iter(self._removed.items()))
            if until > number:
                return
            self._forget(job_id)

    def _forget(self, job_id: str) -> None:
        record, _ = self._removed.pop(job_id, (None, 0))
        if record is not None:
            self._kept_tasks -= len(record.job.tasks)
