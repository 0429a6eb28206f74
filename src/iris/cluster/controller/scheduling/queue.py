"""Decides which queued gangs start now, and why the other gangs wait.

The module is pure. Gangs start in the order of their arrival, with the exceptions of job trees, backfill and
reservations.

Job trees: a gang of a child job gets the position of the root job of its tree, so that a job tree which has begun can
end. The gang moves ahead by at most `HEAD_START_S` seconds. Therefore a tree that never stops submitting child jobs
cannot starve other jobs.

Backfill: a gang that does not fit does not block smaller gangs that arrived later.

Reservations: small gangs must not starve a large gang. Turns of the later gangs and turns of the oldest gang alternate.
The first turn of each side lasts `FIRST_TURN_S`, the second turn twice as long, and so on. During a turn of the oldest
gang, machines are reserved for this gang. A later gang may then start only if the oldest gang can still start once all
allocations have ended that the engine granted before the oldest gang began to wait. Other gangs have turns as well,
because the oldest gang may wait for a service that never ends. The turns grow, so that a turn of the oldest gang is
eventually longer than the run of any gang that ends.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from operator import itemgetter

from iris.cluster.controller.scheduling.capacity import FreeCapacity, GangKind, MachineSet, Reservation
from iris.cluster.controller.scheduling.waiting.reasons import Cause, Reserved, Shortage
from iris.cluster.controller.scheduling.waiting.shortages import ShortageFinder
from iris.cluster.engine.base import GangRequest, Machine

FIRST_TURN_S = 30.0
# The largest number of requests to the engine in one scheduling pass. A pass with more requests would delay the start
# of granted gangs.
MAX_SUBMITTED = 100
HEAD_START_S = 3600.0  # A gang of a child job moves ahead of gangs that arrived up to this many seconds earlier.


# The sort key of a gang in the queue, smallest first. The first time is when the gang began to wait, or an earlier time
# if the gang's job is a child job. If two gangs have the same first time, as in one job tree, the second time decides:
# when the gang really began to wait.
Position = tuple[float, float]


@dataclass(frozen=True, slots=True)
class QueuedGang:
    """A gang that waits for an allocation, in the queue or at the engine.

    Attributes:
        gang: The request for the gang's allocation.
        since_s: When the gang began to wait, on the monotonic clock, in seconds.
        job_id: The id of the gang's job.
        tree_since_s: When the root job of the gang's tree was submitted, in seconds of the monotonic clock. Infinity
            if the gang's job has no parent.
    """

    gang: GangRequest
    since_s: float
    job_id: str
    tree_since_s: float = math.inf

    @property
    def position(self) -> Position:
        """The position of the gang in the queue. Gangs with smaller positions are ahead."""
        ahead_s = max(self.tree_since_s, self.since_s - HEAD_START_S)
        return min(self.since_s, ahead_s), self.since_s


@dataclass(frozen=True, slots=True)
class Allocation:
    """An allocation that the engine has granted to a gang.

    Attributes:
        gang: The request that the engine has granted.
        since_s: When the engine granted the allocation, in seconds of the monotonic clock.
        machines: The name of each slot's machine; empty until the engine has named the machines.
        task_indices: The index of the task in each slot; empty if unknown. The tasks are stored here because the job
            may forget the gang before the engine has released the allocation.
    """

    gang: GangRequest
    since_s: float
    machines: tuple[str, ...]
    task_indices: tuple[int, ...] = ()


class Queue:
    """The queued gangs, by kind and in the order of their positions.

    If a gang does not fit, a scheduling pass skips all later gangs of its kind. Therefore the cost of a pass depends on
    the number of kinds, not on the number of queued gangs.

    Attributes:
        newcomers: The ids of the queued gangs for which no reason to wait was found yet, in the order of their arrival.
            The dict is used as an ordered set.
    """

    def __init__(self, entries: Iterable[QueuedGang] = ()) -> None:
        # For each kind of gang, the arrival number and the entry of each queued gang of this kind, by gang id.
        self._kinds: dict[GangKind, dict[str, tuple[int, QueuedGang]]] = {}
        self._kind_of: dict[str, GangKind] = {}  # Maps the id of each queued gang to the kind of the gang.
        self._numbers = itertools.count()
        self._unsorted: set[GangKind] = set()
        self.newcomers: dict[str, None] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: QueuedGang) -> None:
        """Add a gang to the queue, behind all gangs whose position is smaller or equal."""
        gang = entry.gang
        kind = GangKind.of(gang)
        self._kind_of[gang.gang_id] = kind
        self.newcomers[gang.gang_id] = None
        gangs = self._kinds.setdefault(kind, {})
        if gangs and next(reversed(gangs.values()))[1].position > entry.position:
            # The gang must go before gangs that are in the queue already. Such a gang belongs to a child job, or has
            # lost an allocation and returns to its old position.
            self._unsorted.add(kind)
        gangs[gang.gang_id] = (next(self._numbers), entry)

    def remove(self, gang_id: str) -> QueuedGang | None:
        """Remove a gang from the queue. Return the entry of the gang, or None if the gang is not in the queue."""
        kind = self._kind_of.pop(gang_id, None)
        if kind is None:
            return None
        self.newcomers.pop(gang_id, None)
        _, entry = self._kinds[kind].pop(gang_id)
        if not self._kinds[kind]:
            del self._kinds[kind]
            self._unsorted.discard(kind)
        return entry

    def kind_of(self, gang_id: str) -> GangKind:
        """Return the `GangKind` of a gang that is in the queue."""
        return self._kind_of[gang_id]

    def __contains__(self, gang_id: str) -> bool:
        return gang_id in self._kind_of

    def by_kind(self) -> Mapping[GangKind, Mapping[str, tuple[int, QueuedGang]]]:
        """Return the queued gangs by kind and by gang id. Each value is a pair of arrival number and entry. The inner
        dictionary of each kind has its gangs in the order of their positions.
        """
        for kind in self._unsorted:
            in_order = sorted(self._kinds[kind].items(), key=lambda item: (item[1][1].position, item[1][0]))
            self._kinds[kind] = dict(in_order)
        self._unsorted.clear()
        return self._kinds

    def __iter__(self) -> Iterator[QueuedGang]:
        return map(itemgetter(1), itertools.chain.from_iterable(gangs.values() for gangs in self._kinds.values()))

    def __len__(self) -> int:
        return len(self._kind_of)


class Plan:
    """The decisions of one scheduling pass. The function `plan` returns a `Plan`.

    Attributes:
        submit: The gangs to request from the engine now, in this order.
        withdraw: The ids of requested gangs that block an older gang with a reservation. Their requests should be
            withdrawn from the engine.
        impossible: The kinds of gangs that would not fit even if nothing were allocated and every machine were alive.
        reserved_for: The id of the gang that has a reservation; empty if no gang has one.
        machine_set: The machines of the engine. Pass this object to the next call of `plan`.
        has_more: True if the pass ended because of `MAX_SUBMITTED`, so that more gangs may fit.
    """

    def __init__(self, machine_set: MachineSet, shortages: ShortageFinder) -> None:
        self.machine_set = machine_set
        self.submit: list[GangRequest] = []
        self.withdraw: list[str] = []
        self.impossible: set[GangKind] = set()
        self.reserved_for = ""
        self.has_more = False
        self._shortages = shortages
        # For each kind of gang, a function that finds out why the queued gangs of this kind wait. The function is
        # called only on request, because after most passes the causes of only a few kinds are needed.
        self._causes: dict[GangKind, Callable[[], Cause]] = {}
        self._requested_shortages: dict[str, Callable[[], Shortage]] = {}

    def cause_of(self, kind: GangKind) -> Cause | None:
        """Return why queued gangs of a kind wait. Return None if the scheduling pass has found no gang of this kind
        that has to wait.
        """
        find = self._causes.get(kind)
        return None if find is None else find()

    def shortage_of(self, gang: GangRequest) -> Shortage | None:
        """Return why a requested gang does not fit. Return None if the gang seems to fit."""
        find = self._requested_shortages.get(gang.gang_id)
        return None if find is None else find()

    def kinds(self) -> Set[GangKind]:
        """Return the kinds of queued gangs that `cause_of` can explain."""
        return self._causes.keys()

    def add_too_little_free(self, kind: GangKind, gang: GangRequest) -> None:
        """Record that gangs of a kind do not fit into the free capacity."""
        self._causes[kind] = lambda: self._shortages.free_shortage(gang)

    def add_too_little_capacity(self, kind: GangKind, gang: GangRequest) -> None:
        """Record that gangs of a kind would not fit even if nothing were allocated."""
        self._causes[kind] = lambda: self._shortages.capacity_shortage(gang)

    def add_reserved(self, kind: GangKind, reserved_for: QueuedGang) -> None:
        """Record that gangs of a kind would fit only on machines reserved for an older gang."""
        cause = Reserved(reserved_for.job_id, GangKind.of(reserved_for.gang))
        self._causes[kind] = lambda: cause

    def add_requested(self, gang: GangRequest, *, fits_when_empty: bool) -> None:
        """Record that the engine was asked for a gang's allocation, but the gang does not fit now."""
        find = self._shortages.free_shortage if fits_when_empty else self._shortages.capacity_shortage
        self._requested_shortages[gang.gang_id] = lambda: find(gang)


def is_reserved(waited_s: float) -> bool:
    """Return True if the oldest gang has a reservation after a waiting time of `waited_s` seconds."""
    turn_s = FIRST_TURN_S
    while waited_s >= 2 * turn_s:
        waited_s -= 2 * turn_s
        turn_s *= 2
    return waited_s >= turn_s


def plan(
    queue: Queue,
    allocations: Sequence[Allocation],
    machines: Sequence[Machine],
    now_s: float,
    requested: Sequence[QueuedGang] = (),
    machine_set: MachineSet | None = None,
) -> Plan:
    """Decide which gangs start now.

    1. Requested gangs that fit count as allocated.
    2. Queued gangs that fit are submitted in the order of their positions. A submitted gang counts as allocated.
    3. Gangs that would not fit even if nothing were allocated get no reservation. Gangs that would not fit even if
       nothing were allocated and every machine were alive are impossible.
    4. The first gang that would fit if less were allocated is the oldest gang. Later gangs are submitted only if they
       respect the reservation of the oldest gang.

    Free capacity only shrinks during a pass. Therefore, once a gang of a kind has to wait, all later gangs of this kind
    have to wait as well.

    Args:
        queue: The queue, which contains the queued gangs.
        allocations: The allocations of this cluster, including allocations that the engine has not released yet.
        machines: The machines reported by the engine.
        now_s: The time in seconds of the monotonic clock.
        requested: The requested gangs that the engine has not granted. Their resources still count as free in
            `machines`.
        machine_set: The `machine_set` of the previous plan. Reusing this object saves time if the machines are the
            same.
    """
    planner = _Planner(queue, allocations, (machine_set or MachineSet(machines)).updated(machines), machines, now_s)
    planner.add_requested(requested)
    planner.add_queued()
    return planner.decide()


class _Planner:
    """The variables of one call of `plan`."""

    def __init__(
        self,
        queue: Queue,
        allocations: Sequence[Allocation],
        machine_set: MachineSet,
        machines: Sequence[Machine],
        now_s: float,
    ) -> None:
        self._queue = queue
        self._allocations = allocations
        self._machine_set = machine_set
        self._now_s = now_s
        free, tasks = [machine.free for machine in machines], [machine.tasks for machine in machines]
        self._free = FreeCapacity(machine_set, free, tasks)
        # The allocations are in a generator, because they are read only if a caller asks why a gang does not fit.
        allocated = ((entry.gang.need, entry.machines) for entry in allocations)
        self._plan = Plan(machine_set, ShortageFinder(self._free, allocated))
        # A heap with the next queued gang of each kind, and all requested gangs that do not fit. A requested gang has
        # None as its kind. The second item of each tuple is unique, because the heap must never compare two entries or
        # two kinds.
        self._turns: list[tuple[Position, int, QueuedGang, GangKind | None]] = []
        self._rest: dict[GangKind, Iterator[tuple[int, QueuedGang]]] = {}
        # The requested gangs that fit, each with the positions of the machines on which it fits.
        self._fitting_requested: list[tuple[QueuedGang, list[int]]] = []
        self._oldest: QueuedGang | None = None
        self._reservation: Reservation | None = None

    def add_requested(self, requested: Sequence[QueuedGang]) -> None:
        """Count the requested gangs that fit as allocated. The other requested gangs are visited later, by
        position.
        """
        for number, entry in enumerate(requested, -len(requested)):
            positions = self._free.find(entry.gang)
            if positions is None:
                self._turns.append((entry.position, number, entry, None))
            else:
                self._fitting_requested.append((entry, positions))
                self._free.allocate(entry.gang, positions)

    def add_queued(self) -> None:
        """For each kind of gang, add the first queued gang of this kind to the gangs that `decide` visits."""
        self._rest = {kind: iter(gangs.values()) for kind, gangs in self._queue.by_kind().items()}
        for kind, entries in self._rest.items():
            number, entry = next(entries)
            self._turns.append((entry.position, number, entry, kind))

    def decide(self) -> Plan:
        """Visit the gangs in the order of their positions, and return the plan."""
        heapq.heapify(self._turns)
        while self._turns and len(self._plan.submit) < MAX_SUBMITTED:
            _, _, entry, kind = self._turns[0]
            following = None
            if kind is None:
                self._visit_requested(entry)
            elif self._submit_if_possible(entry, kind):
                following = next(self._rest[kind], None)
            if following is None:
                heapq.heappop(self._turns)
            else:
                number, entry = following
                heapq.heapreplace(self._turns, (entry.position, number, entry, kind))
        self._plan.has_more = bool(self._turns)
        return self._plan

    def _visit_requested(self, entry: QueuedGang) -> None:
        gang = entry.gang
        fits_when_empty = self._machine_set.fits(gang)
        self._plan.add_requested(gang, fits_when_empty=fits_when_empty)
        if self._reservation is not None and self._reservation.concerns(self._free.members(gang), gang.need):
            self._plan.withdraw.append(gang.gang_id)
        if fits_when_empty:
            self._note_oldest(entry)

    def _submit_if_possible(self, entry: QueuedGang, kind: GangKind) -> bool:
        """Submit a queued gang and return True, or record why the gang waits and return False."""
        gang = entry.gang
        positions = self._free.find(gang)
        if positions is None and not self._machine_set.fits(gang):
            self._plan.add_too_little_capacity(kind, gang)
            if not self._machine_set.fits_with_all_alive(gang):
                self._plan.impossible.add(kind)
            return False
        if positions is None:
            self._plan.add_too_little_free(kind, gang)
            self._note_oldest(entry)
            return False
        if self._oldest is not None and self._reservation is not None and not self._reservation.admits(gang, positions):
            self._plan.add_reserved(kind, self._oldest)
            return False
        self._free.allocate(gang, positions)
        self._plan.submit.append(gang)
        return True

    def _note_oldest(self, entry: QueuedGang) -> None:
        """Make a gang the oldest gang of the pass, unless the pass already has an oldest gang. If the turn of the
        oldest gang has come, reserve machines for this gang.
        """
        if self._oldest is not None:
            return
        self._oldest = entry
        if is_reserved(self._now_s - entry.since_s):
            self._reservation = Reservation(entry.gang, self._free_for(entry.since_s))
            self._plan.reserved_for = entry.gang.gang_id

    def _free_for(self, since_s: float) -> FreeCapacity:
        """Return the capacity that would be free without the allocations that the engine granted until `since_s`.
        Requested gangs that fit count as allocated if they began to wait later than `since_s`.
        """
        free = FreeCapacity(self._machine_set, [machine.total for machine in self._machine_set.machines])
        later = (entry for entry in self._allocations if entry.since_s > since_s)
        free.subtract((entry.gang.need, entry.machines) for entry in later)
        for entry, positions in self._fitting_requested:
            if entry.since_s > since_s:
                free.allocate(entry.gang, positions)
        return free
