"""Removes ended jobs and everything that the cluster has stored about them: on request, by age, and by number.

A job is removed in this order, so that a kill of the controller at any point leaves no wrong state:
1. The logs at the log location are removed. If the log location cannot be reached, the job stays, and a sweep copies
   its remaining logs again.
2. The job is removed from the database and the memory.
3. The logs and outputs on this machine are removed. If the controller is killed before this step, the next controller
   removes the outputs, because their job is unknown, and the logs, because of a note on the disk
   (logs/removal/removal_notes.py).
4. The name of the job becomes free, and its workers are called to remove their files. The name was taken until now, so
   that no new job could have logs in the same directories.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from iris.cluster.controller.background import BackgroundTasks
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.logs.removal.job_log_removal import JobLogRemoval
from iris.cluster.controller.outputs.output_store import OutputStore
from iris.cluster.controller.removal.unused_workspaces import UnusedWorkspaces
from iris.cluster.controller.storage.contents import reading as contents
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.controller.workers import dispatch
from iris.cluster.controller.workers.fleet import Fleet
from iris.errors import FailedPreconditionError, InvalidArgumentError, IrisError, quoted
from iris.event_log import log_event
from iris.reasons import ErrorReason
from iris.system.clock import now_for_ages_ms

# The seconds between two searches for jobs to remove.
_SWEEP_S = 60.0
# At most this many old jobs, besides their child jobs, are in memory for their removal at the same time.
_AT_ONCE = 50
# The removal of old jobs pauses after this many failures, because the log location or the database probably cannot be
# used at all.
_MOST_FAILURES = 10
# The answers to this many requests are stored, so that a repeated request gets the same answer.
_ANSWERS = 1000
_LONGEST_REQUEST_ID = 200
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobRetention:
    """How long ended jobs are kept.

    Attributes:
        keep_ms: How long a job is kept after its end, in milliseconds. None keeps all jobs.
        keep_count: How many ended jobs are kept. None sets no limit.
    """

    keep_ms: int | None = None
    keep_count: int | None = None


class JobRemoval:
    """Removes ended jobs.

    Args:
        jobs: The table of all jobs of the cluster.
        store: The database of the controller.
        stored_jobs: The object that reads ended jobs from the database, in its own threads.
        saver: The object that removes the jobs from the database.
        job_logs: The object that removes the logs of jobs; None if no logs are kept.
        fleet: The object that knows all workers of the cluster.
        background: The object that runs the calls to workers, and requested removals.
        workspaces: The object that removes the workspaces that no job uses any more.
        retention: The rules by which ended jobs are removed: their largest age and number.
        now_ms: A function that returns the current time for ages, in milliseconds since the epoch.
        on_removed: Functions that are called with each removed job.
        outputs: The stored outputs; None if no outputs are stored.

    Attributes:
        first_round: The number of the first gang of a new job. This number is not less than the number of gangs of any
            removed job. Therefore no gang has the id of a gang of a removed job with the same name.
    """

    def __init__(
        self,
        jobs: JobTable,
        store: Store,
        stored_jobs: StoredJobs,
        saver: Saver,
        job_logs: JobLogRemoval | None,
        fleet: Fleet,
        background: BackgroundTasks,
        workspaces: UnusedWorkspaces,
        retention: JobRetention,
        now_ms: Callable[[], int] = now_for_ages_ms,
        on_removed: Sequence[Callable[[JobRecord], None]] = (),
        outputs: OutputStore | None = None,
    ) -> None:
        self._outputs = outputs
        self.first_round = store.read(contents.largest_rounds)
        self._jobs = jobs
        self._store = store
        self._stored_jobs = stored_jobs
        self._saver = saver
        self._job_logs = job_logs
        self._fleet = fleet
        self._background = background
        self._workspaces = workspaces
        self._retention = retention
        self._now_ms = now_ms
        self._on_removed = on_removed
        self._lock = asyncio.Lock()  # Holding this lock ensures that only one removal runs at a time.

    async def forget(self, job_id: str, request_id: str = "") -> list[str]:
        """Remove an ended job and its child jobs, and return the ids of the removed jobs. If the caller is cancelled,
        the removal continues. Otherwise a client that leaves could end the removal between two of its steps.

        Args:
            job_id: The id of the job.
            request_id: The id of the request; may be empty. A request with a known id gets the earlier answer again.

        Raises:
            InvalidArgumentError: `request_id` is too long, or an earlier request with this id has removed another job.
            NotFoundError: There is no such job.
            FailedPreconditionError: The job or one of its child jobs has not ended.
            UnavailableError: The log location cannot be reached now, or the controller stops.
        """
        if len(request_id) > _LONGEST_REQUEST_ID:
            raise InvalidArgumentError(
                f"request_id must have at most {_LONGEST_REQUEST_ID} characters, got {len(request_id):,}"
            )
        return await self._background.complete(self._forget(job_id, request_id))

    async def _forget(self, job_id: str, request_id: str) -> list[str]:
        async with self._lock:
            if request_id:
                known = await self._read(partial(contents.jobs_removed_by, request_id=request_id))
                if known is not None:
                    if known[0] != job_id:
                        raise InvalidArgumentError(
                            f"request_id {quoted(request_id)} has already removed another job: choose a new request_id"
                        )
                    return known
            removed = await self._remove(await self._with_children(await self._jobs.find(job_id)), request_id)
        await self._workspaces.remove()
        return removed

    async def run(self) -> None:
        """Run forever. About every minute, remove old jobs."""
        while True:
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - After any exception, the next search may succeed.
                _log.exception("old jobs cannot be removed")
            await asyncio.sleep(_SWEEP_S)

    async def sweep(self) -> None:
        """Remove the ended jobs that are too old, and the oldest ended jobs if there are too many."""
        removed = 0
        while chosen := await self._choose():
            before = removed
            for start in range(0, len(chosen), _AT_ONCE):
                removed += await self._remove_old([ended.job_id for ended in chosen[start : start + _AT_ONCE]])
            if removed == before:
                break  # None of the chosen jobs can be removed now, so this pass ends.
        await self._workspaces.remove()

    async def _choose(self) -> Sequence[contents.EndedJob]:
        retention = self._retention
        if retention.keep_ms is not None:
            before_ms = self._now_ms() - retention.keep_ms
            chosen = await self._read(partial(contents.jobs_that_ended_before, time_ms=before_ms))
            if chosen:
                return chosen
        if retention.keep_count is not None:
            return await self._read(partial(contents.jobs_beyond, count=retention.keep_count))
        return []

    async def _remove_old(self, job_ids: Sequence[str]) -> int:
        """Remove old jobs, except the jobs that cannot be removed now. Return how many jobs were removed."""
        async with self._lock:
            groups: dict[str, list[JobRecord]] = {}
            for job_id in job_ids:
                # A child job of a job in `groups` is skipped, because it is removed together with its parent job.
                is_chosen = any(one.job_id == job_id for group in groups.values() for one in group)
                record = None if is_chosen else await self._jobs.get(job_id)
                if record is None:
                    continue
                with contextlib.suppress(FailedPreconditionError):  # A later search tries again.
                    groups[job_id] = await self._with_children(record)
            removed = await self._try_to_remove(list(groups.values()))
            if removed is None:
                # A job that cannot be removed, for example because of its logs at the log location, must not prevent
                # the removal of other jobs.
                removed, failures = 0, 0
                for group in groups.values():
                    count = await self._try_to_remove([group])
                    removed += count or 0
                    failures += count is None
                    if failures == _MOST_FAILURES:
                        break
            return removed

    async def _try_to_remove(self, groups: Sequence[Sequence[JobRecord]]) -> int | None:
        """Remove jobs with their child jobs, and return how many jobs were removed. Return None if an error prevents
        the removal now.
        """
        records = {one.job_id: one for group in groups for one in group}
        try:
            return len(await self._remove(list(records.values()))) if records else 0
        except IrisError as error:
            _log.warning("old jobs (%s) cannot be removed now: %s", ", ".join(list(records)[:3]), error)
            return None

    async def _with_children(self, record: JobRecord) -> list[JobRecord]:
        """Return a job and all jobs below this job in its job tree.

        Raises:
            FailedPreconditionError: The job or a job below it has not ended.
        """
        self._check_ended(record)
        # An ended job gets no new child jobs, but a child job that was submitted earlier may not be saved yet.
        # Therefore all earlier changes are saved before the child jobs are read.
        await self._saver.settled()
        records = [record, *await self._descendants(record)]
        for one in records:
            self._check_ended(one)
        return records

    async def _remove(self, records: Sequence[JobRecord], request_id: str = "") -> list[str]:
        """Remove ended jobs, and return their ids. The module's docstring explains the order. Unless `request_id` is
        empty, store the answer under this id for a repeated request.
        """
        job_ids = [one.job_id for one in records]
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._jobs.being_removed(job_ids))
            if self._job_logs is not None:
                await stack.enter_async_context(self._job_logs.without_sweeps(records))
            async with self._copies_removed(records):
                self.first_round = max(self.first_round, *(one.job.rounds for one in records))
                await self._saver.write_once(partial(_remove_rows, records=records, request_id=request_id))
            for one in records:
                self._jobs.forget(one)
                for notify in self._on_removed:
                    notify(one)
                log_event(_log, "job.removed", job_id=one.job_id, owner=one.job.owner)
            if self._job_logs is not None:
                await self._job_logs.remove(records)
            if self._outputs is not None:
                await self._outputs.remove_jobs(records)
            unused = await self._read(contents.unused_bundles)
            for one in records:
                bundle_hash = one.launch.bundle_hash
                self._clean_workers(one, bundle_hash if bundle_hash in unused else "")
        return job_ids

    def _copies_removed(self, records: Sequence[JobRecord]) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext() if self._job_logs is None else self._job_logs.copies_removed(records)

    async def _descendants(self, record: JobRecord) -> list[JobRecord]:
        found = []
        for job_id in await self._read(partial(contents.children_of, job_id=record.job_id)):
            child = await self._jobs.get(job_id)
            if child is not None:
                found.append(child)
        return found

    def _check_ended(self, record: JobRecord) -> None:
        if record.job_id not in self._jobs.by_id:
            return
        raise FailedPreconditionError(
            f"job {quoted(record.job_id)} has not ended: end it first with 'iris kill --wait {record.job_id}'",
            reason=ErrorReason.JOB_NOT_ENDED,
            metadata={"job_id": record.job_id},
        )

    def _clean_workers(self, record: JobRecord, bundle_hash: str) -> None:
        worker_ids = {attempt.worker_id for task in record.job.tasks for attempt in task.attempts}
        for worker_id in worker_ids:
            worker = self._fleet.workers.get(worker_id)
            if worker is not None and not worker.is_dead:
                self._background.start(dispatch.forget_job(worker, record.job, bundle_hash, self._fleet.calls))

    async def _read(self, function: Callable[[contents.Database], T]) -> T:
        return await self._stored_jobs.run(self._store.read, function)


def _remove_rows(changes: Changes, records: Sequence[JobRecord], request_id: str) -> None:
    for record in records:
        changes.remove_job(record.number, record.job.rounds)
    if request_id:
        changes.add_removal(request_id, [record.job_id for record in records], _ANSWERS)
