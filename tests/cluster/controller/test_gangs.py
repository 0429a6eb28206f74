"""The states of a gang: what each event does in each state."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from iris.cluster.controller.scheduling.gang_states import (
    BlockingChecked,
    Drain,
    Drained,
    Draining,
    Event,
    ExplainMissing,
    GangRecord,
    Granted,
    Held,
    Lost,
    Paused,
    PlacementExtended,
    Queued,
    RecordSlots,
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
    State,
    Submit,
    SubmitUnanswered,
    TimePassed,
)
from iris.cluster.controller.scheduling.gangs import (
    IGNORED,
    TRANSITIONS,
    Step,
    check_gang,
    is_news,
    next_due_s,
    next_step,
)
from iris.cluster.controller.scheduling.queue import Allocation
from iris.cluster.controller.scheduling.waiting.reasons import Loss, LossKind
from iris.cluster.controller.workers.unavailability import MissingKind, MissingWorker
from iris.cluster.engine.base import GangRequest, GangState, GangStatus, Resources, Slot
from iris.errors import InternalError

REQUEST = GangRequest("job@0", 2, Resources.of(cpu=1))
SLOTS = (Slot("w0", "m0"), Slot("w1", "m1"))
ALLOCATION = Allocation(REQUEST, 5.0, ("m0", "m1"), (0, 1))
UNNAMED = Allocation(REQUEST, 5.0, (), (0, 1))
MISSING = (MissingWorker("w1", MissingKind.STARTING),)
WAITING = GangStatus(GangState.WAITING, reason="busy")
HELD = GangStatus(GangState.HELD, SLOTS)
BROKEN = GangStatus(GangState.BROKEN, SLOTS, frozenset({1}), "power cut")
NOW_S, NEVER_S = 100.0, math.inf

PAUSED = Paused(50.0, 90.0)
QUEUED = Queued(10.0, 90.0)
REQUESTED = Requested(10.0, 90.0)
GRANTED = Granted(ALLOCATION, 300.0, 200.0, 60.0)
NEW_ALLOCATION = Allocation(REQUEST, NOW_S, ("m0", "m1"), (0, 1))


def gang(state: State) -> GangRecord:
    return GangRecord(REQUEST, "job", (0, 1), state)


def seen(status: GangStatus | None, **fields: Any) -> SnapshotSeen:
    return SnapshotSeen(status, NOW_S, register_limit_s=60.0, **fields)


STEPS: list[tuple[str, State, Event, State | None, list[Any]]] = [
    ("pause goes on", PAUSED, TimePassed(49.0), PAUSED, []),
    ("pause ends", PAUSED, TimePassed(51.0), Queued(51.0, 90.0), []),
    ("timeout in the pause", PAUSED, TimePassed(91.0), Paused(50.0, NEVER_S), [ReportTimeout()]),
    ("timeout in the queue", QUEUED, TimePassed(90.0), Queued(10.0, NEVER_S), [ReportTimeout()]),
    ("timeout at the engine", REQUESTED, TimePassed(90.0), Requested(10.0, NEVER_S), [ReportTimeout()]),
    ("timeout extended", Queued(10.0, NEVER_S), PlacementExtended(95.0), Queued(10.0, 95.0), []),
    ("released in the pause", PAUSED, ReleaseAsked(drains=True), None, []),
    ("released in the queue", QUEUED, ReleaseAsked(drains=True), None, []),
    ("selected", QUEUED, Selected(), REQUESTED, [Submit(REQUEST)]),
    ("impossible", QUEUED, Rejected("too large"), Lost(None), [ReportRejected("too large")]),
    ("rejected by the engine", REQUESTED, Rejected("no"), Lost(None), [ReportRejected("no")]),
    ("no answer", REQUESTED, SubmitUnanswered(), Requested(10.0, 90.0, is_confirmed=False), []),
    ("waits at the engine", REQUESTED, seen(WAITING), Requested(10.0, 90.0, engine_reason="busy"), []),
    (
        "confirmed by a snapshot",
        Requested(10.0, 90.0, is_confirmed=False),
        seen(WAITING),
        Requested(10.0, 90.0, engine_reason="busy"),
        [],
    ),
    (
        "forgotten request",
        REQUESTED,
        seen(None),
        Lost(None),
        [ReportLost(Loss(LossKind.FORGOTTEN))],
    ),
    (
        "request that never arrived",
        Requested(10.0, 90.0, is_confirmed=False),
        seen(None),
        Lost(None),
        [ReportLost(None)],
    ),
    (
        "granted with all workers",
        REQUESTED,
        seen(HELD),
        Held(NEW_ALLOCATION),
        [RecordSlots(SLOTS), ReportPlaced(SLOTS)],
    ),
    (
        "granted without a worker",
        REQUESTED,
        seen(HELD, missing=MISSING),
        Granted(NEW_ALLOCATION, 90.0, 160.0, 60.0),
        [ExplainMissing(MISSING)],
    ),
    ("worker still missing", GRANTED, seen(HELD, missing=MISSING), GRANTED, [ExplainMissing(MISSING)]),
    (
        "last worker registers",
        GRANTED,
        seen(HELD),
        Held(NEW_ALLOCATION),
        [RecordSlots(SLOTS), ReportPlaced(SLOTS)],
    ),
    (
        "workers too late",
        GRANTED,
        TimePassed(200.0),
        Lost(ALLOCATION),
        [ReportLost(Loss(LossKind.UNREGISTERED, machines=("m0", "m1"), limit_s=60.0))],
    ),
    (
        "broken before the start",
        GRANTED,
        seen(BROKEN),
        Lost(ALLOCATION),
        [ReportLost(Loss(LossKind.BROKEN, "power cut"))],
    ),
    (
        "broken because a worker was refused",
        REQUESTED,
        seen(BROKEN, refusal="too old"),
        Lost(None),
        [ReportLost(Loss(LossKind.REFUSED, "too old"))],
    ),
    (
        "in the way",
        REQUESTED,
        BlockingChecked(True, NOW_S, 20.0),
        Requested(10.0, 90.0, blocking_since_s=NOW_S),
        [],
    ),
    (
        "in the way for long",
        Requested(10.0, 90.0, blocking_since_s=80.0),
        BlockingChecked(True, NOW_S, 20.0),
        Lost(None),
        [ReportLost(None)],
    ),
    (
        "out of the way",
        Requested(10.0, 90.0, blocking_since_s=80.0),
        BlockingChecked(False, NOW_S, 20.0),
        REQUESTED,
        [],
    ),
    (
        "held and forgotten",
        Held(ALLOCATION),
        seen(None),
        Held(ALLOCATION),
        [ReportSlotsLost((0, 1), LossKind.FORGOTTEN.value)],
    ),
    ("held and broken", Held(ALLOCATION), seen(BROKEN), Held(ALLOCATION), [ReportSlotsLost((1,), "power cut")]),
    ("slots reported late", Held(UNNAMED), seen(HELD), Held(ALLOCATION), [RecordSlots(SLOTS)]),
    ("held and drained", Held(ALLOCATION), ReleaseAsked(drains=True), Draining(ALLOCATION), [Drain()]),
    ("held and released", Held(ALLOCATION), ReleaseAsked(drains=False), ReleaseDue(ALLOCATION), []),
    ("drained", Draining(ALLOCATION), Drained(), ReleaseDue(ALLOCATION), []),
    ("slots reported while draining", Draining(UNNAMED), seen(HELD), Draining(ALLOCATION), []),
    ("request released", REQUESTED, ReleaseAsked(drains=True), ReleaseDue(None), []),
    ("grant released", GRANTED, ReleaseAsked(drains=True), ReleaseDue(ALLOCATION), []),
    ("lost and still known", Lost(ALLOCATION), seen(BROKEN), Lost(ALLOCATION), []),
    ("lost and gone", Lost(ALLOCATION), seen(None), Lost(None), []),
    ("lost and released", Lost(ALLOCATION), ReleaseAsked(drains=True), ReleaseDue(ALLOCATION), []),
    ("granted before the release", ReleaseDue(None), seen(HELD), ReleaseDue(NEW_ALLOCATION), []),
    ("release accepted", ReleaseDue(ALLOCATION), Released(), Releasing(ALLOCATION), []),
    ("release in progress", Releasing(ALLOCATION), seen(HELD), Releasing(ALLOCATION), []),
    ("released and gone", Releasing(ALLOCATION), seen(None), None, []),
]


@pytest.mark.parametrize(
    ("state", "event", "expected", "instructions"), [row[1:] for row in STEPS], ids=[r[0] for r in STEPS]
)
def test_each_event_of_a_gang_leads_to_the_expected_state_and_instructions(
    state: State, event: Event, expected: State | None, instructions: list[Any]
) -> None:
    assert next_step(gang(state), event) == Step(expected, tuple(instructions))


def test_each_transition_in_the_gang_table_has_a_test_case() -> None:
    tested = {(type(state), type(event)) for _, state, event, _, _ in STEPS}
    extended = {(state, PlacementExtended) for state in (Paused, Requested, Granted)}
    assert set(TRANSITIONS) - tested - extended == set()


@pytest.mark.parametrize("state", get_args(State))
def test_job_may_release_its_gang_in_any_state_of_the_gang(state: type[State]) -> None:
    assert (state, ReleaseAsked) in TRANSITIONS.keys() | IGNORED


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (QUEUED, Released()),
        (PAUSED, Selected()),
        (Held(ALLOCATION), Drained()),
        (Held(ALLOCATION), Selected()),
        (Releasing(ALLOCATION), Rejected("no")),
    ],
)
def test_event_that_cannot_occur_in_a_gang_state_raises_internal_error(state: State, event: Event) -> None:
    with pytest.raises(InternalError, match="job@0 cannot handle"):
        next_step(gang(state), event)


def test_late_answer_of_the_engine_does_not_change_the_state_of_a_gang() -> None:
    for state, event in IGNORED:
        allocation = ALLOCATION if state is not Lost else None
        late = Rejected("late") if event is Rejected else SubmitUnanswered()
        asked = ReleaseAsked(drains=True) if event is ReleaseAsked else late
        known = gang(state(allocation))  # type: ignore[call-arg, arg-type]
        assert next_step(known, asked) == Step(known.state)


@pytest.mark.parametrize(
    ("state", "due_s"),
    [
        (PAUSED, 50.0),
        (Paused(50.0, 20.0), 20.0),
        (QUEUED, 90.0),
        (REQUESTED, 90.0),
        (GRANTED, 200.0),
        (Held(ALLOCATION), NEVER_S),
        (Releasing(None), NEVER_S),
    ],
)
def test_next_due_time_of_a_gang_is_the_first_time_at_which_its_state_changes(state: State, due_s: float) -> None:
    assert next_due_s(state) == due_s
    if due_s < NEVER_S:
        assert next_step(gang(state), TimePassed(due_s - 0.001)) == Step(state)
        assert next_step(gang(state), TimePassed(due_s)) != Step(state)


@pytest.mark.parametrize("status", [None, WAITING, HELD, BROKEN])
@pytest.mark.parametrize("state", [PAUSED, QUEUED, Held(ALLOCATION), Held(UNNAMED)])
def test_engine_snapshot_without_changes_has_no_effect(state: State, status: GangStatus | None) -> None:
    if not is_news(state, status):
        assert next_step(gang(state), seen(status)) == Step(state)


@pytest.mark.parametrize(
    "state",
    [
        Held(Allocation(GangRequest("other@0", 2, Resources()), 0.0, ("m0", "m1"))),
        Held(Allocation(REQUEST, 0.0, ("m0",))),
    ],
)
def test_gang_with_the_allocation_of_another_gang_fails_the_invariant_check(state: State) -> None:
    with pytest.raises(InternalError, match="inconsistent"):
        check_gang(gang(state))
