"""Writes what has changed into the store, many changes with one fsync, and hands each written batch to the controller.

The rule: whatever leaves the controller waits. The state in memory changes at once, on the controller's loop. Answers,
messages to watchers and calls to workers go out once the change is on the disk.

    loop:    change, change ──► batch 1 │ change, change, change ──► batch 2 │ …
    thread:                     write, fsync ──────────────────────► write, fsync
    loop:                              consequences of batch 1               consequences of batch 2

While one batch is written, the next one gathers. A busy controller therefore needs no more fsyncs than its disk can do,
and an idle one waits for nothing but its own. One thread writes and reads, so the store never has two users at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

from iris.cluster.controller.jobs.instructions import Instruction
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.storage.batch import Batch, JobChange, PendingJob, PendingLaunch, TriedBatch, WrittenJob
from iris.cluster.controller.storage.store import Store, StoredToken
from iris.errors import InternalError, IrisError
from iris.rpc import cluster_pb2

RETRY_S = 1.0
_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class SavedJobs(Protocol):
    """What readers of jobs need: they must not show a change that a killed controller would not remember."""

    def shown(self, record: JobRecord) -> JobRecord:
        """Return the state of a job that readers may see."""
        ...

    async def settled(self) -> bool:
        """Wait until the changes up to now are saved; return False if they could not be saved for now."""
        ...


class Saver:
    """Saves the controller's changes. The controller iterates over `batches` and carries out what each one allows.

    Args:
        store: The store. Nothing else uses it while the saver runs.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: dict[str, PendingJob] = {}  # a finished job whose final state is saved has no entry
        self._launches: dict[str, PendingLaunch] = {}
        self._thread = ThreadPoolExecutor(1, "iris-store")
        self._reading = asyncio.Lock()
        self._wake = asyncio.Event()
        self._gathering = Batch()
        self._writing: Batch | None = None
        self._retry: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Write what is left, if possible, and release the store. The iteration over `batches` has ended."""
        if self._retry is not None:
            self._retry.cancel()
        if not self._gathering.is_empty:
            await self._write(self._gathering)
        self._thread.shutdown()

    # Changes. None of these methods waits; `saved` does.

    def adopt(self, record: JobRecord) -> None:
        """Note a job that was just loaded from the store."""
        if not record.job.is_finished:
            self._pending_of(record)

    def job_changed(
        self,
        record: JobRecord,
        instructions: Iterable[Instruction] = (),
        results: Iterable[tuple[int, bytes]] = (),
    ) -> None:
        """Save a job that has changed, and hand out its instructions afterwards.

        If the job cannot be saved (the disk is full), watchers hear nothing, and the caller that waits for `saved` gets
        the error. The saver tries again every second.

        Args:
            record: The job.
            instructions: What to do once the job is saved.
            results: New results: task index and outcome.
        """
        pending = self._pending_of(record)
        pending.instructions += instructions
        pending.results += results
        self._gathering.jobs[record.job_id] = pending
        self._wake.set()

    def reason_changed(self, record: JobRecord) -> None:
        """Note that only a waiting reason has changed, by one revision, and that this revision needs no saving.

        Reasons are not stored, because the scheduler finds them again after a restart. `job_changed` still announces
        the reason to watchers.
        """
        pending = self._pending.get(record.job_id)
        if pending is not None and pending.saved_revision == record.job.revision - 1:
            pending.saved_revision = record.job.revision

    def endpoint_changed(self, endpoint_id: str, endpoint: cluster_pb2.Controller.Endpoint | None) -> None:
        """Save an endpoint; None removes it."""
        self._gathering.endpoints[endpoint_id] = endpoint
        self._wake.set()

    def fence(self, worker_id: str, incarnation: str) -> None:
        """Save that a worker's process is fenced."""
        self._gathering.fenced[worker_id, incarnation] = True
        self._wake.set()

    def unfence(self, worker_id: str, incarnation: str) -> None:
        """Remove a fence that is too old to matter."""
        self._gathering.fenced[worker_id, incarnation] = False
        self._wake.set()

    def token_changed(self, token_id: str, stored: StoredToken | None) -> None:
        """Save a token that was created or revoked; None removes it."""
        self._gathering.tokens[token_id] = stored
        self._wake.set()

    def lease_changed(self, seconds: float) -> None:
        """Save the longest lease that a worker may have."""
        self._gathering.lease_s = seconds
        self._wake.set()

    # Waiting and reading.

    async def add_job(self, record: JobRecord, bundle: bytes, instructions: Iterable[Instruction] = ()) -> None:
        """Save a new job, and hand out its instructions afterwards.

        Raises:
            IrisError: The job could not be saved, and nobody tries again.
        """
        pending = PendingJob(record, 0, 0, list(instructions))
        launch = PendingLaunch(pending, bundle, asyncio.get_running_loop().create_future())
        self._launches[record.job_id] = launch
        self._gathering.launches.append(launch)
        self._wake.set()
        error = await asyncio.shield(launch.outcome)
        if error is not None:
            raise error.with_traceback(None)

    async def until_launched(self, job_id: str) -> None:
        """Wait until no new job with this id is on its way into the store."""
        while (launch := self._launches.get(job_id)) is not None:
            await asyncio.shield(launch.outcome)

    async def saved(self) -> None:
        """Wait until all changes up to now are saved.

        Raises:
            IrisError: The changes could not be saved for now. The saver tries again until they are.
        """
        if not self._gathering.is_empty:
            self._wake.set()
        error = await self._tried()
        if error is not None:
            raise error.with_traceback(None)

    async def settled(self) -> bool:
        """Wait until the changes up to now are saved, or could not be saved.

        Returns:
            Whether they are saved. If not, a reader has to look again, because `shown` has changed.
        """
        return await self._tried() is None

    def shown(self, record: JobRecord) -> JobRecord:
        """Return the state of a job that readers may see: a controller killed now would still know it afterwards."""
        pending = self._pending.get(record.job_id)
        return record if pending is None else pending.last_saved or record

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a reading method of the store in the store's thread. A write waits for one read at most."""
        async with self._reading:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def _tried(self) -> IrisError | None:
        if not self._gathering.is_empty and self._wake.is_set():
            return await asyncio.shield(self._gathering.outcome)
        if self._writing is not None:
            return await asyncio.shield(self._writing.outcome)
        return None

    def _pending_of(self, record: JobRecord) -> PendingJob:
        pending = self._pending.get(record.job_id)
        if pending is None:
            pending = self._pending[record.job_id] = PendingJob(record, record.job.revision, record.job.revision)
        return pending

    # Writing.

    async def batches(self) -> AsyncGenerator[TriedBatch]:
        """Write batches without end, and yield each one after the attempt to write it.

        Callers that wait for a batch are answered when the iteration goes on, so the consequences come first.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._gathering.is_empty:
                continue
            batch, self._gathering = self._gathering, Batch()
            self._writing = batch
            written = [
                WrittenJob(pending, pending.record.job.revision, len(pending.instructions), len(pending.results))
                for pending in batch.jobs.values()
            ]
            error = await self._write(batch)
            last_saved = {} if error is None else await self._read_last_saved(batch)
            self._writing = None
            if error is None:
                yield self._finish(batch, written)
                for launch in batch.launches:
                    launch.outcome.set_result(None)
                batch.outcome.set_result(None)
            else:
                self._show_last_saved(batch, last_saved, error)
                launches, batch.launches = batch.launches, []
                yield self._give_back(batch, launches, error)
                for launch in launches:
                    launch.outcome.set_result(error)
                if not launches:
                    batch.outcome.set_result(error)

    async def _write(self, batch: Batch) -> IrisError | None:
        try:
            changes = batch.changes()
            if changes.statements:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._store.write, changes)
        except IrisError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a bug, which must not end the saving for all jobs
            _log.exception("a batch of changes cannot be saved")
            return InternalError(f"the controller cannot save: {type(error).__name__}: {error}")
        return None

    def _finish(self, batch: Batch, written: Sequence[WrittenJob]) -> TriedBatch:
        """Note that a batch is saved."""
        added = [self._finish_launch(launch) for launch in batch.launches]
        return TriedBatch(added, (), [self._finish_change(one) for one in written])

    def _finish_launch(self, launch: PendingLaunch) -> JobChange:
        pending = launch.pending
        record = pending.record
        del self._launches[record.job_id]
        self._pending[record.job_id] = pending
        pending.saved_revision = pending.announced_revision = record.job.revision
        instructions, pending.instructions = pending.instructions, []
        return JobChange(record, instructions, is_saved=True, is_current=True, has_news=True)

    def _finish_change(self, written: WrittenJob) -> JobChange:
        pending = written.pending
        pending.last_saved = None
        has_news = written.revision > pending.announced_revision or bool(written.results)
        pending.announced_revision = written.revision
        # The saved revision is already higher if a reason has changed while the batch was written.
        pending.saved_revision = max(pending.saved_revision, written.revision)
        del pending.results[: written.results]
        instructions = pending.instructions[: written.instructions]
        del pending.instructions[: written.instructions]
        record = pending.record
        is_current = not pending.is_unsaved
        if is_current and record.job.is_finished and not pending.instructions:
            self._pending.pop(record.job_id, None)
        return JobChange(record, instructions, is_saved=True, is_current=is_current, has_news=has_news)

    async def _read_last_saved(self, batch: Batch) -> dict[str, JobRecord]:
        """Return what the store has of the jobs of a failed batch, except for jobs of which that is known."""
        wanted = [job_id for job_id, pending in batch.jobs.items() if pending.last_saved is None]
        try:
            return await self.read(self._store.load_jobs, wanted)
        except IrisError:
            _log.exception("the last saved state of jobs cannot be read")
            return {}

    def _show_last_saved(self, batch: Batch, last_saved: Mapping[str, JobRecord], error: IrisError) -> None:
        """Show readers the last saved state of the jobs of a failed batch. A job whose waiting reason alone has changed
        is shown as it is, because reasons need no saving."""
        for job_id, stored in last_saved.items():
            pending = batch.jobs[job_id]
            if pending.is_unsaved:
                pending.last_saved = JobRecord(stored.job, stored.launch, stored.facts, why_outdated=str(error))

    def _give_back(self, batch: Batch, launches: Sequence[PendingLaunch], error: IrisError) -> TriedBatch:
        """Put the changes of a failed batch back, to be tried again.

        1. New jobs are refused. They may be what did not fit, so the rest is tried again at once.
        2. A batch without new jobs is tried again after `RETRY_S`.
        3. Stops for good are handed out nevertheless: they lose nothing, and the stopped attempt may be what fills the
           disk. A stop for a gang's restart waits. If the controller were killed before the restart is saved, the next
           controller would take the end of the attempt for somebody's wish.
        """
        for launch in launches:
            del self._launches[launch.pending.record.job_id]
        refused = [launch.pending.record for launch in launches]
        self._gathering.add_older(batch)
        if launches:
            if self._gathering.is_empty:
                batch.outcome.set_result(None)  # nothing else is left to write, and readers never see a refused job
            else:
                self._gathering.outcome.add_done_callback(lambda done: batch.outcome.set_result(done.result()))
                self._wake.set()
            return TriedBatch(refused=refused)
        _log.warning("changes cannot be saved, trying again in %g s: %s", RETRY_S, error)
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)
        return TriedBatch(changes=[pending.unsaved_change() for pending in batch.jobs.values()])
