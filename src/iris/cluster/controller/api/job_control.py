"""Terminates jobs and tasks on a user's request."""

from __future__ import annotations

from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.storage.saver import Saver
from iris.system.clock import now_ms

_ERROR = "terminated by a user"


class JobControl:
    """Answers the calls that terminate jobs and tasks.

    Args:
        jobs: The table of all jobs of the cluster.
        saver: The object that saves the changed jobs.
    """

    def __init__(self, jobs: JobTable, saver: Saver) -> None:
        self._jobs = jobs
        self._saver = saver

    async def terminate_job(self, job_id: str) -> None:
        """Terminate a job, and return once the termination is saved. The job's attempts are stopped afterwards."""
        record = await self._jobs.find(job_id)
        if not self._jobs.is_concluded(record):
            self._saver.job_changed(record, record.job.terminate(_ERROR, now_ms()))
        await self._saver.saved()

    async def terminate_task(self, job_id: str, task_index: int) -> None:
        """Terminate one task, and return once the termination is saved. The task's attempt is stopped afterwards."""
        record = await self._jobs.find(job_id)
        record.check_index(task_index)
        if not self._jobs.is_concluded(record):
            self._saver.job_changed(record, record.job.terminate_task(task_index, _ERROR, now_ms()))
        await self._saver.saved()
