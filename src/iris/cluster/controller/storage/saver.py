"""Puts what has changed into the store, many changes with one fsync, and says when it is there.

The rule is: what leaves the controller waits. State changes in memory at once, on the loop; an answer, a message to a
watcher, a call to a worker and whatever else follows from a change goes out when the change is on the disk.

    loop:    change, change ──► batch 1 │ change, change, change ──► batch 2 │ …
    thread:                     write, fsync ──────────────────────► write, fsync
    then:                                     what follows from 1 is done      what follows from 2

While a batch is written the next one gathers, so a busy controller needs no more fsyncs than its disk can do, and an
idle one waits for nothing but its own. One thread writes, and reads: the store is never used by two at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from iris.cluster.controller.jobs.job import Instruction, StopAttempt
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import Stop
from iris.cluster.controller.storage.store import Changes, Store, StoredJob, StoredToken
from iris.errors import InternalError, IrisError
from iris.rpc import cluster_pb2

RETRY_S = 1.0
_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Launch:
    """A job that is new, and who waits for the news that it is kept."""

    record: JobRecord
    bundle: bytes
    outcome: asyncio.Future[IrisError | None]


@dataclass(slots=True)
class _Written:
    """A job in a batch, as it was then: it may have moved on when the batch is on the disk."""

    record: JobRecord
    revision: int
    steps: int
    results: int


@dataclass(slots=True)
class _Batch:
    """What is written together.

    Attributes:
        outcome: An error, or None, once it was tried. A value, never an exception: many may wait for it, or nobody.
    """

    outcome: asyncio.Future[IrisError | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    launches: list[_Launch] = field(default_factory=list)
    records: dict[str, JobRecord] = field(default_factory=dict)
    endpoints: dict[str, cluster_pb2.Controller.Endpoint | None] = field(default_factory=dict)  # None: it went
    fenced: dict[tuple[str, str], bool] = field(default_factory=dict)  # False: not any more
    lease_s: float | None = None
    tokens: dict[str, StoredToken | None] = field(default_factory=dict)  # None: it went

    def take(self, other: _Batch) -> None:
        """Adds what another one could not write. What has changed since then counts."""
        self.records = other.records | self.records
        self.endpoints = other.endpoints | self.endpoints
        self.fenced = other.fenced | self.fenced
        self.tokens = other.tokens | self.tokens
        self.lease_s = other.lease_s if self.lease_s is None else self.lease_s

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.launches or self.records or self.endpoints or self.fenced or self.lease_s or self.tokens)


class Saver:
    """What stands between the controller and its store.

    Args:
        store: The store; nobody else uses it from now on.
        launched: Called once a new job is kept.
        refused: Called once it is known that a new job is not kept, and will not be; whoever waits for it may be gone.
        follow: Called once a change of a job is kept, with what there is to do because of it; and when it cannot be
            kept for now, with what is done nevertheless.
    """

    def __init__(
        self,
        store: Store,
        launched: Callable[[JobRecord], None],
        refused: Callable[[JobRecord], None],
        follow: Callable[[JobRecord, Sequence[Instruction]], None],
    ) -> None:
        self._store = store
        self._launched = launched
        self._refused = refused
        self._follow = follow
        self._launches: dict[str, _Launch] = {}  # that are not in the store yet, by job id
        self._thread = ThreadPoolExecutor(1, "iris-store")
        self._reading = asyncio.Lock()
        self._wake = asyncio.Event()
        self._gathering = _Batch()
        self._writing: _Batch | None = None
        self._retry: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Writes what is left, if it can be written, and lets go of the store. `run` has been cancelled."""
        if self._retry is not None:
            self._retry.cancel()
        if not self._gathering.is_empty:
            await self._write(self._gathering)
        self._thread.shutdown()

    # What is to be kept. None of these waits: see `saved`.

    def job_changed(self, record: JobRecord) -> None:
        """A job has changed, or there is something to do for it."""
        self._gathering.records[record.job.job_id] = record
        self._wake.set()

    def endpoint_changed(self, endpoint_id: str, endpoint: cluster_pb2.Controller.Endpoint | None) -> None:
        """An endpoint has come, or gone."""
        self._gathering.endpoints[endpoint_id] = endpoint
        self._wake.set()

    def fence(self, worker_id: str, incarnation: str) -> None:
        """A worker's process was declared lost."""
        self._gathering.fenced[worker_id, incarnation] = True
        self._wake.set()

    def unfence(self, worker_id: str, incarnation: str) -> None:
        """That was so long ago that it does not matter any more."""
        self._gathering.fenced[worker_id, incarnation] = False
        self._wake.set()

    def token_changed(self, token_id: str, stored: StoredToken | None) -> None:
        """A token was made, or revoked; or nobody needs to know it any more."""
        self._gathering.tokens[token_id] = stored
        self._wake.set()

    def lease_changed(self, seconds: float) -> None:
        """The longest lease that a worker may have is another."""
        self._gathering.lease_s = seconds
        self._wake.set()

    # Waiting.

    async def add_job(self, record: JobRecord, bundle: bytes) -> None:
        """Keeps a new job.

        Raises:
            IrisError: It is not kept, and will not be.
        """
        launch = _Launch(record, bundle, asyncio.get_running_loop().create_future())
        self._launches[record.job.job_id] = launch
        self._gathering.launches.append(launch)
        self._wake.set()
        error = await asyncio.shield(launch.outcome)
        if error is not None:
            raise error.with_traceback(None)

    async def until_launched(self, job_id: str) -> None:
        """Returns when no new job of this name is on its way into the store."""
        while (launch := self._launches.get(job_id)) is not None:
            await asyncio.shield(launch.outcome)

    async def saved(self) -> None:
        """Returns when all that has changed until now is kept.

        Raises:
            IrisError: It is not, for now. It will be tried again, until it is.
        """
        if not self._gathering.is_empty:
            self._wake.set()
        error = await self._tried()
        if error is not None:
            raise error.with_traceback(None)

    async def settled(self) -> bool:
        """As `saved`, for readers, who see a job as `JobRecord.shown` has it.

        Returns:
            Whether what they have seen is kept. Where it could not be saved, they have to look again.
        """
        return await self._tried() is None

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a method of the store that reads. At most one read is before a write that comes now."""
        async with self._reading:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def _tried(self) -> IrisError | None:
        if not self._gathering.is_empty and self._wake.is_set():
            return await asyncio.shield(self._gathering.outcome)
        if self._writing is not None:
            return await asyncio.shield(self._writing.outcome)
        return None

    # The writing.

    async def run(self) -> None:
        """Writes for as long as the controller lives."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._gathering.is_empty:
                continue
            batch, self._gathering = self._gathering, _Batch()
            self._writing = batch
            written = [
                _Written(record, record.job.revision, len(record.to_do), len(record.unsaved_results))
                for record in batch.records.values()
            ]
            error = await self._write(batch)
            kept = {} if error is None else await self._read_kept(batch)
            self._writing = None
            if error is None:
                self._kept(batch, written)
            else:
                self._show_kept(batch, kept, error)
                self._not_kept(batch, error)

    async def _write(self, batch: _Batch) -> IrisError | None:
        try:
            changes = _changes_of(batch)
            if changes.statements:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._store.write, changes)
        except IrisError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a bug, which must not end the saving for all jobs
            _log.exception("saving")
            return InternalError(f"the controller cannot save: {type(error).__name__}: {error}")
        return None

    async def _read_kept(self, batch: _Batch) -> dict[str, StoredJob]:
        """What the store has of the jobs of a batch that could not be written, where that is not known yet."""
        wanted = [job_id for job_id, record in batch.records.items() if record.kept is None]
        try:
            return await self.read(self._store.load_jobs, wanted)
        except IrisError:
            _log.exception("reading what was saved last")
            return {}

    def _show_kept(self, batch: _Batch, kept: Mapping[str, StoredJob], error: IrisError) -> None:
        """From now on readers see these jobs as they were saved last. Those of which only a reason to wait has changed
        are behind in nothing that is saved."""
        for job_id, stored in kept.items():
            record = batch.records[job_id]
            if record.job.revision > record.saved_revision or record.unsaved_results:
                record.kept = JobRecord(stored.job, stored.launch, stored.facts, why_behind=str(error))

    def _kept(self, batch: _Batch, written: Sequence[_Written]) -> None:
        for launch in batch.launches:
            del self._launches[launch.record.job.job_id]
            launch.record.saved_revision = launch.record.job.revision
            self._guarded(self._launched, launch.record)
            launch.outcome.set_result(None)
        for one in written:
            record = one.record
            record.kept = None
            is_news = one.revision > record.saved_revision or bool(one.results)
            record.saved_revision = max(
                record.saved_revision, one.revision
            )  # a reason to wait is not kept: it may be ahead
            del record.unsaved_results[: one.results]
            to_do, record.to_do = record.to_do[: one.steps], record.to_do[one.steps :]
            if is_news:
                record.tell_watchers()
            self._guarded(self._follow, record, to_do)
        batch.outcome.set_result(None)

    def _not_kept(self, batch: _Batch, error: IrisError) -> None:
        """Jobs that are new are given up: who submitted them is told so. Perhaps it was they that did not fit: what is
        left is tried at once, and, without them, again and again. Stops for good are carried out meanwhile: they lose
        nothing, and what is stopped may be what fills the disk. Those for a restart of a gang are not: if we are
        killed before it is kept that they were ours, the next of us takes their ends for somebody's will."""
        launches, batch.launches = batch.launches, []
        for launch in launches:
            del self._launches[launch.record.job.job_id]
            self._guarded(self._refused, launch.record)
            launch.outcome.set_result(error)
        self._gathering.take(batch)
        if launches and self._gathering.is_empty:
            batch.outcome.set_result(None)  # for who only looked meanwhile: there is nothing else to try
            return
        if launches:
            self._gathering.outcome.add_done_callback(lambda done: batch.outcome.set_result(done.result()))
            self._wake.set()
            return
        for record in batch.records.values():
            stops = [step for step in record.to_do if _is_stop_for_good(record, step)]
            record.to_do = [step for step in record.to_do if not _is_stop_for_good(record, step)]
            self._guarded(self._follow, record, stops)
        batch.outcome.set_result(error)
        _log.warning("saving goes on in a second: %s", error)
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)

    def _guarded(self, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception:  # noqa: BLE001 - a bug with one job must not end the saving of all
            _log.exception("after saving")


def _changes_of(batch: _Batch) -> Changes:
    changes = Changes()
    for launch in batch.launches:
        changes.add_job(launch.record, launch.bundle)
    for record in batch.records.values():
        if record.job.revision > record.saved_revision or record.unsaved_results:
            changes.save_job(record, record.saved_revision, record.unsaved_results)
    changes.save_endpoints(
        [endpoint for endpoint in batch.endpoints.values() if endpoint is not None],
        [endpoint_id for endpoint_id, endpoint in batch.endpoints.items() if endpoint is None],
    )
    for (worker_id, incarnation), is_fenced in batch.fenced.items():
        if is_fenced:
            changes.fence(worker_id, incarnation)
        else:
            changes.unfence(worker_id, incarnation)
    for token_id, stored in batch.tokens.items():
        if stored is None:
            changes.remove_token(token_id)
        else:
            changes.save_token(stored)
    if batch.lease_s is not None:
        changes.set_lease(batch.lease_s)
    return changes


def _is_stop_for_good(record: JobRecord, step: Instruction) -> bool:
    return isinstance(step, StopAttempt) and record.job.tasks[step.task_index].stop is not Stop.RESTART
