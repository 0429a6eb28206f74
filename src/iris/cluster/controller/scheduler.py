"""Asks the engine for room in the order that `queue.py` decides, and tells jobs what became of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from iris.cluster.controller import queue
from iris.cluster.controller.backoff import DEFAULT_PAUSE_MS, LONGEST_PAUSE_MS, pause_before
from iris.cluster.controller.fleet import Fleet
from iris.cluster.controller.job import Instruction
from iris.cluster.controller.launch import gang_of
from iris.cluster.controller.record import JobRecord
from iris.cluster.controller.slot_workers import SlotWorkers
from iris.cluster.controller.timers import Timers
from iris.cluster.engine.base import Engine, GangRejectedError, GangRequest, GangState, GangStatus
from iris.errors import IrisError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.rpc.process import happens

TICK_S = 1.0
# What time brings, with the id of a gang or a job: the end of a pause, of the time to be placed in, of a job's time.
Due = tuple[Literal["pause", "placement", "job"], str]
_log = logging.getLogger(__name__)


class Apply(Protocol):
    """How the controller takes an event: what a job has become will be kept and told, then the rest is done."""

    def __call__(self, record: JobRecord, instructions: Iterable[Instruction]) -> None: ...


class Scheduler:
    """The books of who waits for room, has asked for it, and holds it.

    Args:
        engine: Who places.
        jobs: By job id; the controller's own.
        fleet: The workers.
        apply: Where events go.
        in_background: Runs what the scheduler does not wait for.
        drain_s: How long workers that end with their gang may take to hand over what they have.
    """

    def __init__(
        self,
        engine: Engine,
        jobs: Mapping[str, JobRecord],
        fleet: Fleet,
        apply: Apply,
        in_background: Callable[[Coroutine[Any, Any, None]], None],
        drain_s: float,
    ) -> None:
        self._engine = engine
        self._jobs = jobs
        self._fleet = fleet
        self._workers = fleet.workers
        self._slot_workers = None if engine.shared_workers else SlotWorkers(fleet, drain_s)
        self._apply = apply
        self._in_background = in_background
        self._timers: Timers[Due] = Timers()
        self._pausing: dict[str, GangRequest] = {}  # not in the queue yet
        self._line = queue.Line()
        self._newcomers: dict[str, None] = {}  # of them, those that have not been told yet why they wait
        self._submitted: dict[str, queue.Waiting] = {}  # asked of the engine, attempts not started yet
        self._held: dict[str, queue.Held] = {}
        self._draining: set[str] = set()  # their workers hand over what they have: to be released after that
        self._to_release: dict[str, None] = {}  # a set that keeps its order
        # How often in a row a job's gangs have lost their room before they could start, and why the last of them did.
        self._setbacks: dict[str, tuple[int, str]] = {}
        self._explained: dict[str, JobRecord] = {}  # jobs of which a reason has changed in this pass
        self._next_look_s = 0.0  # at all that wait
        self._wake = asyncio.Event()

    def job_came(self, record: JobRecord) -> None:
        """A job's time runs, from its submission on."""
        limit_s = record.launch.job_timeout_seconds
        if limit_s and not record.job.is_finished:
            # Before a restart of ours only the wall clock has counted; it can have been set meanwhile.
            gone_s = max(0.0, (_now_ms() - record.job.submitted_at_ms) / 1000)
            self._timers.set(("job", record.job.job_id), time.monotonic() + limit_s - gone_s)
            self._wake.set()

    def job_ended(self, job_id: str) -> None:
        """Its time is of no interest any more."""
        self._timers.drop(("job", job_id))
        self._setbacks.pop(job_id, None)

    def request_room(self, record: JobRecord, gang_id: str, slots: int, not_before_ms: int) -> None:
        """A gang joins the queue, at once or after a pause. It waits since `not_before_ms` where that has passed."""
        request = gang_of(record.launch, gang_id, slots)
        due_s = self._limit_placement(record, gang_id, not_before_ms)
        setbacks, why = self._setbacks.get(record.job.job_id, (0, ""))
        pause_ms = pause_before(setbacks, DEFAULT_PAUSE_MS, gang_id)
        if pause_ms:
            due_s = max(due_s, time.monotonic() + pause_ms / 1000)
            self._explain(
                gang_id, f"waiting: room is asked for again in a while, since what it had was of no use: {why}"
            )
        if due_s > time.monotonic():
            self._pausing[gang_id] = request
            self._timers.set(("pause", gang_id), due_s)
        else:
            self._join(request)
        self._wake.set()

    def release_room(self, gang_id: str) -> None:
        """A gang leaves the queue, or gives its room back."""
        self._timers.drop(("pause", gang_id))
        self._timers.drop(("placement", gang_id))
        if self._pausing.pop(gang_id, None) is None and self._line.leave(gang_id) is None:
            self._give_back(gang_id, has_run=gang_id in self._held)
        self._newcomers.pop(gang_id, None)
        self._wake.set()

    def wake(self) -> None:
        """Something has changed that may let somebody start."""
        self._wake.set()

    def adopt(self, snapshot: Mapping[str, GangStatus]) -> None:
        """After a restart of the controller: takes the gangs of jobs that go on into the books, releases the others."""
        unwanted = dict(snapshot)
        for record in self._jobs.values():
            for gang_id, gang in record.job.gangs.items():
                known = unwanted.pop(gang_id, None)
                if known is None:
                    continue
                request = gang_of(record.launch, gang_id, len(gang.task_indices))
                if gang.placed:
                    self._hold(record, request, known)
                else:
                    self._submitted[gang_id] = queue.Waiting(request, time.monotonic())
                    self._limit_placement(record, gang_id, record.job.tasks[gang.task_indices[0]].not_before_ms)
        if self._slot_workers is not None:
            self._slot_workers.take_snapshot(snapshot)
        for gang_id, status in unwanted.items():
            self._give_back(gang_id, has_run=bool(status.slots))  # what it runs is told to end when it reports

    async def list_machines(self) -> cluster_pb2.Controller.ListMachinesResponse:
        """The machines, who holds them, and who waits."""
        machines = await self._engine.machines()
        return cluster_pb2.Controller.ListMachinesResponse(
            engine=self._engine.name,
            machines=[
                cluster_pb2.Controller.Machine(name=machine.name, labels=dict(machine.labels), alive=machine.alive)
                for machine in machines
            ],
        )

    def _give_back(self, gang_id: str, *, has_run: bool) -> None:
        """Room is released with the next pass; where workers end with it, once they have handed over what they have."""
        if self._slot_workers is None or not has_run:
            self._to_release[gang_id] = None
        elif gang_id not in self._draining:
            self._draining.add(gang_id)
            self._in_background(self._drain(self._slot_workers, gang_id))

    async def _drain(self, slot_workers: SlotWorkers, gang_id: str) -> None:
        try:
            await slot_workers.drain(gang_id)
        finally:
            slot_workers.ending(gang_id)
            self._draining.discard(gang_id)
            self._to_release[gang_id] = None
            self._wake.set()

    async def run(self) -> None:
        """Schedules for as long as the controller lives: whenever something changes, and with every tick.

        After a pass comes a pause for as long as it kept the loop busy: half of its time is for everybody else.
        """
        pause_s = TICK_S
        while True:
            await happens(self._wake, pause_s)
            self._wake.clear()
            pause_s = TICK_S
            begin_s = time.thread_time()
            try:
                await self._schedule()
                pause_s = min(TICK_S, max(0.0, self._timers.next_s() - time.monotonic()))
            except IrisError as error:
                # The engine cannot be reached, which is no news of its gangs.
                _log.warning("scheduling goes on in a second: %s", error)
            except Exception:  # noqa: BLE001 - a bug must not end scheduling for all jobs
                _log.exception("scheduling")
            await asyncio.sleep(min(time.thread_time() - begin_s, TICK_S))

    async def watch_engine(self) -> None:
        """Wakes up when the engine may have news."""
        while True:
            await self._engine.wait_for_change(TICK_S)
            self._wake.set()

    async def _schedule(self) -> None:
        """One pass:

        1. Room that was given back is released.
        2. What the engine has placed starts, what it has lost ends.
        3. What is due: pauses that are over, and who has waited or run for too long.
        4. The queue decides who is next; that is submitted, and looked at once more, since it may be placed by now.
        5. Who has just come is told why it waits. Once a second everybody is, since it changes all the time.

        What happens in each pass does not take longer when more gangs wait; what does is done once a second.
        """
        try:
            for gang_id in list(self._to_release):
                await self._engine.release(gang_id)
                del self._to_release[gang_id]
                self._held.pop(gang_id, None)
                self._submitted.pop(gang_id, None)
            self.take_snapshot(await self._engine.snapshot())
        finally:  # time passes also while the engine cannot be reached
            while (due := self._timers.pop_due(time.monotonic())) is not None:
                self._take_due(*due)
        look_at_all = time.monotonic() >= self._next_look_s
        if look_at_all:
            self._next_look_s = time.monotonic() + TICK_S
            if self._slot_workers is not None:
                self._slot_workers.forget_strays()
        if self._line:
            await self._submit_next(look_at_all)
        self._tell_explained()

    async def _submit_next(self, tell_all: bool) -> None:
        machines = await self._engine.machines()
        plan = queue.plan(self._line, list(self._held.values()), machines, time.monotonic())
        for gang in plan.submit:
            waiting = self._line.leave(gang.gang_id)
            if waiting is None:
                continue  # its job ended while we awaited the engine
            self._submitted[gang.gang_id] = waiting
            try:
                failpoint("placement.before")
                await self._engine.submit(gang)
                failpoint("placement.after")
            except GangRejectedError as error:
                self._reject(gang.gang_id, str(error))
        if plan.submit:
            self.take_snapshot(await self._engine.snapshot())
        if self._engine.elastic:
            plan.reasons |= plan.impossible
        else:
            for kind, reason in plan.impossible.items():
                for gang_id in list(self._line.by_kind().get(kind, ())):
                    self._reject(gang_id, f"it can never be placed: {reason}")
        for gang_id in [entry.gang.gang_id for entry in self._line] if tell_all else list(self._newcomers):
            why = plan.reasons.get(self._line.kind_of(gang_id)) if gang_id in self._line else ""
            if why is None:
                continue  # it has come since the plan was made
            self._newcomers.pop(gang_id, None)
            if why:
                self._explain(gang_id, f"waiting: {why}")

    def take_snapshot(self, snapshot: Mapping[str, GangStatus]) -> None:
        """What the engine has placed starts, what it has lost ends."""
        for gang_id in list(self._submitted):
            known = snapshot.get(gang_id)
            if known is None or known.state is GangState.BROKEN:
                self._room_lost(gang_id, known)
            elif known.state is GangState.HELD:
                self._place(gang_id, known)
            else:
                self._explain(gang_id, f"waiting: {known.reason}")
        for gang_id, held in list(self._held.items()):
            known = snapshot.get(gang_id)
            if known is None:
                self._slots_lost(gang_id, range(held.gang.slots), "the engine has let go of it")
            elif known.state is GangState.BROKEN:
                self._slots_lost(gang_id, known.lost, known.reason)
        if self._slot_workers is not None:
            self._slot_workers.take_snapshot(snapshot)  # last: what is forgotten runs nothing any more

    def _place(self, gang_id: str, known: GangStatus) -> None:
        record = self._record_of(gang_id)
        slots = known.slots
        absent = [why for slot in slots if (why := self._fleet.why_absent(slot.worker_id))]
        if absent:
            self._explain(gang_id, f"waiting: {_in_short(absent)}")
            return
        self._timers.drop(("placement", gang_id))
        self._setbacks.pop(record.job.job_id, None)
        self._hold(record, self._submitted.pop(gang_id).gang, known)
        places = [self._workers[slot.worker_id].place for slot in slots]
        self._apply(record, record.job.gang_placed(gang_id, places))

    def _room_lost(self, gang_id: str, known: GangStatus | None) -> None:
        """Its workers ended before it could start, perhaps since they cannot start at all: each time it is asked for
        again a little later."""
        self._submitted.pop(gang_id)
        record = self._record_of(gang_id)
        workers = [] if known is None else [slot.worker_id for slot in known.slots]
        why = self._fleet.why_refused(workers) or (known.reason if known is not None else "the engine has let go of it")
        setbacks, _ = self._setbacks.get(record.job.job_id, (0, ""))
        self._setbacks[record.job.job_id] = (setbacks + 1, why)
        self._apply(record, record.job.room_lost(gang_id))

    def _slots_lost(self, gang_id: str, positions: Iterable[int], reason: str) -> None:
        record = self._record_of(gang_id)
        gang = record.job.gangs.get(gang_id)
        if gang is None:
            return
        live = record.job.live_attempts(gang.task_indices[position] for position in positions)
        for attempt in live.values():
            worker = self._workers.get(attempt.worker_id)
            if worker is not None and worker.place.incarnation == attempt.worker_incarnation:
                worker.gone = True
        lost = {index: attempt.attempt_id for index, attempt in live.items()}
        if lost:
            names = ", ".join(sorted({attempt.worker_id for attempt in live.values()}))
            error = f"worker {names} was lost: {reason}"
            self._apply(record, record.job.attempts_lost(lost, error, _now_ms()))

    def _limit_placement(self, record: JobRecord, gang_id: str, not_before_ms: int) -> float:
        """Sets the end of the time to be placed in; answers with its beginning, in monotonic seconds."""
        wait_ms = min(not_before_ms - _now_ms(), LONGEST_PAUSE_MS) if not_before_ms else 0
        since_s = time.monotonic() + wait_ms / 1000
        limit_s = record.launch.scheduling_timeout_seconds
        if limit_s:
            self._timers.set(("placement", gang_id), since_s + limit_s)
        return since_s

    def _take_due(self, what: str, name: str) -> None:
        if what == "pause":
            self._join(self._pausing.pop(name))
        elif what == "placement":
            self._give_up(name)
        else:
            record = self._jobs[name]
            error = f"job timed out after {record.launch.job_timeout_seconds} s"
            self._apply(record, record.job.time_out(error, _now_ms()))

    def _join(self, request: GangRequest) -> None:
        self._line.join(queue.Waiting(request, time.monotonic()))
        self._newcomers[request.gang_id] = None

    def _give_up(self, gang_id: str) -> None:
        """A gang was not placed in time, and its job ends; unless others of its independent tasks run: the job has
        room, and this one waits for its turn."""
        record = self._record_of(gang_id)
        gang = record.job.gangs.get(gang_id)
        if gang is None:
            return  # its job has given it up already, which waits for being kept
        limit_s = record.launch.scheduling_timeout_seconds
        if record.job.live_attempts():
            self._timers.set(("placement", gang_id), time.monotonic() + limit_s)
            return
        why = f" ({gang.reason})" if gang.reason else ""
        error = f"not placed within its scheduling timeout of {limit_s} s{why}"
        self._apply(record, record.job.unschedulable(error, _now_ms()))

    def _reject(self, gang_id: str, error: str) -> None:
        self._line.leave(gang_id)
        self._submitted.pop(gang_id, None)
        record = self._record_of(gang_id)
        self._apply(record, record.job.unschedulable(error, _now_ms()))

    def _explain(self, gang_id: str, reason: str) -> None:
        record = self._record_of(gang_id)
        is_saved = record.saved_revision == record.job.revision
        if record.job.explain_waiting(gang_id, reason):
            if is_saved:
                record.saved_revision = record.job.revision  # a reason is not stored: it is found out anew
            self._explained[record.job.job_id] = record

    def _tell_explained(self) -> None:
        """Once for each job, however many of its tasks wait."""
        explained, self._explained = self._explained, {}
        for record in explained.values():
            if record.saved_revision == record.job.revision:
                record.tell_watchers()
            else:
                self._apply(record, ())  # it is told once it is saved

    def _hold(self, record: JobRecord, request: GangRequest, known: GangStatus) -> None:
        names = tuple(slot.machine for slot in known.slots)
        self._held[request.gang_id] = queue.Held(request, time.monotonic(), names)
        gang = record.job.gangs.get(request.gang_id)
        if gang is not None:
            record.gpu_ids |= {i: slot.gpu_ids for i, slot in zip(gang.task_indices, known.slots, strict=True)}
            record.machines |= dict(zip(gang.task_indices, names, strict=True))

    def _record_of(self, gang_id: str) -> JobRecord:
        return self._jobs[gang_id.rpartition("@")[0]]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _in_short(absent: Sequence[str]) -> str:
    """Why workers are not there: of one, a refusal before all others, and how many more there are."""
    first = next((why for why in absent if "was refused" in why), absent[0])
    return f"{first} (and {len(absent) - 1} more are not there)" if len(absent) > 1 else first
