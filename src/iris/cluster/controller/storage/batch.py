"""Defines the batches of changes that the saver writes together, and what the controller has to do after each write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field

from iris.cluster.controller.jobs.instructions import Instruction, StopAttempt
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_state import Transition
from iris.cluster.controller.jobs.task import Stop
from iris.cluster.controller.storage.store import Changes, StoredToken
from iris.errors import IrisError
from iris.rpc import cluster_pb2


@dataclass(frozen=True, slots=True)
class JobChange:
    """A changed job, and what the controller has to do after the saver has tried to write the change.

    Attributes:
        record: The record of the job.
        instructions: The job's instructions to carry out now.
        transitions: The saved changes of the states of the job and its tasks.
        is_saved: Whether the change is saved. If the change is not saved, `instructions` has only instructions that are
            allowed before saving.
        has_news: Whether the controller has to notify the watchers of the job.
    """

    record: JobRecord
    instructions: Sequence[Instruction]
    transitions: Sequence[Transition] = ()
    _: KW_ONLY
    is_saved: bool
    has_news: bool


@dataclass(frozen=True, slots=True)
class TriedBatch:
    """The result of trying to write a batch.

    Attributes:
        added: The new jobs that are saved.
        refused: The new jobs that could not be saved. The saver does not try again to save refused jobs.
        changes: The changes of existing jobs.
    """

    added: Sequence[JobChange] = ()
    refused: Sequence[JobRecord] = ()
    changes: Sequence[JobChange] = ()


@dataclass(slots=True)
class PendingJob:
    """Tracks which changes of one job are saved, and which are not.

    Attributes:
        record: The record of the job.
        saved_revision: The revision of the job up to which all changes are saved.
        announced_revision: The revision up to which the changes of the job were announced to watchers.
        instructions: The instructions to carry out once the job is saved.
        results: The unsaved results of tasks, as pairs of task index and outcome.
        last_saved: The last saved state of the job, if the last write has failed. None otherwise.
    """

    record: JobRecord
    saved_revision: int
    announced_revision: int
    instructions: list[Instruction] = field(default_factory=list)
    results: list[tuple[int, bytes]] = field(default_factory=list)
    last_saved: JobRecord | None = None

    @property
    def is_unsaved(self) -> bool:
        """Whether the job has changes that are not in the store."""
        return self.record.job.revision > self.saved_revision or bool(self.results)

    def unsaved_change(self) -> JobChange:
        """Return what the controller has to do after a failed write. The controller stops the attempts that may be
        stopped before the job is saved. If only the reason why the job waits has changed, the controller announces the
        new reason.
        """
        record = self.record
        stops = [step for step in self.instructions if _is_stop_for_good(record, step)]
        self.instructions = [step for step in self.instructions if not _is_stop_for_good(record, step)]
        has_news = not self.is_unsaved and record.job.revision > self.announced_revision
        if has_news:
            self.announced_revision = record.job.revision
        return JobChange(record, stops, is_saved=False, has_news=has_news)


@dataclass(slots=True)
class PendingLaunch:
    """A new job that is not saved yet, and the future for which the submitting caller waits."""

    pending: PendingJob
    bundle: bytes
    outcome: asyncio.Future[IrisError | None]
    inputs: bytes = b""


@dataclass(slots=True)
class PendingWrite:
    """A write that is not repeated after an error, and the future for which its caller waits.

    Attributes:
        add: A function that adds the rows to write to the changes of the batch.
        outcome: A future for the result of the write: an error, or None after a success.
    """

    add: Callable[[Changes], object]
    outcome: asyncio.Future[IrisError | None]


@dataclass(slots=True)
class WrittenJob:
    """A job in a batch, with the revision and the numbers of instructions and results that are being written. The job
    may change further during the write.
    """

    pending: PendingJob
    revision: int
    instructions: int
    results: int


@dataclass(slots=True)
class Batch:
    """The changes that one transaction writes.

    Attributes:
        outcome: A future for the result of the write: an error, or None after a success. The error is a result instead
            of an exception, because asyncio logs an exception if no caller awaits the future.
        launches: The new jobs to save.
        writes: The writes that are not repeated after an error.
        jobs: The changed jobs to save, by job id.
        endpoints: The changed endpoints, by id. The value None removes the endpoint.
        fenced: The changed fences, by worker id and incarnation. True fences the worker's process, and False removes
            its fence.
        lease_s: The new longest lease, in seconds; None if it has not changed.
        tokens: The changed tokens, by id. The value None removes the token.
    """

    outcome: asyncio.Future[IrisError | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    launches: list[PendingLaunch] = field(default_factory=list)
    writes: list[PendingWrite] = field(default_factory=list)
    jobs: dict[str, PendingJob] = field(default_factory=dict)
    endpoints: dict[str, cluster_pb2.Controller.Endpoint | None] = field(default_factory=dict)
    fenced: dict[tuple[str, str], bool] = field(default_factory=dict)
    lease_s: float | None = None
    tokens: dict[str, StoredToken | None] = field(default_factory=dict)

    def add_older(self, other: Batch) -> None:
        """Add the changes of an older batch that could not be written. If both batches change the same object, the
        change in this batch is kept.
        """
        self.jobs = other.jobs | self.jobs
        self.endpoints = other.endpoints | self.endpoints
        self.fenced = other.fenced | self.fenced
        self.tokens = other.tokens | self.tokens
        self.lease_s = other.lease_s if self.lease_s is None else self.lease_s

    @property
    def is_empty(self) -> bool:
        """Whether the batch has no changes."""
        return not (
            self.launches or self.writes or self.jobs or self.endpoints or self.fenced or self.lease_s or self.tokens
        )

    def refusable(self) -> list[asyncio.Future[IrisError | None]]:
        """Return the futures of the changes that are refused if the batch cannot be written."""
        return [change.outcome for change in self.launches] + [change.outcome for change in self.writes]

    def changes(self) -> Changes:
        """Return the rows to write."""
        changes = Changes()
        for launch in self.launches:
            changes.add_job(launch.pending.record, launch.bundle, launch.inputs)
        for pending in self.jobs.values():
            if pending.is_unsaved:
                changes.save_job(pending.record, pending.saved_revision, pending.results)
        changes.save_endpoints(
            [endpoint for endpoint in self.endpoints.values() if endpoint is not None],
            [endpoint_id for endpoint_id, endpoint in self.endpoints.items() if endpoint is None],
        )
        for (worker_id, incarnation), is_fenced in self.fenced.items():
            if is_fenced:
                changes.fence(worker_id, incarnation)
            else:
                changes.unfence(worker_id, incarnation)
        for token_id, stored in self.tokens.items():
            if stored is None:
                changes.remove_token(token_id)
            else:
                changes.save_token(stored)
        if self.lease_s is not None:
            changes.set_lease(self.lease_s)
        for write in self.writes:
            write.add(changes)
        return changes


class Gathering:
    """The batch that gathers changes until the saver writes it, and the batch that is being written. The saver adds the
    changes of jobs to the first batch, and writes both batches one after the other.
    """

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._gathering = Batch()
        self._writing: Batch | None = None

    def is_saving(self) -> bool:
        """Return whether changes are being saved. Usually a client waits for them, for example after it has submitted a
        job. Changes that could not be saved do not count until the saver tries again.
        """
        return self._writing is not None or (self._wake.is_set() and not self._gathering.is_empty)

    def endpoint_changed(self, endpoint_id: str, endpoint: cluster_pb2.Controller.Endpoint | None) -> None:
        """Save an endpoint; the value None removes the endpoint."""
        self._gathering.endpoints[endpoint_id] = endpoint
        self._wake.set()

    def fence(self, worker_id: str, incarnation: str) -> None:
        """Save that a worker's process is fenced."""
        self._gathering.fenced[worker_id, incarnation] = True
        self._wake.set()

    def unfence(self, worker_id: str, incarnation: str) -> None:
        """Remove the fence of a worker's process. The caller knows that the process has ended."""
        self._gathering.fenced[worker_id, incarnation] = False
        self._wake.set()

    def token_changed(self, token_id: str, stored: StoredToken | None) -> None:
        """Save a token that was created or revoked; the value None removes the token."""
        self._gathering.tokens[token_id] = stored
        self._wake.set()

    def lease_changed(self, seconds: float) -> None:
        """Save the length of the longest lease that a worker may have, in seconds."""
        self._gathering.lease_s = seconds
        self._wake.set()


def _is_stop_for_good(record: JobRecord, step: Instruction) -> bool:
    return isinstance(step, StopAttempt) and record.job.tasks[step.task_index].stop is not Stop.RESTART
