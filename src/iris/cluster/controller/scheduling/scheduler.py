"""The scheduling loop: asks the engine for allocations, and reports the changes of gangs to their jobs.

Pure modules make the decisions: `gangs.py` decides how the state of a gang changes, and `queue.py` decides which gangs
start next. The scheduler delivers events to these modules, and carries out their instructions. The scheduler runs on
the controller's asyncio loop, so it must not block.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from iris.cluster.controller.jobs.instructions import ReleaseAllocation, RequestAllocation
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.retry_pause import DEFAULT_PAUSE_MS, pause_before
from iris.cluster.controller.scheduling.deadlines import WaitTimes, job_ends_by_s, place_by_s, tree_since_s
from iris.cluster.controller.scheduling.gang_states import (
    Drain,
    Drained,
    Draining,
    Event,
    GangRecord,
    Granted,
    Held,
    Lost,
    Paused,
    Queued,
    ReleaseAsked,
    Released,
    ReleaseDue,
    Releasing,
    Requested,
    SnapshotSeen,
    TimePassed,
    allocation_of,
)
from iris.cluster.controller.scheduling.gang_table import GangTable
from iris.cluster.controller.scheduling.gangs import is_news
from iris.cluster.controller.scheduling.job_reports import (
    Explanations,
    JobChanges,
    JobLosses,
    JobReports,
    Workers,
    log_gang_state,
)
from iris.cluster.controller.scheduling.restart import adopted_gangs, forgotten_status, unwanted_gang
from iris.cluster.controller.scheduling.slots import SlotTable
from iris.cluster.controller.scheduling.submitter import Submitter
from iris.cluster.controller.scheduling.survey import Survey, all_allocations
from iris.cluster.controller.scheduling.waiting.reasons import PendingReason, RequestDelayed
from iris.cluster.controller.submission.request import gang_of
from iris.cluster.controller.workers.draining import SlotWorkers
from iris.cluster.engine.base import Engine, GangState, GangStatus
from iris.errors import IrisError
from iris.system.clock import now_ms
from iris.system.event_loop import happens
from iris.system.timers import Timers

TICK_S = 1.0
WITHDRAW_AFTER_S = 20.0
# After this many requests and releases for a job with thousands of gangs, the event loop does other work. One change
# takes about 30 µs.
_CHANGES_AT_ONCE = 100
# A job, and its instruction to request or release the allocation of one of its gangs.
AllocationChange = tuple[JobRecord, RequestAllocation | ReleaseAllocation]
_log = logging.getLogger(__name__)


class Scheduler:
    """Owns all gangs, requests their allocations from the engine, and releases the allocations.

    Args:
        engine: The engine, which grants allocations.
        jobs: The unfinished jobs by id. The controller owns the mapping.
        workers: The registered workers.
        changes: The object that receives the reports of changed jobs.
        in_background: A function that starts a coroutine. The scheduler does not wait for the coroutine's end.
        slot_workers: The object that drains the gangs' workers, if each worker of the engine serves one slot only. None
            if a worker serves the slots of many gangs.
        start_limit_s: How long the workers of an allocation have to register, in seconds (`WorkerLimits.start_s`).
        withdraw_after_s: The number of seconds for which a request may block an older gang. After this time the request
            is withdrawn. A short time would withdraw requests that the engine has granted but not reported yet. For
            example, Slurm reports a gang as granted when the last of its slots has started.
        clock: A function that returns the time in seconds of the monotonic clock.

    Attributes:
        slots: The slots of all placed tasks.
    """

    def __init__(
        self,
        engine: Engine,
        jobs: Mapping[str, JobRecord],
        workers: Workers,
        changes: JobChanges,
        in_background: Callable[[Coroutine[Any, Any, None]], None],
        *,
        slot_workers: SlotWorkers | None = None,
        start_limit_s: float,
        withdraw_after_s: float = WITHDRAW_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._jobs = jobs
        self._workers = workers
        self._slot_workers = slot_workers
        self._changes = changes
        self._in_background = in_background
        self._start_limit_s = start_limit_s
        self._clock = clock
        self._losses = JobLosses()
        self._wait_times = WaitTimes()
        self._explanations = Explanations(jobs, changes, self._losses)
        self._gangs = GangTable()
        self.slots = SlotTable()
        self._reports = JobReports(
            jobs, self._gangs, workers, changes, self._losses, self._explanations, self.slots, clock
        )
        self._submitter = Submitter(
            engine, self._gangs, workers, self._reports, self._explanations, withdraw_after_s, clock
        )
        # When the timeout of each job expires.
        self._job_timers: Timers[str] = Timers()
        # Why the engine cannot be reached. Empty while the engine can be reached.
        self._problem = ""
        # When the reasons of all waiting gangs are updated next.
        self._next_explanation_s = 0.0
        self._wake = asyncio.Event()

    # Calls of the controller.

    def job_added(self, record: JobRecord) -> None:
        """Start the job timeout of a new job. The timeout counts from the job's submission."""
        end_s = job_ends_by_s(record, self._clock())
        if end_s < math.inf and not record.job.is_finished:
            self._job_timers.set(record.job.job_id, end_s)
            self._wake.set()

    def job_ended(self, job_id: str) -> None:
        """Forget a job that has ended."""
        self._job_timers.drop(job_id)
        self._losses.forget_job(job_id)
        self._wait_times.forget_job(job_id)
        self.slots.forget_job(job_id)

    async def change_allocations(self, changes: Sequence[AllocationChange]) -> None:
        """Request and release allocations, in order. After every `_CHANGES_AT_ONCE` changes, the event loop does other
        work, for example a scheduling pass, which then sees only the gangs that were added so far.
        """
        for number, (record, instruction) in enumerate(changes, 1):
            try:
                match instruction:
                    case RequestAllocation(gang_id, task_indices, not_before_ms):
                        self.request_allocation(record, gang_id, task_indices, not_before_ms)
                    case ReleaseAllocation(gang_id):
                        self.release_allocation(gang_id)
            except Exception:  # noqa: BLE001 - An error with one gang must not affect the other gangs.
                _log.exception("the allocation of gang %s cannot be changed", instruction.gang_id)
            if number % _CHANGES_AT_ONCE == 0 and number < len(changes):
                await asyncio.sleep(0)

    def request_allocation(
        self, record: JobRecord, gang_id: str, task_indices: tuple[int, ...], not_before_ms: int
    ) -> None:
        """Add a gang to the queue, at once or after a pause.

        Args:
            record: The gang's job.
            gang_id: The gang's id.
            task_indices: The indices of the gang's tasks.
            not_before_ms: The end of the gang's retry pause, as wall clock time. The gang's waiting time begins then.
                The end of the pause may be in the past, for example after a restart of the controller.
        """
        job_id, now_s = record.job.job_id, self._clock()
        since_s = self._wait_times.since_s(record, task_indices, not_before_ms, now_s)
        end_s = place_by_s(record, since_s)
        if self._losses.pop_is_behind(job_id):
            since_s = max(since_s, now_s)
        pause_ms = pause_before(self._losses.count(job_id), DEFAULT_PAUSE_MS, gang_id)
        loss = self._losses.last(job_id)
        if pause_ms and loss is not None:
            since_s = max(since_s, now_s + pause_ms / 1000)
            self._explanations.set_reason(job_id, gang_id, PendingReason(RequestDelayed(loss)))
        state = Paused(since_s, end_s) if since_s > now_s else Queued(since_s, end_s)
        request = gang_of(record.launch, gang_id, len(task_indices))
        may_split = not record.launch.rendezvous
        tree_s = tree_since_s(record, self._jobs, now_s)
        counts_a_core = record.job.counts_a_core
        self._add_gang(GangRecord(request, job_id, task_indices, state, may_split, tree_s, counts_a_core))
        self._wake.set()

    def release_allocation(self, gang_id: str) -> None:
        """Release a gang, because its job does not need the gang any more. A queued gang is removed from the queue."""
        gang = self._gangs.get(gang_id)
        if gang is None:
            # After a restart of the controller, the engine may have a gang that was missing from its snapshot.
            # Therefore an unknown gang is released as well.
            self._add_gang(unwanted_gang(gang_id, ()))
        else:
            self._deliver(gang, ReleaseAsked(drains=self._slot_workers is not None))
        self._wake.set()

    def _add_gang(self, gang: GangRecord) -> None:
        self._gangs.add(gang)
        log_gang_state(gang)

    def wake(self) -> None:
        """Make a scheduling pass soon, because a change may allow a gang to start."""
        self._wake.set()

    def with_forgotten(self, snapshot: Mapping[str, GangStatus]) -> Mapping[str, GangStatus]:
        """Return the engine's first snapshot after a restart of the controller. The gangs that the engine has forgotten
        are added to the snapshot. If one worker serves the slots of many gangs, nothing is added.

        In the returned snapshot, a forgotten gang has the state BROKEN, but none of its slots counts as certainly lost
        (see `forgotten_status`).
        """
        if self._slot_workers is None:
            return snapshot
        return dict(snapshot) | {
            gang_id: forgotten_status(record, gang_id, self.slots.of_job(record.job_id))
            for record in self._jobs.values()
            for gang_id, gang in record.job.gangs.items()
            if gang.placed and gang_id not in snapshot
        }

    def adopt(self, snapshot: Mapping[str, GangStatus]) -> None:
        """After a restart of the controller, continue the gangs of unfinished jobs, and release all other gangs of the
        engine.
        """
        unwanted = dict(snapshot)
        for gang, status in adopted_gangs(self._jobs, snapshot, self._wait_times, self._clock()):
            del unwanted[gang.gang_id]
            self._add_gang(gang)
            if isinstance(gang.state, Held) and status.slots:
                self.slots.assign(gang.job_id, gang.task_indices, status.slots)
        if self._slot_workers is not None:
            self._slot_workers.apply_snapshot(snapshot)
        for gang_id, status in unwanted.items():
            self._add_unwanted(unwanted_gang(gang_id, status.slots))

    def _add_unwanted(self, gang: GangRecord) -> None:
        """Release a gang whose job has ended. If workers of the gang still report attempts, the controller's answers
        tell the workers to stop these attempts.
        """
        allocation = allocation_of(gang.state)
        if self._slot_workers is not None and allocation is not None:
            gang.state = Draining(allocation)
            self._in_background(self._drain(self._slot_workers, gang.gang_id))
        self._add_gang(gang)

    async def survey(self) -> Survey:
        """Ask the engine for its machines and gangs. Return the machines, the allocations and the waiting gangs.

        The result contains every allocation that the engine has granted and not released. The attempts of the gang may
        not have started yet, or the job may have ended.
        """
        problem = ""
        snapshot: Mapping[str, GangStatus] | None = None
        try:
            snapshot = await self._engine.snapshot()
            await self._submitter.refresh_machines()
        except IrisError as error:
            problem = str(error)
        return Survey(
            machines=self._submitter.machines,
            allocations=all_allocations(self._gangs, snapshot),
            waiting=[*self._gangs.waiting_at_engine(), *self._gangs.queue],
            reserved_for=self._submitter.reserved_for,
            workers={slot.worker_id: slot.machine for status in (snapshot or {}).values() for slot in status.slots},
            problem=problem,
        )

    # The loop.

    async def run(self) -> None:
        """Make scheduling passes until the controller stops. A pass follows each relevant change, and begins at least
        every `TICK_S` seconds.

        After each pass, this method sleeps for as long as the pass has kept the event loop's thread busy, but at most
        for `TICK_S` seconds. Therefore about half of the event loop's time remains for all other work.
        """
        pause_s = TICK_S
        while True:
            await happens(self._wake, pause_s)
            self._wake.clear()
            pause_s = TICK_S
            begin_s = time.thread_time()
            try:
                explain_all = self._clock() >= self._next_explanation_s
                if explain_all:
                    self._next_explanation_s = self._clock() + TICK_S
                await self.make_pass(explain_all=explain_all)
                next_s = min(self._gangs.next_due_s(), self._job_timers.next_s())
                pause_s = min(TICK_S, max(0.0, next_s - self._clock()))
            except IrisError as error:
                # The engine cannot be reached. The reasons of the waiting gangs mention this problem.
                _log.warning("a scheduling pass failed, trying again in %g s: %s", TICK_S, error)
                self._explain_unreachable(str(error))
            except Exception:  # noqa: BLE001 - A bug must not end scheduling for all jobs.
                _log.exception("a scheduling pass failed")
            await asyncio.sleep(min(time.thread_time() - begin_s, TICK_S))

    async def watch_engine(self) -> None:
        """Wait for changes at the engine, and wake the scheduler after each possible change."""
        while True:
            await self._engine.wait_for_change(TICK_S)
            self._wake.set()

    async def make_pass(self, *, explain_all: bool) -> None:
        """Make one scheduling pass.

        1. Release the gangs that their jobs do not need any more.
        2. Apply the engine's snapshot: granted gangs start, lost slots end their attempts.
        3. End the retry pauses and timeouts that are due.
        4. Request allocations for the gangs that start next. Afterwards apply a new snapshot, because the engine may
           have granted some of the requests at once.
        5. Set the reasons why new gangs wait. With `explain_all`, update the reasons of all waiting gangs.

        The cost of a pass does not grow with the number of waiting gangs, unless `explain_all` is true.
        """
        try:
            await self._release_due()
            self.apply_snapshot(await self._engine.snapshot())
        finally:  # Timeouts must also expire while the engine cannot be reached.
            self._apply_time()
        if explain_all:
            self._forget_strays()
        if self._problem:
            self._problem = ""
            explain_all = True
        if self._gangs.queue or self._gangs.has_waiting_at_engine():
            await self._start_next(explain_all=explain_all)
        self._explanations.publish()

    async def _start_next(self, *, explain_all: bool) -> None:
        plan = await self._submitter.submit_next()
        if plan.submit:
            self.apply_snapshot(await self._engine.snapshot())
        if plan.has_more:
            self._wake.set()
        self._submitter.explain(plan, explain_all=explain_all)

    async def _release_due(self) -> None:
        """Release all gangs in the state `ReleaseDue`. If a release fails, the next pass tries again, after the
        releases of all other gangs.
        """
        for gang in self._gangs.in_state(ReleaseDue):
            try:
                await self._engine.release(gang.gang_id)
            except IrisError as error:
                _log.warning("gang %s cannot be released now, trying again: %s", gang.gang_id, error)
                self._gangs.move_to_end(gang)
                return
            self._deliver(gang, Released())

    def apply_snapshot(self, snapshot: Mapping[str, GangStatus]) -> None:
        """Start the gangs that the engine has granted, and end the attempts in slots that the engine has lost."""
        if self._slot_workers is not None:
            snapshot = self._with_forgotten_held(snapshot)
        now_s = self._clock()
        for gang in self._gangs.in_state(Lost, ReleaseDue, Releasing, Draining, Requested, Granted, Held):
            status = snapshot.get(gang.gang_id)
            if is_news(gang.state, status):
                self._deliver(gang, self._snapshot_event(status, now_s))
        if self._slot_workers is not None:
            # `apply_snapshot` removes the workers of released gangs. Therefore this call comes after the steps that
            # still need these workers.
            self._slot_workers.apply_snapshot(snapshot)

    def _snapshot_event(self, status: GangStatus | None, now_s: float) -> SnapshotSeen:
        if status is None or status.state is GangState.WAITING:
            return SnapshotSeen(status, now_s)
        if status.state is GangState.BROKEN:
            refusal = self._workers.why_refused(slot.worker_id for slot in status.slots)
            return SnapshotSeen(status, now_s, refusal=refusal)
        missing = [self._workers.missing_worker(slot.worker_id) for slot in status.slots]
        found = tuple(worker for worker in missing if worker is not None)
        return SnapshotSeen(status, now_s, missing=found, register_limit_s=self._start_limit_s)

    def _with_forgotten_held(self, snapshot: Mapping[str, GangStatus]) -> Mapping[str, GangStatus]:
        """Add the running gangs that the engine has forgotten to a snapshot (see `forgotten_status`)."""
        forgotten = {
            gang.gang_id: forgotten_status(record, gang.gang_id, self.slots.of_job(gang.job_id))
            for gang in self._gangs.in_state(Held)
            if gang.gang_id not in snapshot
            and (record := self._jobs.get(gang.job_id)) is not None
            and gang.gang_id in record.job.gangs
        }
        return dict(snapshot) | forgotten

    def _apply_time(self) -> None:
        while (gang := self._gangs.pop_due(self._clock())) is not None:
            self._deliver(gang, TimePassed(self._clock()))
        while (job_id := self._job_timers.pop_due(self._clock())) is not None:
            record = self._jobs.get(job_id)
            if record is None:
                continue
            error = f"job timed out after {record.launch.job_timeout_seconds} s"
            self._changes.job_changed(record, record.job.time_out(error, now_ms()))

    def _forget_strays(self) -> None:
        if self._slot_workers is not None:
            unclear = [gang for gang in self._gangs.in_state(Held) if not gang.has_machines]
            records = [record for gang in unclear if (record := self._jobs.get(gang.job_id)) is not None]
            live = [one for record in records for one in record.job.live_attempts().values()]
            self._slot_workers.forget_strays(keep={attempt.worker_id for attempt in live})

    def _explain_unreachable(self, problem: str) -> None:
        newcomers = self._gangs.queue.newcomers
        if problem != self._problem or newcomers:
            self._problem = problem
            newcomers.clear()
            for gang in self._gangs.in_state(Queued, Requested, Granted):
                self._explanations.add_engine_problem(gang.job_id, gang.gang_id, problem)
            self._submitter.forget_reasons()
        self._explanations.publish()

    def _deliver(self, gang: GangRecord, event: Event) -> None:
        for instruction in self._reports.deliver(gang, event):
            if isinstance(instruction, Drain) and self._slot_workers is not None:
                self._in_background(self._drain(self._slot_workers, gang.gang_id))

    async def _drain(self, slot_workers: SlotWorkers, gang_id: str) -> None:
        try:
            await slot_workers.drain(gang_id)
        finally:
            slot_workers.mark_dead(gang_id)
            gang = self._gangs.get(gang_id)
            if gang is not None:
                self._deliver(gang, Drained())
            self._wake.set()
