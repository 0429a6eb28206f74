"""Anything that jobs, the engine, workers and the clock can do to gangs, in any order.

The model is an engine that holds gangs, and a record of what each job was told. After each step the table of gangs is
consistent, the table knows each gang that the engine knows, and no job was told anything that contradicts what it was
told before. At the end of each example, every gang is released and removed in a bounded number of steps.

`IRIS_MODEL_EXAMPLES=5000 uv run pytest tests/cluster/controller/test_gang_model.py` tries more examples.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iris.cluster.controller.scheduling.gang_states import (
    BlockingChecked,
    Drain,
    Drained,
    Draining,
    Event,
    GangRecord,
    Granted,
    Held,
    Lost,
    Paused,
    PlacementExtended,
    Queued,
    Rejected,
    ReleaseAsked,
    Released,
    ReleaseDue,
    Releasing,
    ReportLost,
    ReportPlaced,
    ReportRejected,
    ReportSlotsLost,
    ReportTimeout,
    Requested,
    Selected,
    SnapshotSeen,
    Submit,
    SubmitUnanswered,
    TimePassed,
)
from iris.cluster.controller.scheduling.gang_table import GangTable
from iris.cluster.controller.workers.unavailability import MissingKind, MissingWorker
from iris.cluster.engine.base import GangRequest, GangState, GangStatus, Resources, Slot

EXAMPLES = int(os.environ.get("IRIS_MODEL_EXAMPLES", "60"))
LIMIT_S, REGISTER_S, BLOCKING_S = 50.0, 20.0, 10.0
AT_ENGINE = (Requested, Granted, Held, Lost, Draining, ReleaseDue, Releasing)


@dataclass
class JobModel:
    """What the job of a gang knows.

    Attributes:
        wants: True until the job releases the gang.
        placed: How often the job was told that the gang has its allocation.
        ended: True once the job was told that the gang was lost, was rejected, or timed out.
    """

    wants: bool = True
    placed: int = 0
    ended: bool = False


@dataclass
class World:
    """Gangs, and the engine that they are requested from."""

    table: GangTable = field(default_factory=GangTable)
    jobs: dict[str, JobModel] = field(default_factory=dict)
    engine: dict[str, GangStatus] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)  # workers that have not registered
    now_s: float = 0.0

    def deliver(self, gang_id: str, event: Event) -> None:
        for instruction in self.table.apply(gang_id, event):
            self._carry_out(gang_id, instruction)

    def _carry_out(self, gang_id: str, instruction: Any) -> None:
        job = self.jobs[gang_id]
        match instruction:
            case ReportPlaced(slots):
                assert job.wants, "a gang that its job has released does not start"
                assert not job.ended, "a gang that was lost does not start"
                assert not self.missing & {slot.worker_id for slot in slots}
                job.placed += 1
                assert job.placed == 1, "a gang starts once"
            case ReportLost() | ReportRejected():
                assert job.placed == 0, "the attempts of a gang that has started are lost slot by slot"
                job.ended = True
            case ReportTimeout():
                assert job.placed == 0, "a gang that has started does not time out"
            case ReportSlotsLost():
                assert job.placed == 1
            case Submit(request):
                assert request.gang_id not in self.engine
            case Drain():
                assert job.placed == 1

    def see_snapshot(self) -> None:
        for gang in self.table.in_state(*AT_ENGINE):
            status = self.engine.get(gang.gang_id)
            slots = () if status is None else status.slots
            missing = tuple(
                MissingWorker(slot.worker_id, MissingKind.STARTING) for slot in slots if slot.worker_id in self.missing
            )
            event = SnapshotSeen(status, self.now_s, missing, register_limit_s=REGISTER_S)
            self.deliver(gang.gang_id, event)

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        while (gang := self.table.pop_due(self.now_s)) is not None:
            self.deliver(gang.gang_id, TimePassed(self.now_s))

    def check(self) -> None:
        self.table.check()
        known = {gang.gang_id for gang in self.table.in_state(*AT_ENGINE)}
        assert self.engine.keys() <= known, "the table knows each gang that the engine knows"
        for gang_id in known:
            gang = self.table.get(gang_id)
            assert gang is not None
            assert isinstance(gang.state, Held) <= self.jobs[gang_id].wants
        assert self.table.next_due_s() >= self.now_s or self.table.next_due_s() == math.inf


def in_state(*states: type) -> Callable[[Any], bool]:
    return lambda machine: bool(machine.world.table.in_state(*states))


class GangMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def _pick(self, data: st.DataObject, *states: type) -> GangRecord:
        gangs = {gang.gang_id: gang for gang in self.world.table.in_state(*states)}  # type: ignore[arg-type]
        return gangs[data.draw(st.sampled_from(sorted(gangs)))]

    @rule(pause_s=st.sampled_from([0.0, 5.0]), slots=st.integers(1, 3), has_limit=st.booleans())
    def request(self, pause_s: float, slots: int, has_limit: bool) -> None:
        world, number = self.world, len(self.world.jobs)
        request = GangRequest(f"job-{number}@0", slots, Resources.of(cpu=1))
        place_by_s = world.now_s + LIMIT_S if has_limit else math.inf
        due_s = world.now_s + pause_s
        state = Paused(due_s, place_by_s) if pause_s else Queued(world.now_s, place_by_s)
        world.jobs[request.gang_id] = JobModel()
        world.table.add(GangRecord(request, f"job-{number}", tuple(range(slots)), state))

    @precondition(in_state(Queued))
    @rule(data=st.data(), answer=st.sampled_from(["accepted", "rejected", "lost request", "lost answer"]))
    def submit(self, data: st.DataObject, answer: str) -> None:
        gang = self._pick(data, Queued)
        self.world.deliver(gang.gang_id, Selected())
        if answer in ("accepted", "lost answer"):
            self.world.engine[gang.gang_id] = GangStatus(GangState.WAITING, reason="busy")
        if answer == "rejected":
            self.world.deliver(gang.gang_id, Rejected("too large"))
        elif answer != "accepted":
            self.world.deliver(gang.gang_id, SubmitUnanswered())

    @rule(data=st.data(), what=st.sampled_from(["grant", "break", "forget", "wait"]))
    def change_engine(self, data: st.DataObject, what: str) -> None:
        world = self.world
        if not world.engine:
            return
        gang_id = data.draw(st.sampled_from(sorted(world.engine)))
        gang, status = world.table.get(gang_id), world.engine[gang_id]
        assert gang is not None
        if what == "forget":
            del world.engine[gang_id]
        elif what == "break" and status.slots:
            world.engine[gang_id] = GangStatus(GangState.BROKEN, status.slots, frozenset({0}), "power cut")
        elif what == "grant" and not status.slots:
            slots = tuple(Slot(f"{gang_id}-w{n}", f"m{n}") for n in range(gang.request.slots))
            world.missing |= {slot.worker_id for slot in slots if data.draw(st.booleans())}
            world.engine[gang_id] = GangStatus(GangState.HELD, slots)

    @rule()
    def see_snapshot(self) -> None:
        self.world.see_snapshot()

    @rule()
    def register_workers(self) -> None:
        self.world.missing.clear()

    @rule(seconds=st.sampled_from([1.0, 6.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @precondition(in_state(Paused, Queued, Requested, Granted))
    @rule(data=st.data())
    def extend_placement(self, data: st.DataObject) -> None:
        gang = self._pick(data, Paused, Queued, Requested, Granted)
        self.world.deliver(gang.gang_id, PlacementExtended(self.world.now_s + LIMIT_S))

    @precondition(in_state(Requested))
    @rule(data=st.data(), is_blocking=st.booleans())
    def check_blocking(self, data: st.DataObject, is_blocking: bool) -> None:
        gang = self._pick(data, Requested)
        self.world.deliver(gang.gang_id, BlockingChecked(is_blocking, self.world.now_s, BLOCKING_S))

    @precondition(in_state(Paused, Queued, *AT_ENGINE))
    @rule(data=st.data(), drains=st.booleans())
    def release(self, data: st.DataObject, drains: bool) -> None:
        gang = self._pick(data, Paused, Queued, *AT_ENGINE)
        self.world.jobs[gang.gang_id].wants = False
        self.world.deliver(gang.gang_id, ReleaseAsked(drains))

    @precondition(in_state(Draining))
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        self.world.deliver(self._pick(data, Draining).gang_id, Drained())

    @precondition(in_state(ReleaseDue))
    @rule(data=st.data(), lingers=st.booleans())
    def tell_engine_to_release(self, data: st.DataObject, lingers: bool) -> None:
        gang = self._pick(data, ReleaseDue)
        if not lingers:
            self.world.engine.pop(gang.gang_id, None)
        self.world.deliver(gang.gang_id, Released())

    @invariant()
    def holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        """Let every job release its gangs: the engine and the table are empty after one more round."""
        world = self.world
        for gang in world.table.in_state(Paused, Queued, *AT_ENGINE):
            world.jobs[gang.gang_id].wants = False
            world.deliver(gang.gang_id, ReleaseAsked(drains=True))
        for gang in world.table.in_state(Draining):
            world.deliver(gang.gang_id, Drained())
        for gang in world.table.in_state(ReleaseDue):
            world.deliver(gang.gang_id, Released())
        world.engine.clear()
        world.see_snapshot()
        world.check()
        assert not world.table.in_state(Paused, Queued, *AT_ENGINE)
        assert not world.table.queue


GangMachine.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestGangMachine = pytest.mark.timeout(0 if "IRIS_MODEL_EXAMPLES" in os.environ else 120)(GangMachine.TestCase)
