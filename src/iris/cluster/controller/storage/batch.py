"""The changes that the saver writes together, and the consequences that the controller carries out afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from iris.cluster.controller.jobs.instructions import Instruction, StopAttempt
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import Stop
from iris.cluster.controller.storage.store import Changes, StoredToken
from iris.errors import IrisError
from iris.rpc import cluster_pb2


@dataclass(frozen=True, slots=True)
class JobChange:
    """The consequences of a change of one job, which the controller carries out after the attempt to write the change.

    Attributes:
        record: The job.
        instructions: The instructions to carry out now.
        is_saved: Whether the change is saved. If the change is unsaved, `instructions` has only the instructions that
            need no saving.
        is_current: Whether the store now has the job's current state.
        has_news: Whether the controller has to notify the watchers of the job.
    """

    record: JobRecord
    instructions: Sequence[Instruction]
    is_saved: bool
    is_current: bool
    has_news: bool


@dataclass(frozen=True, slots=True)
class TriedBatch:
    """A batch that was written, or could not be written for now.

    Attributes:
        added: The new jobs that are saved.
        refused: The new jobs that could not be saved. The saver does not try to save these jobs again.
        changes: The changes of other jobs.
    """

    added: Sequence[JobChange] = ()
    refused: Sequence[JobRecord] = ()
    changes: Sequence[JobChange] = ()


@dataclass(slots=True)
class PendingJob:
    """Tracks which changes of one job are saved, and which are not.

    Attributes:
        record: The job.
        saved_revision: The store has all changes of the job up to this revision.
        announced_revision: Watchers have seen all changes of the job up to this revision.
        instructions: The instructions to carry out once the job is saved.
        results: The unsaved results: task index and outcome.
        last_saved: The stored state of the job, while newer changes cannot be saved; None if no write has failed.
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
        """Return what the controller has to do after a failed write: carry out the stops that need no saving, and
        announce a changed reason.
        """
        record = self.record
        stops = [step for step in self.instructions if _is_stop_for_good(record, step)]
        self.instructions = [step for step in self.instructions if not _is_stop_for_good(record, step)]
        has_news = not self.is_unsaved and record.job.revision > self.announced_revision
        if has_news:
            self.announced_revision = record.job.revision
        return JobChange(record, stops, is_saved=False, is_current=False, has_news=has_news)


@dataclass(slots=True)
class PendingLaunch:
    """A new job that is not saved yet, and the future for the caller that submitted it."""

    pending: PendingJob
    bundle: bytes
    outcome: asyncio.Future[IrisError | None]


@dataclass(slots=True)
class WrittenJob:
    """The revision and instructions of a job that a batch contains. The job may change further while the batch is
    written.
    """

    pending: PendingJob
    revision: int
    instructions: int
    results: int


@dataclass(slots=True)
class Batch:
    """What is written together.

    Attributes:
        outcome: A future whose result is set after the attempt to write: the error, or None. The future never has an
            exception, because an exception that no caller awaits would be logged.
        launches: The new jobs.
        jobs: The changed jobs, by id.
        endpoints: The changed endpoints, by id; None for a removed one.
        fenced: The changed fences, by worker id and incarnation; False for a removed one.
        lease_s: The changed lease; None if it is unchanged.
        tokens: The changed tokens, by id; None for a removed one.
    """

    outcome: asyncio.Future[IrisError | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    launches: list[PendingLaunch] = field(default_factory=list)
    jobs: dict[str, PendingJob] = field(default_factory=dict)
    endpoints: dict[str, cluster_pb2.Controller.Endpoint | None] = field(default_factory=dict)
    fenced: dict[tuple[str, str], bool] = field(default_factory=dict)
    lease_s: float | None = None
    tokens: dict[str, StoredToken | None] = field(default_factory=dict)

    def add_older(self, other: Batch) -> None:
        """Add the changes of an older batch that could not be written, unless this batch has newer ones."""
        self.jobs = other.jobs | self.jobs
        self.endpoints = other.endpoints | self.endpoints
        self.fenced = other.fenced | self.fenced
        self.tokens = other.tokens | self.tokens
        self.lease_s = other.lease_s if self.lease_s is None else self.lease_s

    @property
    def is_empty(self) -> bool:
        """Whether the batch has no changes."""
        return not (self.launches or self.jobs or self.endpoints or self.fenced or self.lease_s or self.tokens)

    def changes(self) -> Changes:
        """Return the rows to write."""
        changes = Changes()
        for launch in self.launches:
            changes.add_job(launch.pending.record, launch.bundle)
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
        return changes


def _is_stop_for_good(record: JobRecord, step: Instruction) -> bool:
    return isinstance(step, StopAttempt) and record.job.tasks[step.task_index].stop is not Stop.RESTART
