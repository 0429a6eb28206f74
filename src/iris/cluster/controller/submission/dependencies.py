"""Reports the ends of jobs to the jobs that wait for them.

A job waits only for jobs that existed when it was submitted. Therefore jobs can never wait for each other in a circle.
The job itself decides what the end of another job means (`Job.dependency_ended`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.submission.request import LaunchJobRequest
from iris.cluster.types import state_name
from iris.errors import NotFoundError
from iris.event_log import log_event
from iris.system.backoff import Backoff
from iris.system.clock import now_ms

# The pauses between the tries to read a job from the database after an error.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_log = logging.getLogger(__name__)


async def unknown_dependency(request: LaunchJobRequest, jobs: JobTable) -> NotFoundError | None:
    """Return the error for a submission that waits for an unknown job, or None if all jobs for which the new job waits
    exist.

    The error about an unknown job is returned and not raised, because a repeated submission gets its first answer
    again, even if a job for which the new job waits was removed meanwhile.
    """
    try:
        for dependency in request.after:
            await jobs.find(dependency.job_id)
    except NotFoundError as error:
        return error
    return None


class Dependencies:
    """The jobs that wait for other jobs.

    Args:
        jobs: The table of all jobs of the cluster.
        saver: The object that saves the changed jobs.
        in_background: A function that starts a coroutine, and does not wait for its end.
    """

    def __init__(
        self, jobs: JobTable, saver: Saver, in_background: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._jobs = jobs
        self._saver = saver
        self._in_background = in_background
        # The jobs that wait, by the id of the job for which they wait. The inner dicts are used as ordered sets.
        self._waiting: dict[str, dict[str, None]] = {}

    def job_added(self, record: JobRecord) -> None:
        """Begin to report the ends of other jobs to a new job, which is already saved. If the new job waits for a job
        that has already ended, report that end, too.
        """
        unknown = []
        for job_id in record.job.waits_for:
            if job_id in self._jobs.by_id:
                self._waiting.setdefault(job_id, {})[record.job_id] = None
            else:
                unknown.append(job_id)
        if unknown:
            self._in_background(self._report_ended(record, unknown))

    def job_ended(self, record: JobRecord) -> None:
        """Report the saved end of a job to the jobs that wait for this job. Stop reporting ends to the ended job
        itself.
        """
        for job_id in record.job.waits_for:
            waiting = self._waiting.get(job_id, {})
            waiting.pop(record.job_id, None)
            if not waiting:
                self._waiting.pop(job_id, None)
        for job_id in self._waiting.pop(record.job_id, {}):
            waiting_job = self._jobs.by_id.get(job_id)
            if waiting_job is not None:
                self._report(waiting_job, record.job_id, record.job.state)

    async def _report_ended(self, record: JobRecord, job_ids: list[str]) -> None:
        """Report the ends of jobs that ended before `record` was added. If a job does not exist any more, it had ended,
        because only ended jobs can be removed.
        """
        for job_id in job_ids:
            other = await self._read(job_id)
            self._report(record, job_id, None if other is None else other.job.state)

    async def _read(self, job_id: str) -> JobRecord | None:
        """Return a job. A failed read is repeated, because the waiting job would otherwise wait forever."""
        pauses = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while True:
            try:
                return await self._jobs.get(job_id)
            except Exception as error:  # noqa: BLE001 - After any exception, the next read may succeed.
                _log.warning("job %s, for which another job waits, cannot be read, trying again: %s", job_id, error)
            await asyncio.sleep(pauses.next_s())

    def _report(self, record: JobRecord, job_id: str, state: int | None) -> None:
        if job_id not in record.job.waits_for or record.job.is_finished:
            return
        log_event(
            _log,
            "job.dependency_ended",
            job_id=record.job_id,
            owner=record.job.owner,
            dependency=job_id,
            state="unknown" if state is None else state_name(state),
        )
        self._saver.job_changed(record, record.job.dependency_ended(job_id, state, now_ms()))
