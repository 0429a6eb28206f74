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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from iris.cluster.controller.scheduling.capacity import FreeCapacity, MachineSet, Reservation
from iris.cluster.controller.scheduling.reasons import Reasons, needs
from iris.cluster.engine.base import GangRequest, Machine, Placement, Resources

FIRST_TURN_S = 30.0
MOST_SUBMITTED = 100  # in a pass: asking an engine takes time, and what it has placed meanwhile is to start

# What a gang asks for: how many slots, what each of them needs, and where. Those that are alike wait for one reason.
Kind = tuple[int, Resources, Placement, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A gang in the queue, since a moment (seconds of any steady clock)."""

    gang: GangRequest
    since_s: float


@dataclass(frozen=True, slots=True)
class Held:
    """A gang that has capacity.

    Attributes:
        gang: What was asked for.
        since_s: When the gang got its capacity, in monotonic seconds.
        machines: The machine of each slot; empty while that is not known.
        task_indices: The task of each slot. Kept here because the job forgets a gang before its capacity is released.
    """

    gang: GangRequest
    since_s: float
    machines: tuple[str, ...]
    task_indices: tuple[int, ...] = ()


class Line:
    """The gangs that wait, in the order since when they do, and apart by kind.

    A pass looks at the first of each kind that does not fit, and at none behind it: with thousands of tasks that wait
    it costs no more than with a few.
    """

    def __init__(self, waiting: Iterable[Waiting] = ()) -> None:
        self._kinds: dict[Kind, dict[str, tuple[int, Waiting]]] = {}  # gang id -> number of arrival, entry
        self._kind_of: dict[str, Kind] = {}  # by gang id
        self._numbers = itertools.count()
        self._unsorted: set[Kind] = set()
        for entry in waiting:
            self.join(entry)

    def join(self, entry: Waiting) -> None:
        """A gang comes; behind all that have waited for as long."""
        gang = entry.gang
        kind = (gang.slots, gang.need, gang.placement, gang.labels)
        self._kind_of[gang.gang_id] = kind
        gangs = self._kinds.setdefault(kind, {})
        if gangs and next(reversed(gangs.values()))[1].since_s > entry.since_s:
            self._unsorted.add(kind)  # it had room, and lost it: its place is where it was
        gangs[gang.gang_id] = (next(self._numbers), entry)

    def leave(self, gang_id: str) -> Waiting | None:
        """A gang goes; None when it was not there."""
        kind = self._kind_of.pop(gang_id, None)
        if kind is None:
            return None
        _, entry = self._kinds[kind].pop(gang_id)
        if not self._kinds[kind]:
            del self._kinds[kind]
            self._unsorted.discard(kind)
        return entry

    def kind_of(self, gang_id: str) -> Kind:
        """What a gang asks for that is there."""
        return self._kind_of[gang_id]

    def __contains__(self, gang_id: str) -> bool:
        return gang_id in self._kind_of

    def by_kind(self) -> Mapping[Kind, Mapping[str, tuple[int, Waiting]]]:
        """All of them: by kind and gang id, the number of its arrival and the entry; of each kind in order."""
        for kind in self._unsorted:
            by_age = sorted(self._kinds[kind].items(), key=lambda item: (item[1][1].since_s, item[1][0]))
            self._kinds[kind] = dict(by_age)
        self._unsorted.clear()
        return self._kinds

    def __iter__(self) -> Iterator[Waiting]:
        return (entry for gangs in self._kinds.values() for _, entry in gangs.values())

    def __len__(self) -> int:
        return len(self._kind_of)


class Plan:
    """What to do with the queue.

    Attributes:
        submit: What starts now.
        withdraw: What the engine was asked for and has no room for, and what could start there in the place of somebody
            who has waited longer: it is to wait here.
        impossible: What could not be placed on empty machines either, also if all that there are were alive.
        reserved_for: The gang that room is kept for; empty while for none.
        layout: That of the machines, for the next plan.
        has_more: There may be more to submit: this was enough for one pass.
    """

    def __init__(self, layout: MachineSet, room: FreeCapacity, held: Sequence[Held]) -> None:
        self.layout = layout
        self.submit: list[GangRequest] = []
        self.withdraw: list[str] = []
        self.impossible: set[Kind] = set()
        self.reserved_for = ""
        self.has_more = False
        self._reasons = Reasons(room, ((entry.gang.need, entry.machines) for entry in held))
        self._why: dict[Kind, Callable[[], str]] = {}  # only asked for once a second
        self._stuck: dict[str, Callable[[], str]] = {}

    def why(self, kind: Kind) -> str | None:
        """Why those of a kind wait that are not submitted; None where they were not looked at."""
        reason = self._why.get(kind)
        return None if reason is None else reason()

    def why_asked(self, gang: GangRequest) -> str:
        """Why a gang waits that the engine was asked for, as far as we know."""
        reason = self._stuck.get(gang.gang_id)
        return f"{needs(gang)}; there seems to be room" if reason is None else reason()

    def kinds(self) -> Set[Kind]:
        """Those that wait for a reason that is known."""
        return self._why.keys()

    def full(self, kind: Kind, gang: GangRequest) -> None:
        """It does not fit now."""
        self._why[kind] = lambda: self._reasons.too_little_free(gang)

    def kept(self, kind: Kind, oldest: GangRequest) -> None:
        """It would fit, but in room that is kept."""
        text = (
            f"there is room, but it is kept for job {oldest.gang_id.rsplit('@', 1)[0]!r},"
            f" which has waited longer and {needs(oldest)}"
        )
        self._why[kind] = lambda: text

    def absent(self, kind: Kind, gang: GangRequest) -> None:
        """It would not fit either if nothing was held."""
        self._why[kind] = lambda: self._reasons.too_little_there(gang)

    def stuck(self, gang: GangRequest, *, could_fit: bool) -> None:
        """The engine was asked for it, and has no room for it now."""
        words = self._reasons.too_little_free if could_fit else self._reasons.too_little_there
        self._stuck[gang.gang_id] = lambda: words(gang)


def is_reserved(waited_s: float) -> bool:
    """Whether a gang that is the oldest, and has waited for so long, has the machines reserved now."""
    turn_s = FIRST_TURN_S
    while waited_s >= 2 * turn_s:
        waited_s -= 2 * turn_s
        turn_s *= 2
    return waited_s >= turn_s


def plan(
    line: Line,
    held: Sequence[Held],
    machines: Sequence[Machine],
    now_s: float,
    asked: Sequence[Waiting] = (),
    before: MachineSet | None = None,
) -> Plan:
    """Decides what starts now.

    1. What the engine was asked for, and still waits there, has its room already where there is room for it.
    2. In order of arrival, what fits is submitted, on a ledger of what is then still free.
    3. What does not fit on empty machines either, of those that are alive, waits without a claim, or is impossible.
    4. The first that does not fit but could is the oldest, wherever it waits; whoever comes after it passes unless that
       breaks its reservation.

    All that is free only becomes less in a pass, so the first of a kind that has to wait speaks for all behind it.

    Args:
        line: Who waits here.
        held: Who has room, or is about to give it back.
        machines: What there is.
        now_s: The moment, by the clock of the entries.
        asked: Who waits at the engine; their room is still free on `machines`.
        before: The layout of the last plan, which spares work where the machines are the same.
    """
    layout = (before or MachineSet(machines)).updated(machines)
    room = FreeCapacity(layout, [machine.free for machine in machines], [machine.tasks for machine in machines])
    result = Plan(layout, room, held)
    turns: list[tuple[float, int, Waiting, Kind | None]] = []  # a heap: the next of each kind; no two numbers are alike
    coming: list[tuple[Waiting, list[int]]] = []
    for number, entry in enumerate(asked, -len(asked)):
        spots = room.find(entry.gang)
        if spots is None:
            turns.append((entry.since_s, number, entry, None))
        else:
            coming.append((entry, spots))
            room.allocate(entry.gang, spots)
    rest = {kind: iter(gangs.values()) for kind, gangs in line.by_kind().items()}
    for first_of, entries in rest.items():
        number, entry = next(entries)
        turns.append((entry.since_s, number, entry, first_of))
    heapq.heapify(turns)
    oldest: GangRequest | None = None
    reservation: Reservation | None = None
    while turns and len(result.submit) < MOST_SUBMITTED:
        _, _, entry, kind = turns[0]
        gang = entry.gang
        spots = None if kind is None else room.find(gang)
        if kind is None:
            result.stuck(gang, could_fit=layout.fits(gang))
            if reservation is not None and reservation.concerns(room.members(gang), gang.need):
                result.withdraw.append(gang.gang_id)
        elif spots is None and not layout.fits(gang):
            result.absent(kind, gang)
            if not layout.fits_with_all_alive(gang):
                result.impossible.add(kind)
        elif spots is None:
            result.full(kind, gang)
        elif oldest is not None and reservation is not None and not reservation.admits(gang, spots):
            result.kept(kind, oldest)
        else:
            room.allocate(gang, spots)
            result.submit.append(gang)
            following = next(rest[kind], None)
            if following is not None:
                number, entry = following
                heapq.heapreplace(turns, (entry.since_s, number, entry, kind))
                continue
        if spots is None and oldest is None and layout.fits(gang):
            oldest = gang
            if is_reserved(now_s - entry.since_s):
                reservation = Reservation(gang, _occupied_since(entry.since_s, held, coming, layout))
                result.reserved_for = gang.gang_id
        heapq.heappop(turns)
    result.has_more = bool(turns)
    return result


def _occupied_since(
    since_s: float, held: Iterable[Held], coming: Iterable[tuple[Waiting, list[int]]], layout: MachineSet
) -> FreeCapacity:
    room = FreeCapacity(layout, [machine.total for machine in layout.machines])
    room.subtract((entry.gang.need, entry.machines) for entry in held if entry.since_s > since_s)
    for waiting, spots in coming:
        if waiting.since_s > since_s:
            room.allocate(waiting.gang, spots)
    return room
