"""Reports changes of gangs to their jobs, and sets the reasons why gangs wait."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from iris.cluster.controller.jobs.instructions import Instruction as JobInstruction
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import WorkerIdentity
from iris.cluster.controller.scheduling.gang_states import (
    Drain,
    Event,
    ExplainMissing,
    GangRecord,
    Instruction,
    PlacementExtended,
    RecordSlots,
    ReportLost,
    ReportPlaced,
    ReportRejected,
    ReportSlotsLost,
    ReportTimeout,
    Submit,
)
from iris.cluster.controller.scheduling.gang_table import GangTable
from iris.cluster.controller.scheduling.slots import SlotTable
from iris.cluster.controller.scheduling.waiting.reason_text import pending_text
from iris.cluster.controller.scheduling.waiting.reasons import Cause, Loss, LossKind, PendingReason, WorkersMissing
from iris.cluster.controller.workers.unavailability import MissingWorker
from iris.cluster.engine.base import Slot
from iris.event_log import log_event
from iris.reasons import FailureCode, Shortage
from iris.system.clock import now_ms

_log = logging.getLogger(__name__)


class JobChanges(Protocol):
    """The interface by which the scheduler reports a changed job. The saver implements this interface."""

    def job_changed(self, record: JobRecord, instructions: Iterable[JobInstruction] = ()) -> None:
        """Save a job that has changed, announce the change to watchers, and carry out the instructions."""

    def reason_changed(self, record: JobRecord) -> None:
        """Record that only the reason why a gang of the job waits has changed. This change is not saved. The next call
        of `job_changed` announces the reason to watchers.
        """


@dataclass(slots=True)
class _LossRow:
    count: int
    last: Loss
    is_behind: bool


class JobLosses:
    """Counts the losses of each job since its last start. A loss is an allocation, or a request to the engine, that was
    lost before the attempts started.
    """

    def __init__(self) -> None:
        self._rows: dict[str, _LossRow] = {}
        # The jobs that have lost an allocation or request, or have started, since the last call of `pop_changed`. The
        # dict serves as an ordered set.
        self._changed: dict[str, None] = {}

    def add(self, job_id: str, loss: Loss) -> None:
        """Record a loss."""
        is_behind = loss.kind is LossKind.UNREGISTERED
        self._rows[job_id] = _LossRow(self.count(job_id) + 1, loss, is_behind)
        self._changed[job_id] = None

    def count(self, job_id: str) -> int:
        """Return how many allocations and requests the job has lost since its last start."""
        row = self._rows.get(job_id)
        return 0 if row is None else row.count

    def last(self, job_id: str) -> Loss | None:
        """Return the last loss of an allocation or request of a job. Return None if the job had no loss since its last
        start.
        """
        row = self._rows.get(job_id)
        return None if row is None else row.last

    def pop_is_behind(self, job_id: str) -> bool:
        """Return True if the job's next gang must join the end of the queue. After a result of True, the next calls
        return False until the job loses another allocation.

        A job that has lost an allocation because workers did not register goes to the end of the queue. Otherwise a
        gang whose workers never register would occupy the same machines again and again.
        """
        row = self._rows.get(job_id)
        if row is None or not row.is_behind:
            return False
        row.is_behind = False
        return True

    def forget(self, job_id: str) -> None:
        """Forget the losses of a job, because the job's attempts start."""
        if self._rows.pop(job_id, None) is not None:
            self._changed[job_id] = None

    def forget_job(self, job_id: str) -> None:
        """Forget a job that has ended."""
        self._rows.pop(job_id, None)
        self._changed.pop(job_id, None)

    def pop_changed(self) -> list[str]:
        """Return the jobs that have lost an allocation or request, or have started, since the last call."""
        changed, self._changed = self._changed, {}
        return list(changed)


class Explanations:
    """Sets the reasons why gangs wait. Each scheduling pass reports a changed job only once, even if several of its
    gangs have a new reason.

    Args:
        jobs: The unfinished jobs by id. The controller owns the mapping.
        changes: The object that receives the reports of changed jobs.
        losses: The object that counts the losses of each job. The reasons mention the last loss.
    """

    def __init__(self, jobs: Mapping[str, JobRecord], changes: JobChanges, losses: JobLosses) -> None:
        self._jobs = jobs
        self._changes = changes
        self._losses = losses
        self._changed: dict[str, JobRecord] = {}
        # The reason set by the last call of `explain`. The next call can use the same object, because most gangs of a
        # kind wait for the same reason.
        self._last = PendingReason()
        self._compared: tuple[PendingReason | None, PendingReason, bool] = (None, self._last, False)

    def explain(self, job_id: str, gang_id: str, cause: Cause) -> None:
        """Set the reason why a gang waits. The reason combines the cause and the job's last loss."""
        loss = self._losses.last(job_id)
        if self._last.cause is not cause or self._last.earlier_loss is not loss:
            self._last = PendingReason(cause, loss)
        self.set_reason(job_id, gang_id, self._last)

    def pop_changed_losses(self) -> list[str]:
        """Return the jobs that have lost an allocation or request, or have started, since the last call. The reasons of
        these jobs' waiting gangs are out of date.
        """
        return self._losses.pop_changed()

    def gangs_of(self, job_id: str) -> list[str]:
        """Return the ids of a job's gangs; an empty list if the job has ended."""
        record = self._jobs.get(job_id)
        return [] if record is None else list(record.job.gangs)

    def add_engine_problem(self, job_id: str, gang_id: str, problem: str) -> None:
        """Add the problem with an unreachable engine to the reason why a gang waits."""
        record = self._jobs.get(job_id)
        gang = None if record is None else record.job.gangs.get(gang_id)
        if gang is not None:
            before = gang.reason or PendingReason()
            self.set_reason(job_id, gang_id, replace(before, engine_problem=problem))

    def set_reason(self, job_id: str, gang_id: str, reason: PendingReason) -> None:
        """Set why a gang waits."""
        record = self._jobs.get(job_id)
        gang = None if record is None else record.job.gangs.get(gang_id)
        if record is None or gang is None or self._is_same(gang.reason, reason):
            return
        record.job.explain_waiting(gang_id, reason)
        self._changes.reason_changed(record)
        self._changed[job_id] = record

    def _is_same(self, old: PendingReason | None, new: PendingReason) -> bool:
        """Return whether two reasons are equal. The last result is remembered, because a pass compares the same two
        objects for all gangs of a kind.
        """
        if old is new:
            return True
        last_old, last_new, result = self._compared
        if old is not last_old or new is not last_new:
            result = old == new
            self._compared = (old, new, result)
        return result

    def publish(self) -> None:
        """Report each job in which the reason of a gang has changed. A job with several changed reasons is reported
        once.
        """
        changed, self._changed = self._changed, {}
        for record in changed.values():
            self._changes.job_changed(record)


class Workers(Protocol):
    """The interface through which the scheduler asks about registered workers. `Fleet` implements this interface."""

    def missing_worker(self, worker_id: str) -> MissingWorker | None:
        """Return why a worker is not available. Return None if the worker is available."""

    def why_refused(self, worker_ids: Iterable[str]) -> str:
        """Return why one of these workers was refused; an empty string if none was refused."""

    def identity_of(self, worker_id: str) -> WorkerIdentity:
        """Return the identity of the process that has registered as a worker."""

    def short(self) -> dict[str, Shortage]:
        """Return the workers that cannot start new attempts now. The result maps each of their ids to the reason."""

    def mark_dead(self, worker_id: str, incarnation: str | None = None) -> None:
        """Stop calling a worker, because its process is dead. `incarnation` names the dead process; None means the
        process that is registered now.
        """


class JobReports:
    """Applies events to gangs, and reports the consequences to the gangs' jobs.

    Args:
        jobs: The unfinished jobs by id. The controller owns the mapping.
        gangs: The table of all gangs.
        workers: The registered workers.
        changes: The object that receives the reports of changed jobs.
        losses: The object that records the losses of each job.
        explanations: The object that sets the reasons why gangs wait.
        slots: The object that stores the slots of placed tasks.
        clock: A function that returns the time in seconds of the monotonic clock.
    """

    def __init__(
        self,
        jobs: Mapping[str, JobRecord],
        gangs: GangTable,
        workers: Workers,
        changes: JobChanges,
        losses: JobLosses,
        explanations: Explanations,
        slots: SlotTable,
        clock: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._gangs = gangs
        self._workers = workers
        self._changes = changes
        self._losses = losses
        self._explanations = explanations
        self._slots = slots
        self._clock = clock

    def deliver(self, gang: GangRecord, event: Event) -> list[Submit | Drain]:
        """Apply an event to a gang, and report the consequences to its job. Return the instructions that the caller
        must carry out.
        """
        others: list[Submit | Drain] = []
        before = type(gang.state)
        instructions = self._gangs.apply(gang.gang_id, event)
        if self._gangs.get(gang.gang_id) is None:
            log_event(_log, "gang.state", gang_id=gang.gang_id, job_id=gang.job_id, state="removed")
        elif type(gang.state) is not before:
            log_gang_state(gang)
        for instruction in instructions:
            if isinstance(instruction, Submit | Drain):
                others.append(instruction)
            else:
                self._carry_out(gang, instruction)
        return others

    def _carry_out(self, gang: GangRecord, instruction: Instruction) -> None:
        record = self._jobs.get(gang.job_id)
        if record is None:
            return  # The job has ended and gets no report. Its gang stays until the engine has released the allocation.
        match instruction:
            case ReportPlaced(slots):
                self._placed(gang, record, slots)
            case RecordSlots(slots):
                self._record_slots(gang, record, slots)
            case ReportLost(loss):
                self._lost(gang, record, loss)
            case ReportSlotsLost(positions, reason):
                self._slots_lost(gang, record, positions, reason)
            case ReportRejected(reason):
                self._changes.job_changed(record, record.job.unschedulable(reason, now_ms()))
            case ReportTimeout():
                self._timed_out(gang, record)
            case ExplainMissing(missing):
                self._explanations.explain(gang.job_id, gang.gang_id, WorkersMissing(missing))

    def _placed(self, gang: GangRecord, record: JobRecord, slots: Sequence[Slot]) -> None:
        self._losses.forget(gang.job_id)
        places = [self._workers.identity_of(slot.worker_id) for slot in slots]
        self._changes.job_changed(record, record.job.gang_placed(gang.gang_id, places, now_ms()))

    def _record_slots(self, gang: GangRecord, record: JobRecord, slots: Sequence[Slot]) -> None:
        if slots and gang.gang_id in record.job.gangs:
            self._slots.assign(gang.job_id, gang.task_indices, slots)

    def _lost(self, gang: GangRecord, record: JobRecord, loss: Loss | None) -> None:
        if loss is not None and loss.kind is LossKind.UNREGISTERED:
            where = ", ".join(loss.machines)
            _log.warning("gang %s is released, because its workers on %s do not register", gang.gang_id, where)
        # A loss is recorded only if the job still has the gang. If the job had ended, no later event would remove the
        # recorded loss.
        if loss is not None and gang.gang_id in record.job.gangs:
            self._losses.add(gang.job_id, loss)
        self._changes.job_changed(record, record.job.allocation_lost(gang.gang_id))

    def _slots_lost(self, gang: GangRecord, record: JobRecord, positions: Iterable[int], reason: str) -> None:
        if gang.gang_id not in record.job.gangs:
            return
        live = record.job.live_attempts(gang.task_indices[position] for position in positions)
        for attempt in live.values():
            self._workers.mark_dead(attempt.worker_id, attempt.worker_incarnation)
        lost = {index: attempt.attempt_id for index, attempt in live.items()}
        if lost:
            names = ", ".join(sorted({attempt.worker_id for attempt in live.values()}))
            error = f"worker {names} was lost: {reason}"
            self._changes.job_changed(record, record.job.attempts_lost(lost, error, now_ms()))

    def _timed_out(self, gang: GangRecord, record: JobRecord) -> None:
        """End a job if one of its gangs was not placed within the scheduling timeout.

        If other independent tasks of the job run, the job continues, and the scheduling timeout of the gang is
        extended. The job has capacity, so the gang only waits for its turn.
        """
        waiting = record.job.gangs.get(gang.gang_id)
        if waiting is None:
            # The job does not have this gang any more, so nothing ends. The gang is released after the change of the
            # job was saved.
            return
        limit_s = record.launch.scheduling_timeout_seconds
        if record.job.live_attempts():
            self._gangs.apply(gang.gang_id, PlacementExtended(self._clock() + limit_s))
            return
        why = "" if waiting.reason is None else f" ({pending_text(waiting.reason)})"
        error = f"not placed within its scheduling timeout of {limit_s} s{why}"
        self._changes.job_changed(record, record.job.unschedulable(error, now_ms(), FailureCode.SCHEDULING_TIMEOUT))


def log_gang_state(gang: GangRecord) -> None:
    """Write the state of a gang to the event log."""
    log_event(
        _log,
        "gang.state",
        gang_id=gang.gang_id,
        job_id=gang.job_id,
        state=type(gang.state).__name__.lower(),
        slots=gang.request.slots,
    )
