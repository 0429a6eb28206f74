"""Whose turn it is: which waiting gangs should start now, and why the others wait.

Pure. First come, first served, with two corrections:

* A gang that does not fit does not hold up smaller ones behind it: they pass ("backfill").
* But they must not starve it. Once the oldest has waited for `FIRST_TURN_S`, the machines are reserved for it for as
  long again: a gang may pass only if the oldest would still fit once all that was there before it has ended. If that
  does not come to pass (a service that never ends holds the room), the others have their turn again, for twice as
  long, then the oldest for twice as long, and so on: nobody waits for ever for somebody who waits for ever, and the
  turn of the oldest is some day long enough for whatever has to end first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from iris.cluster.engine.base import GangRequest, Machine, Resources, place

FIRST_TURN_S = 30.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A gang in the queue, since a moment (seconds of any steady clock)."""

    gang: GangRequest
    since_s: float


@dataclass(frozen=True, slots=True)
class Held:
    """A gang that has room: since when, and on which machines (a name for each slot)."""

    gang: GangRequest
    since_s: float
    machines: tuple[str, ...]


@dataclass(slots=True)
class Plan:
    """What to do with the queue."""

    submit: list[GangRequest] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)  # by gang id: why it waits
    impossible: dict[str, str] = field(default_factory=dict)  # by gang id: why it can never be placed


def is_reserved(waited_s: float) -> bool:
    """Whether a gang that is the oldest, and has waited for so long, has the machines reserved now."""
    turn_s = FIRST_TURN_S
    while waited_s >= 2 * turn_s:
        waited_s -= 2 * turn_s
        turn_s *= 2
    return waited_s >= turn_s


def plan(waiting: Sequence[Waiting], held: Sequence[Held], machines: Sequence[Machine], now_s: float) -> Plan:
    """Decides what starts now. `waiting` is in the order of arrival.

    1. What could not be placed on empty machines is impossible.
    2. In order, what fits is submitted, on a ledger of what is then still free.
    3. The first that does not fit is the oldest; whoever comes after it passes unless that breaks its reservation.
    """
    result = Plan()
    empty = [replace(machine, free=machine.total, tasks=0) for machine in machines]
    ledger = list(machines)
    # All that is free only becomes less in a pass: what did not fit once need not be tried again. Thousands of tasks
    # that are alike then cost a look each, not a search.
    never: dict[tuple[int, Resources], str] = {}
    not_now: dict[tuple[int, Resources], str] = {}
    oldest: Waiting | None = None
    ahead: list[Machine] = []  # what would be free if only those ran that started after the oldest came
    for entry in waiting:
        gang = entry.gang
        kind = (gang.slots, gang.need)
        if kind not in never:
            never[kind] = "" if place(gang, empty) is not None else _describe(gang, empty, "there are only")
        if never[kind]:
            result.impossible[gang.gang_id] = never[kind]
            continue
        spots = None if kind in not_now else place(gang, ledger)
        if spots is None:
            if kind not in not_now:
                not_now[kind] = _describe(gang, ledger, "free now:")
            result.reasons[gang.gang_id] = not_now[kind]
            if oldest is None:
                oldest = entry
                ahead = _occupied_since(entry.since_s, held, empty)
            continue
        if oldest is not None:
            spots_ahead = _apply(ahead, gang, spots)
            if is_reserved(now_s - oldest.since_s) and place(oldest.gang, spots_ahead) is None:
                result.reasons[gang.gang_id] = (
                    f"there is room, but it is kept for job {oldest.gang.gang_id.rsplit('@', 1)[0]!r},"
                    f" which has waited longer and needs {_amount(oldest.gang)}"
                )
                continue
            ahead = spots_ahead
        ledger = _apply(ledger, gang, spots)
        result.submit.append(gang)
    return result


def _apply(machines: Sequence[Machine], gang: GangRequest, spots: Sequence[int]) -> list[Machine]:
    after = list(machines)
    for spot in spots:
        after[spot] = replace(after[spot], free=after[spot].free - gang.need, tasks=after[spot].tasks + 1)
    return after


def _occupied_since(since_s: float, held: Sequence[Held], empty: Sequence[Machine]) -> list[Machine]:
    position = {machine.name: i for i, machine in enumerate(empty)}
    machines = list(empty)
    for entry in held:
        if entry.since_s > since_s:
            spots = [position[name] for name in entry.machines if name in position]
            machines = _apply(machines, entry.gang, spots)
    return machines


def _describe(gang: GangRequest, machines: Sequence[Machine], lead: str) -> str:
    """`needs 4 x 2 cpu; free now: 3 of 4 cpu`: the resources that are short, what is needed and what there is."""
    short = [name for name, index in _NAMES if _is_short(gang, machines, index)] or [
        name for name, index in _NAMES if gang.need.amounts()[index]
    ]
    shown = [
        ", ".join(_of_total(machine, name) for name in short) + (f" on {machine.name}" if len(machines) > 1 else "")
        for machine in machines[:4]
    ]
    more = f" and {len(machines) - 4} more machines" if len(machines) > 4 else ""
    return f"needs {_amount(gang)}; {lead} {'; '.join(shown) or 'no machine'}{more}"


_NAMES = (("cpu", 0), ("memory", 1), ("gpu", 2))


def _is_short(gang: GangRequest, machines: Sequence[Machine], index: int) -> bool:
    want = gang.need.amounts()[index]
    return bool(want) and sum(machine.free.amounts()[index] // want for machine in machines) < gang.slots


def _amount(gang: GangRequest) -> str:
    need = gang.need.amounts()
    each = ", ".join(_quantity(name, need[index]) for name, index in _NAMES if need[index])
    return f"{gang.slots} x ({each or 'nothing'})" if gang.slots > 1 else each or "nothing"


def _of_total(machine: Machine, name: str) -> str:
    index = dict(_NAMES)[name]
    free, total = machine.free.amounts()[index], machine.total.amounts()[index]
    if free == total:
        return _quantity(name, total)
    return f"{_quantity(name, max(free, 0)).removesuffix(f' {name}')} of {_quantity(name, total)}"


def _quantity(name: str, value: int) -> str:
    if name != "memory":
        return f"{value} {name}"
    if value >= 2**30:
        return f"{value / 2**30:.1f} GiB memory"
    return f"{value / 2**20:.0f} MiB memory"
