"""Finds the attempts to which the logs on this machine belong, in memory or in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.logs.removal.retention import Known
from iris.cluster.logs.directories import LogDirectories, task_folder
from iris.cluster.types import make_task_id

_UNKNOWN = Known(None)  # The entry of a log whose attempt is not known any more.

_LOGS_OF_A_STEP = 100  # One step computes the names of this many logs, in less than a millisecond.


class LoggedAttempts:
    """The attempts of all jobs, by the names of their logs.

    Args:
        jobs: The table of all jobs of the cluster.
        directories: The log directories on this machine.
    """

    def __init__(self, jobs: JobTable, directories: LogDirectories) -> None:
        self._jobs = jobs
        self._directories = directories
        # The results of earlier searches for logs of ended jobs. An entry is dropped when its log is gone.
        self._ended: dict[str, Known] = {}
        self._removed_jobs = jobs.removed

    async def of_logs(self, names: Collection[str]) -> dict[str, Known]:
        """Return the attempts of the given logs, by name. A log without an attempt is left out. The attempts of
        unfinished jobs are included, whether or not they have a log.
        """
        known = await self.of_unfinished_jobs()
        wanted = set(names).difference(known)
        if self._removed_jobs != self._jobs.removed:
            # The cached results are dropped after the removal of a job, because a new job with the same name has logs
            # with the same names.
            self._removed_jobs = self._jobs.removed
            self._ended.clear()
        self._ended = {name: attempt for name, attempt in self._ended.items() if name in wanted}
        missing = wanted.difference(self._ended)
        if missing:
            self._ended |= dict.fromkeys(missing, _UNKNOWN) | await self._search(missing)
            # `known` already has the attempts of a job that has ended during this search, because the job was
            # unfinished before.
        return known | {name: attempt for name, attempt in self._ended.items() if attempt is not _UNKNOWN}

    async def of_unfinished_jobs(self) -> dict[str, Known]:
        """Return all attempts of the jobs whose end is not saved, by the names of their logs."""
        known: dict[str, Known] = {}
        for record in self._jobs.open_jobs():
            known |= await self._attempts_of(record)
        return known

    async def of_jobs_ended(self, after_ms: int, until_ms: int) -> dict[str, Known]:
        """Return all attempts of the jobs that ended later than `after_ms`, and not later than `until_ms`."""
        known: dict[str, Known] = {}
        async for record in self._jobs.ended.ended_between(after_ms, until_ms):
            known |= await self._attempts_of(record)
        return known

    async def _search(self, names: Iterable[str]) -> dict[str, Known]:
        """Find the attempts to which logs belong. The search goes through all ended jobs, from the newest job on, until
        all logs are found. The name of a log contains only a hash of the task id, so no index of the database leads
        from a log to its job.
        """
        missing, found = set(names), dict[str, Known]()
        folders = {name.rpartition("/")[0] for name in missing}
        async for job_id, tasks, load in self._jobs.ended.newest_first():
            if await _has_folder(job_id, tasks, folders):
                attempts = await self._attempts_of(load())
                found |= {name: attempts[name] for name in missing & attempts.keys()}
                if len(found) == len(missing):
                    break
        return found

    async def _attempts_of(self, record: JobRecord) -> dict[str, Known]:
        """Return all attempts of a job, by the names of their logs. The loop handles other events in between."""
        known: dict[str, Known] = {}
        for task in record.job.tasks:
            for attempt in task.attempts:
                name = self._directories.name(task.task_id, attempt.attempt_id)
                ended_ms = None if attempt.is_live else attempt.finished_at_ms
                known[name] = Known(ended_ms, stored_as(name, record))
                if not len(known) % _LOGS_OF_A_STEP:
                    await asyncio.sleep(0)
        await asyncio.sleep(0)
        return known


async def _has_folder(job_id: str, tasks: int, folders: Collection[str]) -> bool:
    """Return whether one of the given folders belongs to a task of the job."""
    for index in range(tasks):
        if task_folder(make_task_id(job_id, index)) in folders:
            return True
        if not (index + 1) % _LOGS_OF_A_STEP:
            await asyncio.sleep(0)
    return False


def stored_as(name: str, record: JobRecord) -> str:
    """Return the name of a log at the log location. The name contains the time of the job's submission, because the log
    location may have logs of an earlier job with the same name.
    """
    task, _, attempt = name.rpartition("/")
    return f"{task}-{record.job.submitted_at_ms:x}/{attempt}"
