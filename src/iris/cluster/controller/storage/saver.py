"""Writes changes of the controller's state to the store in batches, with one fsync for each batch. The saver reports
each written batch to the controller.

The state in memory changes at once, on the controller's loop. Answers, messages to watchers and calls to workers are
sent only after the change is saved.

An example of the loop and the writing thread over time:
    loop:    change, change ──► batch 1 │ change, change, change ──► batch 2 │ …
    thread:                     write, fsync ──────────────────────► write, fsync
    loop:                              consequences of batch 1               consequences of batch 2

While the thread writes one batch, further changes gather in the next batch. Therefore a busy controller has few fsyncs
with many changes each, and a change on an idle controller waits for one fsync. Only this thread writes to the store.
Other threads may read from the store at the same time (connections.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from iris.cluster.controller.jobs.instructions import Instruction
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_state import Transition
from iris.cluster.controller.metrics.save_tally import SaveTally
from iris.cluster.controller.storage.batch import (
    Batch,
    Gathering,
    JobChange,
    PendingJob,
    PendingLaunch,
    PendingWrite,
    TriedBatch,
    WrittenJob,
)
from iris.cluster.controller.storage.store import Changes, Store
from iris.errors import InternalError, IrisError
from iris.rpc import cluster_pb2

RETRY_S = 1.0
_log = logging.getLogger(__name__)


class SavedJobs(Protocol):
    """The interface through which readers get the saved state of jobs. A reader must not show an unsaved change,
    because a kill of the controller would undo the change.
    """

    def shown(self, record: JobRecord) -> JobRecord:
        """Return the state to show to readers of a job. Right after awaiting `settled`, the returned state is saved,
        and a kill of the controller cannot undo it.
        """
        ...

    async def settled(self) -> bool:
        """Wait until all earlier changes are saved. Return False if an attempt to save them has failed."""
        ...


class Journal(Protocol):
    """Makes events from changes of jobs, and stores the events in the same transactions as the changes."""

    @property
    def has_unsaved(self) -> bool:
        """Whether events wait to be stored."""

    def add(self, event: cluster_pb2.Controller.Event) -> None:
        """Add an event that the next transaction stores."""

    async def begin_write(self, changes: Changes, launched: Sequence[Job], changed: Iterable[Job]) -> None:
        """Add the rows of all new events to a transaction, including events about the given new and changed jobs."""

    def end_write(self, *, is_saved: bool) -> Mapping[str, Sequence[Transition]]:
        """Publish the events of the last transaction if it is saved. Otherwise, keep the events for the next
        transaction.

        Returns:
            The saved changes of states, by job id. The mapping is empty if the transaction is not saved.
        """


class Saver(Gathering):
    """Saves the controller's changes. The controller iterates over `batches`, and carries out the consequences of each
    batch.

    Args:
        store: The database of the controller. Only the saver writes to it while the saver runs.
        journal: The object that makes and stores the events about the changes; None makes no events.

    Attributes:
        tally: The object that counts the written batches.
    """

    def __init__(self, store: Store, journal: Journal | None = None) -> None:
        super().__init__()
        self.tally = SaveTally()
        self._store = store
        self._journal = journal
        # The changes of the states of jobs and tasks in the batch that was just saved, by job id.
        self._saved_transitions: Mapping[str, Sequence[Transition]] = {}
        self._last_number = store.last_number()
        # The changes of each job, by job id. A job whose final state is saved has no entry.
        self._pending: dict[str, PendingJob] = {}
        self._launches: dict[str, PendingLaunch] = {}
        self._thread = ThreadPoolExecutor(1, "iris-store")
        self._write_task: asyncio.Task[IrisError | None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Write the remaining changes, if possible, and stop using the store. The caller must end the iteration over
        `batches` before this call.
        """
        self._stop_retry()
        if self._write_task is not None:
            await self._write_task
        if not self._gathering.is_empty or self._has_events:
            await self._write(self._gathering)
        self._thread.shutdown()

    # The methods below record changes, and return at once. Call `saved` to wait for the disk.

    def adopt(self, record: JobRecord) -> None:
        """Begin to track the changes of a job that was loaded from the store."""
        if not record.job.is_finished:
            self._pending_of(record)

    def job_changed(
        self,
        record: JobRecord,
        instructions: Iterable[Instruction] = (),
        results: Iterable[tuple[int, bytes]] = (),
    ) -> None:
        """Save a changed job. After the write, the job's instructions are reported to the controller.

        If the job cannot be saved, for example on a full disk, the saver tries again every second. Until the job is
        saved, watchers get no message, and callers of `saved` get the error.

        Args:
            record: The record of the job.
            instructions: The instructions to carry out once the job is saved.
            results: The new results of tasks, as pairs of task index and outcome.
        """
        pending = self._pending_of(record)
        pending.instructions += instructions
        pending.results += results
        self._gathering.jobs[record.job_id] = pending
        self._wake.set()

    def add_event(self, event: cluster_pb2.Controller.Event) -> None:
        """Store an event that belongs to no change of a job."""
        if self._journal is not None:
            self._journal.add(event)
            # A failed write causes events. These events must not start another write at once, because a full disk would
            # then keep the loop busy.
            if self._retry is None:
                self._wake.set()

    def reason_changed(self, record: JobRecord) -> None:
        """Record that only the reason why the job waits has changed. This change is not saved. Reasons are not stored,
        because the scheduler finds the reasons again after a restart. Watchers still get the new reason.
        """
        pending = self._pending.get(record.job_id)
        if pending is not None and pending.saved_revision == record.job.revision - 1:
            pending.saved_revision = record.job.revision

    @property
    def last_number(self) -> int:
        """The number of the newest job, which may not be saved yet; 0 if there was no job."""
        return self._last_number

    def next_number(self) -> int:
        """Return the number of a new job. The caller must pass the job to `add_job` before the next await, so that jobs
        are saved in the order of their numbers.
        """
        self._last_number += 1
        return self._last_number

    # Waiting and reading.

    async def add_job(
        self, record: JobRecord, bundle: bytes, instructions: Iterable[Instruction] = (), inputs: bytes = b""
    ) -> None:
        """Save a new job. After the write, the job's instructions are reported to the controller.

        Raises:
            IrisError: The job could not be saved. The saver does not try again to save a new job.
        """
        pending = PendingJob(record, 0, 0, list(instructions))
        launch = PendingLaunch(pending, bundle, asyncio.get_running_loop().create_future(), inputs)
        self._launches[record.job_id] = launch
        self._gathering.launches.append(launch)
        self._wake.set()
        error = await asyncio.shield(launch.outcome)
        if error is not None:
            raise error.with_traceback(None)

    async def write_once(self, add: Callable[[Changes], object]) -> None:
        """Save changes for which this class has no special method. After an error, the saver does not try again.

        Args:
            add: A function that adds the rows to write. The function is called on the loop, at the latest when the
                batch is written.

        Raises:
            IrisError: The changes could not be saved.
        """
        write = PendingWrite(add, asyncio.get_running_loop().create_future())
        self._gathering.writes.append(write)
        self._wake.set()
        error = await asyncio.shield(write.outcome)
        if error is not None:
            raise error.with_traceback(None)

    async def until_launched(self, job_id: str) -> None:
        """If a new job with this id is not saved yet, wait until the job is saved or refused."""
        while (launch := self._launches.get(job_id)) is not None:
            await asyncio.shield(launch.outcome)

    async def saved(self) -> None:
        """Wait until all earlier changes are saved.

        Raises:
            IrisError: The changes could not be saved for now. The saver tries again until the changes are saved.
        """
        if not self._gathering.is_empty:
            self._wake.set()
        error = await self._tried()
        if error is not None:
            raise error.with_traceback(None)

    async def settled(self) -> bool:
        """Wait until all earlier changes are saved, or an attempt to save them has failed.

        Returns:
            Whether the changes are saved. If the changes are not saved, a reader must call `shown` again, because
            `shown` now returns the last saved state.
        """
        return await self._tried() is None

    def shown(self, record: JobRecord) -> JobRecord:
        """Return the state to show to readers of a job. Right after awaiting `settled`, the returned state is saved,
        and a kill of the controller cannot undo it.
        """
        pending = self._pending.get(record.job_id)
        # The entry with this id may belong to another job, because an ended job may have been removed, and a later job
        # may have the same id.
        return record if pending is None or pending.record is not record else pending.last_saved or record

    def is_current(self, record: JobRecord) -> bool:
        """Return whether the database has the current state of a job, which may have changed since the last batch."""
        pending = self._pending.get(record.job_id)
        return pending is None or pending.record is not record or not pending.is_unsaved

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
        """Run forever. Write one batch after the other, and yield each batch after trying to write it.

        Callers that wait for a batch get their result only when the caller of this generator asks for the next batch.
        Therefore the controller carries out the consequences of a batch before callers continue.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._gathering.is_empty and not self._has_events:
                continue
            batch, self._gathering = self._gathering, Batch()
            self._writing = batch
            written = [
                WrittenJob(pending, pending.record.job.revision, len(pending.instructions), len(pending.results))
                for pending in batch.jobs.values()
            ]
            error = await self.tally.count(len(batch.jobs) + len(batch.launches), self._write(batch))
            last_saved = {} if error is None else await self._read_last_saved(batch)
            # The batch counts as being written until the controller has carried out its consequences.
            if error is None:
                self._stop_retry()
                yield self._finish(batch, written)
                self._writing = None
                for outcome in batch.refusable():
                    outcome.set_result(None)
                batch.outcome.set_result(None)
            else:
                self._show_last_saved(batch, last_saved, error)
                refused = batch.refusable()
                launches, batch.launches, batch.writes = batch.launches, [], []
                yield self._give_back(batch, launches, error, has_refused=bool(refused))
                self._writing = None
                for outcome in refused:
                    outcome.set_result(error)
                if not refused:
                    batch.outcome.set_result(error)

    async def _write(self, batch: Batch) -> IrisError | None:
        """Write a batch, and return the error, or None after a success. If the caller is cancelled, the write
        continues, and `close` waits for the end of the write. Otherwise `close` would make the next batch while the
        thread is still writing this batch.
        """
        self._write_task = asyncio.create_task(self._write_batch(batch))
        return await asyncio.shield(self._write_task)

    async def _write_batch(self, batch: Batch) -> IrisError | None:
        try:
            changes = batch.changes()
            if self._journal is not None:
                launched = [launch.pending.record.job for launch in batch.launches]
                await self._journal.begin_write(
                    changes, launched, [pending.record.job for pending in batch.jobs.values()]
                )
            if changes.statements:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._store.write, changes)
        except IrisError as error:
            self._end_events(is_saved=False)
            return error
        except Exception as error:  # noqa: BLE001 - A bug in one write must not end the saving of all jobs.
            self._end_events(is_saved=False)
            _log.exception("a batch of changes cannot be saved")
            return InternalError(f"the controller cannot save: {type(error).__name__}: {error}")
        self._end_events(is_saved=True)
        return None

    @property
    def _has_events(self) -> bool:
        return self._journal is not None and self._journal.has_unsaved

    def _stop_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _end_events(self, *, is_saved: bool) -> None:
        if self._journal is not None:
            self._saved_transitions = self._journal.end_write(is_saved=is_saved)

    def _finish(self, batch: Batch, written: Sequence[WrittenJob]) -> TriedBatch:
        """Record that a batch is saved, and return what the controller has to do now."""
        added = [self._finish_launch(launch) for launch in batch.launches]
        return TriedBatch(added, (), [self._finish_change(one) for one in written])

    def _finish_launch(self, launch: PendingLaunch) -> JobChange:
        pending = launch.pending
        record = pending.record
        del self._launches[record.job_id]
        self._pending[record.job_id] = pending
        pending.saved_revision = pending.announced_revision = record.job.revision
        instructions, pending.instructions = pending.instructions, []
        transitions = self._saved_transitions.get(record.job_id, ())
        return JobChange(record, instructions, transitions, is_saved=True, has_news=True)

    def _finish_change(self, written: WrittenJob) -> JobChange:
        pending = written.pending
        pending.last_saved = None
        has_news = written.revision > pending.announced_revision or bool(written.results)
        pending.announced_revision = written.revision
        # If only the reason why a job waits has changed, the change needs no write and counts as saved at once.
        # Therefore the saved revision may be higher than the written revision.
        pending.saved_revision = max(pending.saved_revision, written.revision)
        del pending.results[: written.results]
        instructions = pending.instructions[: written.instructions]
        del pending.instructions[: written.instructions]
        record = pending.record
        if not pending.is_unsaved and record.job.is_finished and not pending.instructions:
            self._pending.pop(record.job_id, None)
        transitions = self._saved_transitions.get(record.job_id, ())
        return JobChange(record, instructions, transitions, is_saved=True, has_news=has_news)

    async def _read_last_saved(self, batch: Batch) -> dict[str, JobRecord]:
        """Return the stored states of the jobs in a failed batch, except jobs whose stored state an earlier call has
        read. If the store cannot be read, the result is empty.
        """
        wanted = [job_id for job_id, pending in batch.jobs.items() if pending.last_saved is None]
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._store.load_jobs, wanted)
        except IrisError:
            _log.exception("the last saved state of jobs cannot be read")
            return {}

    def _show_last_saved(self, batch: Batch, last_saved: Mapping[str, JobRecord], error: IrisError) -> None:
        """After a failed write, make `shown` return the last saved state of each job in the batch. If only the reason
        why a job waits has changed, `shown` still returns the job's newest state, because reasons are not saved.
        """
        for job_id, stored in last_saved.items():
            pending = batch.jobs[job_id]
            if pending.is_unsaved:
                pending.last_saved = JobRecord(
                    stored.job, stored.launch, stored.facts, why_outdated=str(error), number=pending.record.number
                )

    def _give_back(
        self, batch: Batch, launches: Sequence[PendingLaunch], error: IrisError, *, has_refused: bool
    ) -> TriedBatch:
        """Move the changes of a failed batch to the next batch, so that the saver tries again to write them.

        1. If the batch had new jobs, the new jobs are refused, because they may be too large for the disk. The other
           changes are written again at once. Writes that are not repeated are refused in the same way.
        2. Any other batch is written again after `RETRY_S`.
        3. Instructions that stop an attempt for good are carried out before they are saved, because the attempt may be
           filling the disk. Instructions that stop an attempt for a gang's restart wait until the restart is saved.
           Otherwise, after a kill of the controller, the next controller would assume that a user had killed the
           attempt.
        """
        for launch in launches:
            del self._launches[launch.pending.record.job_id]
        refused = [launch.pending.record for launch in launches]
        self._gathering.add_older(batch)
        if has_refused:
            if self._has_events:
                self._wake.set()
            if self._gathering.is_empty:
                # The batch contained only changes that are refused now. Nothing is left to write, and readers never see
                # refused changes.
                batch.outcome.set_result(None)
            else:
                self._gathering.outcome.add_done_callback(lambda done: batch.outcome.set_result(done.result()))
                self._wake.set()
            return TriedBatch(refused=refused)
        _log.warning("changes cannot be saved, trying again in %g s: %s", RETRY_S, error)
        self._stop_retry()
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)
        return TriedBatch(changes=[pending.unsaved_change() for pending in batch.jobs.values()])
