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

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from iris.cluster.engine.base import GangRequest, Machine, Placement, Resources, place

FIRST_TURN_S = 30.0

# What a gang asks for: how many slots, what each of them needs, and where. Those that are alike wait for one reason.
Kind = tuple[int, Resources, Placement, tuple[tuple[str, str], ...]]


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


class Line:
    """The gangs that wait, in the order of their arrival, and apart by kind.

    A pass looks at the first of each kind that does not fit, and at none behind it: with thousands of tasks that wait
    it costs no more than with a few.
    """

    def __init__(self, waiting: Iterable[Waiting] = ()) -> None:
        self._kinds: dict[Kind, dict[str, tuple[int, Waiting]]] = {}  # gang id -> number of arrival, entry
        self._kind_of: dict[str, Kind] = {}  # by gang id
        self._numbers = itertools.count()
        for entry in waiting:
            self.join(entry)

    def join(self, entry: Waiting) -> None:
        """A gang comes, behind all others."""
        gang = entry.gang
        kind = (gang.slots, gang.need, gang.placement, gang.labels)
        self._kind_of[gang.gang_id] = kind
        self._kinds.setdefault(kind, {})[gang.gang_id] = (next(self._numbers), entry)

    def leave(self, gang_id: str) -> Waiting | None:
        """A gang goes; None when it was not there."""
        kind = self._kind_of.pop(gang_id, None)
        if kind is None:
            return None
        _, entry = self._kinds[kind].pop(gang_id)
        if not self._kinds[kind]:
            del self._kinds[kind]
        return entry

    def kind_of(self, gang_id: str) -> Kind:
        """What a gang asks for that is there."""
        return self._kind_of[gang_id]

    def __contains__(self, gang_id: str) -> bool:
        return gang_id in self._kind_of

    def by_kind(self) -> Mapping[Kind, Mapping[str, tuple[int, Waiting]]]:
        """All of them: by kind and gang id, the number of its arrival and the entry."""
        return self._kinds

    def __iter__(self) -> Iterator[Waiting]:
        return (entry for gangs in self._kinds.values() for _, entry in gangs.values())

    def __len__(self) -> int:
        return len(self._kind_of)


@dataclass(slots=True)
class Plan:
    """What to do with the queue. Those of a kind that are not submitted wait for one reason, or can never be placed."""

    submit: list[GangRequest] = field(default_factory=list)
    reasons: dict[Kind, str] = field(default_factory=dict)
    impossible: dict[Kind, str] = field(default_factory=dict)


def is_reserved(waited_s: float) -> bool:
    """Whether a gang that is the oldest, and has waited for so long, has the machines reserved now."""
    turn_s = FIRST_TURN_S
    while waited_s >= 2 * turn_s:
        waited_s -= 2 * turn_s
        turn_s *= 2
    return waited_s >= turn_s


def plan(line: Line, held: Sequence[Held], machines: Sequence[Machine], now_s: float) -> Plan:
    """Decides what starts now.

    1. What could not be placed on empty machines is impossible.
    2. In order of arrival, what fits is submitted, on a ledger of what is then still free.
    3. The first that does not fit is the oldest; whoever comes after it passes unless that breaks its reservation.

    All that is free only becomes less in a pass, so the first of a kind that has to wait speaks for all behind it.
    """
    result = Plan()
    empty = [replace(machine, free=machine.total, tasks=0) for machine in machines]
    ledger = list(machines)
    oldest: GangRequest | None = None
    ahead: list[Machine] | None = None  # reserved: what would be free if only those ran that came after the oldest
    rest = {kind: iter(gangs.values()) for kind, gangs in line.by_kind().items()}
    turns: list[tuple[int, Waiting, Kind]] = []  # a heap: the next of each kind; no two numbers of arrival are alike
    for kind, gangs in rest.items():
        number, entry = next(gangs)
        if place(entry.gang, empty) is None:
            result.impossible[kind] = _describe(entry.gang, empty, "there are only")
        else:
            heapq.heappush(turns, (number, entry, kind))
    while turns:
        _, entry, kind = turns[0]
        gang = entry.gang
        spots = place(gang, ledger)
        if spots is None:
            result.reasons[kind] = _describe(gang, ledger, "free now:")
            if oldest is None:
                oldest = gang
                if is_reserved(now_s - entry.since_s):
                    ahead = _occupied_since(entry.since_s, held, empty)
        elif oldest and ahead and place(oldest, after := _apply(ahead, gang, spots)) is None:
            result.reasons[kind] = (
                f"there is room, but it is kept for job {oldest.gang_id.rsplit('@', 1)[0]!r},"
                f" which has waited longer and needs {_amount(oldest)}"
            )
        else:
            ledger = _apply(ledger, gang, spots)
            ahead = after if ahead else None
            result.submit.append(gang)
            following = next(rest[kind], None)
            if following is not None:
                heapq.heapreplace(turns, (*following, kind))
                continue
        heapq.heappop(turns)
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
