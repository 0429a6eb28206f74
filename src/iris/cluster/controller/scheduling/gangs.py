"""The state machine of a gang, from the job's request for an allocation to the release of the allocation.

The function `next_step` gets an event, and returns the next state and instructions. The module is pure: events contain
the time, and `scheduler.py` carries out the instructions. The table `TRANSITIONS` has a function for each event that
can occur in a state.

The states of a gang, and the usual transitions:
    Paused ──► Queued ──► Requested ──► Granted ──► Held ──► Draining ──► ReleaseDue ──► Releasing ──► (removed)
                              │  └──────────────────► ▲                       ▲
                              ▼            │                                  │
                             Lost ◄────────┘   ──────────────────────────────►┘

A gang becomes Lost if its request or its allocation becomes useless before the attempts start, or if the gang can never
be placed. The job of a lost gang requests a new gang, or ends if the gang can never be placed. A job may release a gang
in every state. A released gang that is paused or queued is removed at once, because the engine does not know it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

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
    Instruction,
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
    allocation_of,
)
from iris.cluster.controller.scheduling.queue import Allocation
from iris.cluster.controller.scheduling.waiting.reasons import Loss, LossKind
from iris.cluster.engine.base import GangState, GangStatus, Slot
from iris.errors import InternalError

_MAX_NAMED_MACHINES = 4  # The largest number of machines named in the text about workers that have not registered.


@dataclass(frozen=True, slots=True)
class Step:
    """The result of an event.

    Attributes:
        state: The next state of the gang; None removes the gang.
        instructions: The instructions to carry out, in this order.
    """

    state: State | None
    instructions: tuple[Instruction, ...] = field(default=())


def next_step(gang: GangRecord, event: Event) -> Step:
    """Return the next state of a gang, and the instructions that result from an event. This function does not change
    the gang.

    Raises:
        InternalError: The event cannot occur in the gang's state.
    """
    pair = (type(gang.state), type(event))
    transition = TRANSITIONS.get(pair)
    if transition is not None:
        return transition(gang, gang.state, event)
    if pair in IGNORED or isinstance(event, TimePassed | SnapshotSeen):
        return Step(gang.state)
    raise InternalError(f"gang {gang.gang_id} cannot handle {event} in the state {gang.state}")


def next_due_s(state: State) -> float:
    """Return the earliest time at which the event `TimePassed` has an effect in a state; infinity if the event has no
    effect in this state.
    """
    match state:
        case Paused(until_s, place_by_s):
            return min(until_s, place_by_s)
        case Queued() | Requested():
            return state.place_by_s
        case Granted():
            return min(state.place_by_s, state.register_by_s)
        case _:
            return math.inf


def is_news(state: State, status: GangStatus | None) -> bool:
    """Return True if a `SnapshotSeen` event with this status may change the gang. The scheduler skips the event if the
    result is False.
    """
    if isinstance(state, Held):
        if status is None or status.state is GangState.BROKEN:
            return True
        return not state.allocation.machines and bool(status.slots)
    return not isinstance(state, Paused | Queued)


def check_gang(gang: GangRecord) -> None:
    """Check the invariants of a gang.

    Raises:
        InternalError: An invariant is broken.
    """
    allocation = allocation_of(gang.state)
    problem = ""
    if allocation is not None and allocation.gang.gang_id != gang.gang_id:
        problem = "its allocation belongs to another gang"
    elif allocation is not None and allocation.machines and len(allocation.machines) != gang.request.slots:
        problem = "its allocation has another number of slots than its request"
    elif gang.task_indices and len(gang.task_indices) != gang.request.slots:
        problem = "it has another number of tasks than its request has slots"
    if problem:
        raise InternalError(f"gang {gang.gang_id} is inconsistent: {problem}: {gang}")


# The functions below are the transitions. Each function gets the gang, its state, and the event.


def _pause_over(gang: GangRecord, state: Paused, event: TimePassed) -> Step:
    if event.now_s >= state.place_by_s:
        return _timed_out(gang, state, event)
    return Step(Queued(event.now_s, state.place_by_s) if event.now_s >= state.until_s else state)


def _timed_out(gang: GangRecord, state: Paused | Queued | Requested | Granted, event: TimePassed) -> Step:
    if event.now_s < state.place_by_s:
        return Step(state)
    return Step(replace(state, place_by_s=math.inf), (ReportTimeout(),))


def _extended(gang: GangRecord, state: Paused | Queued | Requested | Granted, event: PlacementExtended) -> Step:
    return Step(replace(state, place_by_s=event.place_by_s))


def _selected(gang: GangRecord, state: Queued, event: Selected) -> Step:
    return Step(Requested(state.since_s, state.place_by_s), (Submit(gang.request),))


def _unanswered(gang: GangRecord, state: Requested, event: SubmitUnanswered) -> Step:
    return Step(replace(state, is_confirmed=False))


def _rejected(gang: GangRecord, state: Queued | Requested, event: Rejected) -> Step:
    return Step(Lost(None), (ReportRejected(event.reason),))


def _requested_seen(gang: GangRecord, state: Requested, event: SnapshotSeen) -> Step:
    status = event.status
    if status is None:
        return _lose(None, Loss(LossKind.FORGOTTEN) if state.is_confirmed else None)
    if status.state is GangState.WAITING:
        return Step(replace(state, is_confirmed=True, engine_reason=status.reason))
    return _granted_or_broken(gang, state, status, event)


def _granted_seen(gang: GangRecord, state: Granted, event: SnapshotSeen) -> Step:
    status = event.status
    if status is None:
        return _lose(None, Loss(LossKind.FORGOTTEN))
    if status.state is GangState.WAITING:
        return Step(state)
    return _granted_or_broken(gang, state, status, event)


def _granted_or_broken(gang: GangRecord, state: Requested | Granted, status: GangStatus, event: SnapshotSeen) -> Step:
    if status.state is GangState.BROKEN:
        is_refused = bool(event.refusal)
        kind = LossKind.REFUSED if is_refused else LossKind.BROKEN
        return _lose(allocation_of(state), Loss(kind, event.refusal or status.reason))
    if not event.missing:
        held = Held(_allocation(gang, status.slots, event.now_s))
        return Step(held, (RecordSlots(status.slots), ReportPlaced(status.slots)))
    explain = ExplainMissing(event.missing)
    if isinstance(state, Granted):
        return Step(state, (explain,))
    allocation = _allocation(gang, status.slots, event.now_s)
    register_by_s = event.now_s + event.register_limit_s
    return Step(Granted(allocation, state.place_by_s, register_by_s, event.register_limit_s), (explain,))


def _granted_time(gang: GangRecord, state: Granted, event: TimePassed) -> Step:
    if event.now_s < state.register_by_s:
        return _timed_out(gang, state, event)
    machines = tuple(sorted(set(state.allocation.machines))[:_MAX_NAMED_MACHINES])
    loss = Loss(LossKind.UNREGISTERED, machines=machines, limit_s=state.register_limit_s)
    return _lose(state.allocation, loss)


def _blocking_checked(gang: GangRecord, state: Requested, event: BlockingChecked) -> Step:
    if not event.is_blocking:
        return Step(replace(state, blocking_since_s=None))
    since_s = event.now_s if state.blocking_since_s is None else state.blocking_since_s
    if event.now_s - since_s >= event.limit_s:
        return _lose(None, None)
    return Step(replace(state, blocking_since_s=since_s))


def _held_seen(gang: GangRecord, state: Held, event: SnapshotSeen) -> Step:
    status = event.status
    if status is None:
        return Step(state, (ReportSlotsLost(tuple(range(gang.request.slots)), LossKind.FORGOTTEN.value),))
    instructions: list[Instruction] = []
    if status.slots and not state.allocation.machines:
        # After a restart of the controller, the engine may report the slots of a running gang late. Until then the gang
        # keeps its state.
        state = Held(_allocation(gang, status.slots, state.allocation.since_s))
        instructions.append(RecordSlots(status.slots))
    if status.state is GangState.BROKEN:
        instructions.append(ReportSlotsLost(tuple(sorted(status.lost)), status.reason))
    return Step(state, tuple(instructions))


def _draining_seen(gang: GangRecord, state: Draining, event: SnapshotSeen) -> Step:
    if event.status is not None and event.status.slots and not state.allocation.machines:
        return Step(Draining(_allocation(gang, event.status.slots, state.allocation.since_s)))
    return Step(state)


def _lost_seen(gang: GangRecord, state: Lost, event: SnapshotSeen) -> Step:
    return Step(state if event.status is not None else Lost(None))


def _release_due_seen(gang: GangRecord, state: ReleaseDue, event: SnapshotSeen) -> Step:
    return Step(_with_late_grant(gang, state, event))


def _releasing_seen(gang: GangRecord, state: Releasing, event: SnapshotSeen) -> Step:
    return Step(None if event.status is None else _with_late_grant(gang, state, event))


def _with_late_grant(gang: GangRecord, state: ReleaseDue | Releasing, event: SnapshotSeen) -> State:
    """Return the state of a gang that is being released, with its allocation if the engine has granted the gang's
    request meanwhile.
    """
    if state.allocation is None and event.status is not None and event.status.slots:
        return replace(state, allocation=_allocation(gang, event.status.slots, event.now_s))
    return state


def _remove(gang: GangRecord, state: Paused | Queued, event: ReleaseAsked) -> Step:
    return Step(None)


def _release(gang: GangRecord, state: Requested | Granted | Lost, event: ReleaseAsked) -> Step:
    return Step(ReleaseDue(allocation_of(state)))


def _release_held(gang: GangRecord, state: Held, event: ReleaseAsked) -> Step:
    if event.drains:
        return Step(Draining(state.allocation), (Drain(),))
    return Step(ReleaseDue(state.allocation))


def _drained(gang: GangRecord, state: Draining, event: Drained) -> Step:
    return Step(ReleaseDue(state.allocation))


def _released(gang: GangRecord, state: ReleaseDue, event: Released) -> Step:
    return Step(Releasing(state.allocation))


def _lose(allocation: Allocation | None, loss: Loss | None) -> Step:
    return Step(Lost(allocation), (ReportLost(loss),))


def _allocation(gang: GangRecord, slots: Iterable[Slot], since_s: float) -> Allocation:
    return Allocation(gang.request, since_s, tuple(slot.machine for slot in slots), gang.task_indices)


Handler = Callable[[GangRecord, Any, Any], Step]

TRANSITIONS: dict[tuple[type[State], type[Event]], Handler] = {
    (Paused, TimePassed): _pause_over,
    (Paused, PlacementExtended): _extended,
    (Paused, ReleaseAsked): _remove,
    (Queued, TimePassed): _timed_out,
    (Queued, PlacementExtended): _extended,
    (Queued, Selected): _selected,
    (Queued, Rejected): _rejected,
    (Queued, ReleaseAsked): _remove,
    (Requested, TimePassed): _timed_out,
    (Requested, PlacementExtended): _extended,
    (Requested, SubmitUnanswered): _unanswered,
    (Requested, Rejected): _rejected,
    (Requested, SnapshotSeen): _requested_seen,
    (Requested, BlockingChecked): _blocking_checked,
    (Requested, ReleaseAsked): _release,
    (Granted, TimePassed): _granted_time,
    (Granted, PlacementExtended): _extended,
    (Granted, SnapshotSeen): _granted_seen,
    (Granted, ReleaseAsked): _release,
    (Held, SnapshotSeen): _held_seen,
    (Held, ReleaseAsked): _release_held,
    (Lost, SnapshotSeen): _lost_seen,
    (Lost, ReleaseAsked): _release,
    (Draining, SnapshotSeen): _draining_seen,
    (Draining, Drained): _drained,
    (ReleaseDue, SnapshotSeen): _release_due_seen,
    (ReleaseDue, Released): _released,
    (Releasing, SnapshotSeen): _releasing_seen,
}

# The events in this set are ignored, because they may arrive late. For example, the gang's state may have changed while
# the scheduler waited for the engine's answer.
IGNORED: frozenset[tuple[type[State], type[Event]]] = frozenset(
    {
        (Lost, SubmitUnanswered),
        (Lost, Rejected),
        (ReleaseDue, SubmitUnanswered),
        (ReleaseDue, Rejected),
        (Draining, ReleaseAsked),
        (ReleaseDue, ReleaseAsked),
        (Releasing, ReleaseAsked),
    }
)
