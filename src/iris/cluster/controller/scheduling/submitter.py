"""Requests allocations from the engine for the gangs that start next, and sets the reasons why other gangs wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from iris.cluster.controller.scheduling.capacity import GangKind, MachineSet
from iris.cluster.controller.scheduling.gang_states import (
    BlockingChecked,
    GangRecord,
    Rejected,
    Requested,
    Selected,
    Submit,
    SubmitUnanswered,
)
from iris.cluster.controller.scheduling.gang_table import GangTable
from iris.cluster.controller.scheduling.job_reports import Explanations, JobReports, Workers
from iris.cluster.controller.scheduling.queue import Plan, plan
from iris.cluster.controller.scheduling.waiting.reason_text import DEFAULT_CORE, cause_text
from iris.cluster.controller.scheduling.waiting.reasons import Cause, EnginePending
from iris.cluster.engine.base import (
    AvoidsWorkers,
    Engine,
    GangRejectedError,
    GangRequest,
    Machine,
    Placement,
)
from iris.errors import UnavailableError
from iris.failpoints import failpoint

_ADVICE = (
    ". Its tasks have to start together. If they may start one by one, submit the job with --independent"
    " (coscheduled=False in Python)"
)


class Submitter:
    """Plans which gangs start next, and requests their allocations from the engine.

    Args:
        engine: The engine, which grants allocations.
        gangs: The table of all gangs.
        workers: The registered workers.
        reports: The object that applies events to gangs.
        explanations: The object that sets the reasons why gangs wait.
        withdraw_after_s: The seconds for which a request may block an older gang. After this time the request is
            withdrawn.
        clock: A function that returns the time in seconds of the monotonic clock.

    Attributes:
        machines: The machines that the engine has reported last.
        reserved_for: The id of the gang that has a reservation; empty if no gang has one.
    """

    def __init__(
        self,
        engine: Engine,
        gangs: GangTable,
        workers: Workers,
        reports: JobReports,
        explanations: Explanations,
        withdraw_after_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._gangs = gangs
        self._workers = workers
        self._reports = reports
        self._explanations = explanations
        self._withdraw_after_s = withdraw_after_s
        self._clock = clock
        self._machine_set: MachineSet | None = None
        # For each kind of gang, the cause for which all queued gangs of this kind wait. New gangs that have no reason
        # yet do not count. If the gangs of a kind may wait for different causes, the kind has no entry.
        self._common_causes: dict[GangKind, Cause] = {}
        self.machines: Sequence[Machine] = ()
        self.reserved_for = ""

    async def refresh_machines(self) -> None:
        """Ask the engine for its machines, and store them in `machines`.

        Raises:
            UnavailableError: The engine cannot be reached.
        """
        self.machines = await self._engine.machines()

    async def submit_next(self) -> Plan:
        """Plan which gangs start now, request their allocations from the engine, and return the plan.

        Raises:
            UnavailableError: The engine cannot be reached.
        """
        if isinstance(self._engine, AvoidsWorkers):
            self._engine.avoid(self._workers.short())
        await self.refresh_machines()
        allocations = self._gangs.allocations()
        requested = self._gangs.waiting_at_engine()
        result = plan(self._gangs.queue, allocations, self.machines, self._clock(), requested, self._machine_set)
        self._machine_set = result.machine_set
        self.reserved_for = result.reserved_for
        self._check_blocking(set(result.withdraw))
        for request in result.submit:
            await self._submit(request)
        return result

    def explain(self, result: Plan, *, explain_all: bool) -> None:
        """End the jobs that can never be placed, unless the engine may get more machines later. Set the reasons why the
        gangs of other jobs wait.

        Args:
            result: The plan of the last scheduling pass.
            explain_all: True updates the reasons of all waiting gangs. False leaves out gangs that have a reason.
        """
        if not self._engine.elastic:
            self._reject_impossible(result)
        just_submitted = {request.gang_id for request in result.submit}
        for entry in self._gangs.waiting_at_engine():
            if explain_all or entry.gang.gang_id in just_submitted:
                self._explain_requested(result, entry.gang)
        self._explain_queued(result, explain_all=explain_all)

    def forget_reasons(self) -> None:
        """Record that other code has changed the reasons of some queued gangs. The next call of `explain` with
        `explain_all` then sets the reasons of all queued gangs again.
        """
        self._common_causes.clear()

    def _check_blocking(self, blocking: set[str]) -> None:
        now_s = self._clock()
        for gang in self._gangs.in_state(Requested):
            is_blocking = gang.gang_id in blocking
            if isinstance(gang.state, Requested) and (is_blocking or gang.state.blocking_since_s is not None):
                self._reports.deliver(gang, BlockingChecked(is_blocking, now_s, self._withdraw_after_s))

    async def _submit(self, request: GangRequest) -> None:
        gang = self._gangs.get(request.gang_id)
        if gang is None:
            return  # The gang was released while the scheduler waited for the engine, and needs no request any more.
        for instruction in self._reports.deliver(gang, Selected()):
            if isinstance(instruction, Submit):
                await self._send(gang, instruction.request)

    async def _send(self, gang: GangRecord, request: GangRequest) -> None:
        try:
            failpoint("placement.before")
            await self._engine.submit(request)
            failpoint("placement.after")
        except GangRejectedError as error:
            self._reports.deliver(gang, Rejected(str(error)))
        except UnavailableError:
            self._reports.deliver(gang, SubmitUnanswered())
            raise

    def _reject_impossible(self, result: Plan) -> None:
        for kind in result.impossible:
            for gang_id in list(self._gangs.queue.by_kind().get(kind, ())):
                gang, cause = self._gangs.get(gang_id), result.cause_of(kind)
                if gang is not None and cause is not None:
                    advice = _ADVICE if self._may_split(gang, result.machine_set) else ""
                    advice += DEFAULT_CORE if gang.counts_a_core else ""
                    text = f"it can never be placed: {cause_text(cause)}{advice}"
                    self._reports.deliver(gang, Rejected(text))

    def _may_split(self, gang: GangRecord, machine_set: MachineSet) -> bool:
        """Return True if each task of the gang would fit alone, and the job could run its tasks as independent
        tasks.
        """
        request = gang.request
        alone = GangRequest(gang.gang_id, 1, request.need, Placement.ANY, request.labels)
        return request.slots > 1 and gang.may_split and machine_set.fits_with_all_alive(alone)

    def _explain_requested(self, result: Plan, request: GangRequest) -> None:
        gang = self._gangs.get(request.gang_id)
        if gang is not None and isinstance(gang.state, Requested):
            shortage = result.shortage_of(request)
            engine_reason = gang.state.engine_reason or ""
            cause = EnginePending(GangKind.of(request), shortage, self._engine.name, engine_reason)
            self._explanations.explain(gang.job_id, gang.gang_id, cause)

    def _explain_queued(self, result: Plan, *, explain_all: bool) -> None:
        """Set the reasons of queued gangs. Gangs that arrived after the plan was made are skipped.

        If the gangs of a kind still wait for the same cause, only the new gangs of this kind are visited. Visiting all
        queued gangs each second would cost some milliseconds for each thousand gangs.
        """
        queue = self._gangs.queue
        newcomers: dict[GangKind, list[str]] = {}
        for gang_id in queue.newcomers:
            newcomers.setdefault(queue.kind_of(gang_id), []).append(gang_id)
        common: dict[GangKind, Cause] = {}
        by_kind = queue.by_kind()
        for kind in list(by_kind if explain_all else newcomers):
            cause = result.cause_of(kind)
            if cause is None:
                continue
            last = self._common_causes.get(kind)
            is_known = last == cause
            # If the gangs of a kind still wait for the same cause, the `Cause` object of the last pass is kept, because
            # identical objects are compared fast.
            common[kind] = cause = last if last is not None and is_known else cause
            is_known = is_known or not explain_all
            self._explain_kind(list(newcomers.get(kind, ()) if is_known else by_kind[kind]), cause)
        if explain_all:
            self._common_causes = common
            for job_id in self._explanations.pop_changed_losses():
                self._explain_job(job_id)
        else:
            for kind, cause in common.items():
                if self._common_causes.get(kind) is not cause:
                    # The gangs of this kind have no common cause now: the new gangs wait for `cause`, and the older
                    # gangs for another cause.
                    self._common_causes.pop(kind, None)

    def _explain_kind(self, gang_ids: Iterable[str], cause: Cause) -> None:
        for gang_id in gang_ids:
            self._gangs.queue.newcomers.pop(gang_id, None)
            gang = self._gangs.get(gang_id)
            if gang is not None:
                self._explanations.explain(gang.job_id, gang_id, cause)

    def _explain_job(self, job_id: str) -> None:
        """Set the reasons of a job's queued gangs again, because the reasons name the last loss of an allocation."""
        queue = self._gangs.queue
        for gang_id in self._explanations.gangs_of(job_id):
            cause = self._common_causes.get(queue.kind_of(gang_id)) if gang_id in queue else None
            if cause is not None:
                self._explanations.explain(job_id, gang_id, cause)
