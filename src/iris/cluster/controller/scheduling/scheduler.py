"""Asks the engine for room in the order that `queue.py` decides, and tells jobs what became of it."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal

from iris.cluster.controller.api import machine_view
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.retry_pause import DEFAULT_PAUSE_MS, LONGEST_PAUSE_MS, pause_before
from iris.cluster.controller.scheduling import queue
from iris.cluster.controller.scheduling.capacity import MachineSet
from iris.cluster.controller.scheduling.draining import DRAIN_S, SlotWorkers
from iris.cluster.controller.scheduling.explanations import Explanations, JobChanges
from iris.cluster.controller.scheduling.slots import SlotTable
from iris.cluster.controller.scheduling.timers import Timers
from iris.cluster.controller.submission.request import gang_of
from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.engine.base import (
    AvoidsWorkers,
    Engine,
    GangRejectedError,
    GangRequest,
    GangState,
    GangStatus,
    Machine,
    Placement,
    Resources,
    Slot,
)
from iris.cluster.lease_terms import format_span
from iris.errors import IrisError, UnavailableError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.system.clock import ms_since, now_ms
from iris.system.event_loop import happens

TICK_S = 1.0
# For so long a gang that the engine was asked for has to be in the way of an older one until it is taken back. It may
# have its room by then, and be about to say so: Slurm does when the last of its slots has begun.
STUCK_S = 20.0
START_LIMIT_S = 300.0  # for workers to register that the engine has made room for
# What time brings, with the id of a gang or a job: the end of a pause, of the time to be placed in, of the time in
# which its workers have to come, of a job's time.
Due = tuple[Literal["pause", "placement", "start", "job"], str]
_OF_A_GANG: tuple[Literal["pause", "placement", "start"], ...] = ("pause", "placement", "start")
_log = logging.getLogger(__name__)


class Scheduler:
    """The books of who waits for room, has asked for it, and holds it.

    Attributes:
        slots: The slots of all placed tasks.

    Args:
        engine: Who places.
        jobs: By job id; the controller's own.
        fleet: The workers.
        changes: Where changed jobs are reported.
        in_background: Runs what the scheduler does not wait for.
        drain_s: How long workers that end with their gang may take to hand over what they have.
        start_limit_s: For how long room is held for workers that do not come; then it is given back, and asked for
            anew. A worker may be unable to start where the engine has put it.
    """

    def __init__(
        self,
        engine: Engine,
        jobs: Mapping[str, JobRecord],
        fleet: Fleet,
        changes: JobChanges,
        in_background: Callable[[Coroutine[Any, Any, None]], None],
        drain_s: float = DRAIN_S,
        start_limit_s: float = START_LIMIT_S,
    ) -> None:
        self._engine = engine
        self._jobs = jobs
        self._fleet = fleet
        self._workers = fleet.workers
        self._slot_workers = None if engine.shared_workers else SlotWorkers(fleet, drain_s)
        self._apply = changes.job_changed
        self._in_background = in_background
        self._start_limit_s = start_limit_s
        self._timers: Timers[Due] = Timers()
        self._pausing: dict[str, GangRequest] = {}  # not in the queue yet
        self._line = queue.Line()
        self._newcomers: dict[str, None] = {}  # of them, those that have not been told yet why they wait
        self._submitted: dict[str, queue.Waiting] = {}  # asked of the engine, attempts not started yet
        self._unanswered: set[str] = set()  # of them, those of which it is not known whether the engine has heard
        self._words: dict[str, str] = {}  # of them, those that wait at the engine, and what it says
        self._granted: dict[str, queue.Held] = {}  # and those that have room, but not all of their workers
        self._held: dict[str, queue.Held] = {}
        self._draining: set[str] = set()  # their workers hand over what they have: to be released after that
        self._to_release: dict[str, None] = {}  # a set that keeps its order
        # How often in a row a job's gangs have lost their room before they could start.
        self._setbacks: Counter[str] = Counter()
        self._leaving: dict[str, queue.Held] = {}  # released, and still in the engine's snapshots
        self._late: set[str] = set()  # by job id: whose room was given back since its workers did not come
        self._stuck: dict[str, float] = {}  # who was to be withdrawn in the last pass, and since when
        self._reserved_for = ""
        self._layout: MachineSet | None = None
        self.slots = SlotTable()
        self._machines: Sequence[Machine] = ()  # as they were seen last
        self._problem = ""  # why the engine cannot be asked
        self._explanations = Explanations(jobs, changes)
        self._next_look_s = 0.0  # at all that wait
        self._wake = asyncio.Event()

    def job_came(self, record: JobRecord) -> None:
        """A job's time runs, from its submission on."""
        limit_s = record.launch.job_timeout_seconds
        if limit_s and not record.job.is_finished:
            self._timers.set(("job", record.job.job_id), time.monotonic() + limit_s - _age_ms(record.job) / 1000)
            self._wake.set()

    def job_ended(self, job_id: str) -> None:
        """Its time is of no interest any more."""
        self._timers.drop(("job", job_id))
        self.slots.forget_job(job_id)
        self._forget_setbacks(job_id)
        self._late.discard(job_id)

    def request_room(self, record: JobRecord, gang_id: str, slots: int, not_before_ms: int) -> None:
        """A gang joins the queue, at once or after a pause. It waits since `not_before_ms`, also where that is long
        ago: it may have had room, and lost it, or the controller was away."""
        request = gang_of(record.launch, gang_id, slots)
        due_s = self._limit_placement(record, gang_id, not_before_ms)
        if record.job.job_id in self._late:
            self._late.discard(record.job.job_id)
            due_s = max(due_s, time.monotonic())  # behind all: it must not hold room from others again and again
        pause_ms = pause_before(self._setbacks[record.job.job_id], DEFAULT_PAUSE_MS, gang_id)
        if pause_ms:
            due_s = max(due_s, time.monotonic() + pause_ms / 1000)
            self._explanations.say(
                gang_id,
                "waiting: room is asked for again in a while, since what it had was of no use:"
                f" {self._explanations.troubles[record.job.job_id]}",
            )
        if due_s > time.monotonic():
            self._pausing[gang_id] = request
            self._timers.set(("pause", gang_id), due_s)
        else:
            self._join(request, due_s)
        self._wake.set()

    def release_room(self, gang_id: str) -> None:
        """A gang leaves the queue, or gives its room back."""
        for what in _OF_A_GANG:
            self._timers.drop((what, gang_id))
        if self._pausing.pop(gang_id, None) is None and self._line.leave(gang_id) is None:
            self._give_back(gang_id, has_run=gang_id in self._held)
        self._newcomers.pop(gang_id, None)
        self._wake.set()

    def wake(self) -> None:
        """Something has changed that may let somebody start."""
        self._wake.set()

    def with_forgotten(self, snapshot: Mapping[str, GangStatus]) -> Mapping[str, GangStatus]:
        """What the engine knows, after a restart of ours; with those gangs that ran and that it has forgotten, where it
        may be mistaken, see `_forgotten`."""
        if self._slot_workers is None:
            return snapshot
        return dict(snapshot) | {
            gang_id: self._forgotten(record, gang_id)
            for record in self._jobs.values()
            for gang_id, gang in record.job.gangs.items()
            if gang.placed and gang_id not in snapshot
        }

    def adopt(self, snapshot: Mapping[str, GangStatus]) -> None:
        """After a restart of the controller: takes the gangs of jobs that go on into the books, releases the others."""
        unwanted = dict(snapshot)
        for record in self._jobs.values():
            for gang_id, gang in record.job.gangs.items():
                known = unwanted.pop(gang_id, None)
                if known is None:
                    continue
                request = gang_of(record.launch, gang_id, len(gang.task_indices))
                if gang.placed:  # since when it has its room is not known: before all that wait
                    self._hold(record, request, known, float("-inf"))
                else:
                    not_before_ms = record.job.tasks[gang.task_indices[0]].not_before_ms
                    since_s = self._limit_placement(record, gang_id, not_before_ms)
                    self._submitted[gang_id] = queue.Waiting(request, since_s)
        if self._slot_workers is not None:
            self._slot_workers.take_snapshot(snapshot)
        for gang_id, status in unwanted.items():
            self._give_back(gang_id, has_run=bool(status.slots))  # what it runs is told to end when it reports

    async def list_machines(
        self, slices: Slices, page_size: int, page_token: str
    ) -> cluster_pb2.Controller.ListMachinesResponse:
        """List the machines, the jobs that hold them, and the gangs that wait; the latter on the first page only.

        Capacity that is not free has a holder in every answer: a gang counts until the engine has released it, also
        when its job has ended, and from the moment the engine has placed it, also before its attempts start.
        """
        problem = ""
        snapshot: Mapping[str, GangStatus] | None = None
        try:
            snapshot = await self._engine.snapshot()
            self._machines = await self._engine.machines()
        except IrisError as error:
            problem = str(error)
        held = self._holders(snapshot)
        waiting = [*(self._submitted[gang_id] for gang_id in self._words), *self._line]
        first = heapq.nsmallest(machine_view.MOST_WAITING, waiting, key=lambda entry: entry.since_s)
        records = [(self._record_of(entry.gang.gang_id), entry) for entry in first]
        page = await slices.run(
            machine_view.machine_page(self._machines, held, page_size=page_size, page_token=page_token)
        )
        gangs = [] if page_token else await slices.run(machine_view.waiting_messages(records, self._reserved_for))
        return cluster_pb2.Controller.ListMachinesResponse(
            engine=self._engine.name,
            machines=page.items,
            waiting=gangs,
            num_waiting=len(waiting),
            problem=problem,
            next_page_token=page.next_token,
        )

    def _holders(self, snapshot: Mapping[str, GangStatus] | None) -> list[tuple[str, queue.Held]]:
        """Return each gang that has capacity, with its job's id.

        Args:
            snapshot: The engine's gangs, some of which may not be in the books yet, or no longer; None when the engine
                does not answer.
        """
        leaving = {
            gang_id: entry for gang_id, entry in self._leaving.items() if snapshot is None or gang_id in snapshot
        }
        held = leaving | self._granted | self._held
        for gang_id, known in (snapshot or {}).items():
            if known.slots and gang_id not in held:
                request = GangRequest(gang_id, len(known.slots), Resources())
                held[gang_id] = self._as_held(request, known, 0.0)
        return [(_job_id_of(gang_id), entry) for gang_id, entry in held.items()]

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
                tell_all = time.monotonic() >= self._next_look_s
                if tell_all:
                    self._next_look_s = time.monotonic() + TICK_S
                await self.make_pass(tell_all=tell_all)
                pause_s = min(TICK_S, max(0.0, self._timers.next_s() - time.monotonic()))
            except IrisError as error:
                # The engine cannot be reached, which is no news of its gangs.
                _log.warning("scheduling goes on in a second: %s", error)
                self._say_unreachable(str(error))
            except Exception:  # noqa: BLE001 - a bug must not end scheduling for all jobs
                _log.exception("scheduling")
            await asyncio.sleep(min(time.thread_time() - begin_s, TICK_S))

    async def watch_engine(self) -> None:
        """Wakes up when the engine may have news."""
        while True:
            await self._engine.wait_for_change(TICK_S)
            self._wake.set()

    async def make_pass(self, *, tell_all: bool) -> None:
        """One pass:

        1. FreeCapacity that was given back is released.
        2. What the engine has placed starts, what it has lost ends.
        3. What is due: pauses that are over, and who has waited or run for too long.
        4. The queue decides who is next; that is submitted, and looked at once more, since it may be placed by now.
        5. Who has just come is told why it waits, or with `tell_all` everybody, since it changes all the time.

        What happens in each pass does not take longer when more gangs wait; what does is done once a second.
        """
        try:
            await self._release()
            self.take_snapshot(await self._engine.snapshot())
        finally:  # time passes also while the engine cannot be reached
            while (due := self._timers.pop_due(time.monotonic())) is not None:
                self._take_due(*due)
        if tell_all and self._slot_workers is not None:
            unclear = [gang_id for gang_id, held in self._held.items() if not held.machines]
            live = [attempt for one in unclear for attempt in self._record_of(one).job.live_attempts().values()]
            self._slot_workers.forget_strays(but={attempt.worker_id for attempt in live})
        if self._problem:
            self._problem = ""
            tell_all = True
        if self._line or self._words:
            await self._submit_next(tell_all)
        self._explanations.tell()

    async def _release(self) -> None:
        """Releases what was given back. What cannot be released now is tried again, behind the others, and holds nobody
        up: whether the engine can be reached at all, its next answer says."""
        for gang_id in list(self._to_release):
            try:
                await self._engine.release(gang_id)
            except IrisError as error:
                _log.warning("the room of gang %s is not released yet: %s", gang_id, error)
                del self._to_release[gang_id]
                self._to_release[gang_id] = None
                return
            del self._to_release[gang_id]
            held = self._held.pop(gang_id, None) or self._granted.get(gang_id)
            if held is not None:
                self._leaving[gang_id] = held
            self._forget_submitted(gang_id)

    async def _submit_next(self, tell_all: bool) -> None:
        """Lets the queue decide, and does it.

        Who is to be withdrawn is so when all passes have said it for `STUCK_S`: what the engine says of gangs and of
        machines are two answers, and it may have placed one, and not say so yet.
        """
        if isinstance(self._engine, AvoidsWorkers):
            self._engine.avoid(self._fleet.short())
        self._machines = await self._engine.machines()
        asked = [self._submitted[gang_id] for gang_id in self._words]
        held = [*self._held.values(), *self._granted.values(), *self._leaving.values()]
        plan = queue.plan(self._line, held, self._machines, time.monotonic(), asked, self._layout)
        self._layout = plan.layout
        self._reserved_for = plan.reserved_for
        now_s = time.monotonic()
        self._stuck = {gang_id: self._stuck.get(gang_id, now_s) for gang_id in plan.withdraw}
        for gang_id, since_s in self._stuck.items():
            if now_s - since_s >= STUCK_S:
                self._room_lost(gang_id)
        for gang in plan.submit:
            await self._submit(gang)
        if plan.submit:
            self.take_snapshot(await self._engine.snapshot())
        if plan.has_more:
            self._wake.set()
        if not self._engine.elastic:
            for kind in plan.impossible:
                for gang_id in list(self._line.by_kind().get(kind, ())):
                    advice = self._advice_for(gang_id, plan.layout)
                    self._reject(gang_id, f"it can never be placed: {plan.why(kind)}{advice}")
        just_asked = {gang.gang_id for gang in plan.submit}
        for gang_id, words in self._words.items():
            if tell_all or gang_id in just_asked:
                why = plan.why_asked(self._submitted[gang_id].gang)
                self._explanations.explain(gang_id, f"waiting: {why}; {self._engine.name} says: {words or 'nothing'}")
        self._tell_why(plan, tell_all=tell_all)

    async def _submit(self, gang: GangRequest) -> None:
        waiting = self._line.leave(gang.gang_id)
        if waiting is None:
            return  # its job ended while we awaited the engine
        self._newcomers.pop(gang.gang_id, None)
        self._submitted[gang.gang_id] = waiting
        try:
            failpoint("placement.before")
            await self._engine.submit(gang)
            failpoint("placement.after")
        except GangRejectedError as error:
            self._reject(gang.gang_id, str(error))
        except UnavailableError:
            self._unanswered.add(gang.gang_id)
            raise

    def _tell_why(self, plan: queue.Plan, *, tell_all: bool) -> None:
        """Tells those who wait here why. Who has come since the plan was made is told after the next."""
        told: dict[queue.Kind, list[str]] = {}
        if tell_all:
            told = {kind: list(gangs) for kind, gangs in self._line.by_kind().items()}
        else:
            for gang_id in self._newcomers:
                told.setdefault(self._line.kind_of(gang_id), []).append(gang_id)
        for kind, gang_ids in told.items():
            why = plan.why(kind)
            if why is None:
                continue
            text = f"waiting: {why}"
            for gang_id in gang_ids:
                self._newcomers.pop(gang_id, None)
                self._explanations.explain(gang_id, text)

    def _say_unreachable(self, problem: str) -> None:
        if problem != self._problem or self._newcomers:
            self._problem = problem
            self._newcomers.clear()
            self._explanations.add([*(entry.gang.gang_id for entry in self._line), *self._submitted], problem)
        self._explanations.tell()

    def take_snapshot(self, snapshot: Mapping[str, GangStatus]) -> None:
        """What the engine has placed starts, what it has lost ends."""
        if self._slot_workers is not None:
            forgotten = [gang_id for gang_id in self._held.keys() - snapshot.keys() if self._still_has(gang_id)]
            snapshot = dict(snapshot) | {
                gang_id: self._forgotten(self._record_of(gang_id), gang_id) for gang_id in forgotten
            }
        for gang_id in [gang_id for gang_id in self._leaving if gang_id not in snapshot]:
            del self._leaving[gang_id]
        for gang_id in list(self._submitted):
            known = snapshot.get(gang_id)
            if known is None:
                self._room_lost(gang_id, "" if gang_id in self._unanswered else "the engine has let go of it")
                continue
            self._unanswered.discard(gang_id)
            if known.state is GangState.BROKEN:
                refused = self._fleet.why_refused(slot.worker_id for slot in known.slots)
                self._room_lost(gang_id, refused or f"the room that it had was lost: {known.reason}")
            elif known.state is GangState.HELD:
                self._words.pop(gang_id, None)
                self._place(gang_id, known)
            else:
                self._words[gang_id] = known.reason
        for gang_id, held in list(self._held.items()):
            known = snapshot.get(gang_id)
            if known is None:
                self._slots_lost(gang_id, range(held.gang.slots), "the engine has let go of it")
                continue
            if known.slots and not held.machines:
                self._hold(self._record_of(gang_id), held.gang, known, held.since_s)
            if known.state is GangState.BROKEN:
                self._slots_lost(gang_id, known.lost, known.reason)
        if self._slot_workers is not None:
            self._slot_workers.take_snapshot(snapshot)  # last: what is forgotten runs nothing any more

    def _place(self, gang_id: str, known: GangStatus) -> None:
        record = self._record_of(gang_id)
        slots = known.slots
        absent = [why for slot in slots if (why := self._fleet.why_absent(slot.worker_id))]
        if absent:
            if gang_id not in self._granted:
                self._granted[gang_id] = self._as_held(self._submitted[gang_id].gang, known, time.monotonic())
                self._timers.set(("start", gang_id), time.monotonic() + self._start_limit_s)
            self._explanations.explain(gang_id, f"waiting: {_in_short(absent)}")
            return
        self._timers.drop(("placement", gang_id))
        self._forget_setbacks(record.job.job_id)
        self._hold(record, self._submitted[gang_id].gang, known, time.monotonic())
        self._forget_submitted(gang_id)
        places = [self._workers[slot.worker_id].place for slot in slots]
        self._apply(record, record.job.gang_placed(gang_id, places))

    def _forget_setbacks(self, job_id: str) -> None:
        self._setbacks.pop(job_id, None)
        self._explanations.troubles.pop(job_id, None)

    def _forget_submitted(self, gang_id: str) -> None:
        self._submitted.pop(gang_id, None)
        self._unanswered.discard(gang_id)
        self._words.pop(gang_id, None)
        self._granted.pop(gang_id, None)
        self._timers.drop(("start", gang_id))

    def _room_lost(self, gang_id: str, trouble: str = "") -> None:
        """A gang that was submitted has no room, or no more, and asks again. Where that is for a `trouble`, it is said
        for as long as it waits, and it asks a little later each time: its workers may be unable to start at all."""
        held = self._granted.get(gang_id)
        self._forget_submitted(gang_id)
        if held is not None:
            self._leaving[gang_id] = held
        record = self._record_of(gang_id)
        if trouble and gang_id in record.job.gangs:  # else its job may have ended, and would be remembered for ever
            self._explanations.troubles[record.job.job_id] = trouble
            self._setbacks[record.job.job_id] += 1
        self._apply(record, record.job.room_lost(gang_id))

    def _workers_late(self, gang_id: str) -> None:
        """Workers of a gang have not come in time: they may be unable to start where they are, or to reach us."""
        held = self._granted.get(gang_id)
        if held is not None:
            where = ", ".join(sorted(set(held.machines))[:4])
            _log.warning("gang %s: its workers on %s do not register; its room is given back", gang_id, where)
            limit = format_span(self._start_limit_s)
            self._late.add(self._record_of(gang_id).job.job_id)
            self._room_lost(gang_id, f"it had room on {where}, but no worker registered from there within {limit}")

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
            self._apply(record, record.job.attempts_lost(lost, error, now_ms()))

    def _limit_placement(self, record: JobRecord, gang_id: str, not_before_ms: int) -> float:
        """Sets the end of the time to be placed in; answers with its beginning, in monotonic seconds."""
        wait_ms = min(not_before_ms - now_ms(), LONGEST_PAUSE_MS) if not_before_ms else 0
        wait_ms = max(wait_ms, -_age_ms(record.job))  # the wall clock may have been set ahead since
        since_s = time.monotonic() + wait_ms / 1000
        limit_s = record.launch.scheduling_timeout_seconds
        if limit_s:
            self._timers.set(("placement", gang_id), since_s + limit_s)
        return since_s

    def _take_due(self, what: str, name: str) -> None:
        if what == "pause":
            self._join(self._pausing.pop(name), time.monotonic())
        elif what == "start":
            self._workers_late(name)
        elif what == "placement":
            self._give_up(name)
        else:
            record = self._jobs[name]
            error = f"job timed out after {record.launch.job_timeout_seconds} s"
            self._apply(record, record.job.time_out(error, now_ms()))

    def _join(self, request: GangRequest, since_s: float) -> None:
        self._line.join(queue.Waiting(request, since_s))
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
        self._apply(record, record.job.unschedulable(error, now_ms()))

    def _advice_for(self, gang_id: str, layout: MachineSet) -> str:
        """What cures a gang that is too large as a whole, while each of its tasks alone would have room; else empty."""
        record = self._record_of(gang_id)
        slots, need, _, labels = self._line.kind_of(gang_id)
        alone = GangRequest(gang_id, 1, need, Placement.ANY, labels)
        if slots == 1 or record.launch.rendezvous or not layout.fits_with_all_alive(alone):
            return ""
        return (
            ". Its tasks have to start together; tasks that may start one by one, as there is room, are run with"
            " --independent, or coscheduled=False in Python"
        )

    def _reject(self, gang_id: str, error: str) -> None:
        self._line.leave(gang_id)
        self._newcomers.pop(gang_id, None)
        self._forget_submitted(gang_id)
        record = self._record_of(gang_id)
        self._apply(record, record.job.unschedulable(error, now_ms()))

    def _hold(self, record: JobRecord, request: GangRequest, known: GangStatus, since_s: float) -> None:
        self._held[request.gang_id] = self._as_held(request, known, since_s)
        gang = record.job.gangs.get(request.gang_id)
        if gang is not None and known.slots:  # else, after a restart, the engine has yet to find out where they are
            self.slots.assign(record.job_id, gang.task_indices, known.slots)

    def _forgotten(self, record: JobRecord, gang_id: str) -> GangStatus:
        """A gang that ran, and that its engine knows no more, where each slot has a worker of its own. The engine's
        memory may have gone with its head, and a machine that nobody reaches runs on: nothing of it is certainly dead.
        """
        known = self.slots.of_job(record.job_id)
        slots = tuple(
            Slot(record.job.tasks[index].attempts[-1].worker_id, known[index].machine if index in known else "")
            for index in record.job.gangs[gang_id].task_indices
        )
        return GangStatus(GangState.BROKEN, slots, frozenset(), "the engine knows nothing of it any more")

    def _still_has(self, gang_id: str) -> bool:
        """Whether its job has not given the room of a gang back."""
        return gang_id in self._record_of(gang_id).job.gangs

    def _record_of(self, gang_id: str) -> JobRecord:
        return self._jobs[_job_id_of(gang_id)]

    def _as_held(self, request: GangRequest, known: GangStatus, since_s: float) -> queue.Held:
        record = self._jobs.get(_job_id_of(request.gang_id))
        gang = None if record is None else record.job.gangs.get(request.gang_id)
        indices = () if gang is None else tuple(gang.task_indices)
        return queue.Held(request, since_s, tuple(slot.machine for slot in known.slots), indices)


def _age_ms(job: Job) -> int:
    """For how long a job has been there, also before a restart of ours, and wherever the wall clock was set."""
    return ms_since(job.submitted_stamp, job.submitted_at_ms)


def _job_id_of(gang_id: str) -> str:
    return gang_id.rpartition("@")[0]


def _in_short(absent: Sequence[str]) -> str:
    """Why workers are not there: of one, a refusal before all others, and how many more there are."""
    first = next((why for why in absent if "was refused" in why), absent[0])
    return f"{first} (and of {len(absent) - 1} more)" if len(absent) > 1 else first
