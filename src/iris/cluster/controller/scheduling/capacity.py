"""What is free on the machines, and whether a gang fits there, found without a look at each machine.

A pass of the queue asks this for hundreds of kinds of gangs on hundreds of machines. Most answers are no: they follow
from sums, which are made once for all machines that carry the same labels. Room only becomes less in a pass, so sums
that are old say no too rarely, never too often; where a look at the machines had to say it, they are made anew.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from iris.cluster.engine.base import GangRequest, Machine, Placement, Resources
from iris.cluster.engine.placement import distribute_slots, resources_per_machine

_NONE_ASKED = -(2**63)  # less than any amount: what is not asked for fits also where too much was given away
_ENDLESS = 2**31  # so many slots that need nothing have room on a machine
_KNOWN_KINDS = 20_000  # of which it is remembered whether they fit; then anew
Labels = tuple[tuple[str, str], ...]


class _Pool:
    """The machines that may serve gangs with certain labels, and for each resource their amounts, the largest first."""

    def __init__(self, members: Sequence[int]) -> None:
        self.members = members
        self.is_old = True
        self.orders: list[list[int]] = []  # members by amount
        self._negative: list[list[int]] = []  # amounts times -1: what `bisect` can search
        self._sums: list[list[int]] = []  # of the first n amounts

    def refresh(self, amounts: Sequence[Sequence[int]]) -> None:
        """Sorts and adds up what is free now."""
        self.orders = [sorted(self.members, key=lambda i, free=free: -free[i]) for free in amounts]  # type: ignore[misc]
        self._negative = [[-free[i] for i in order] for order, free in zip(self.orders, amounts, strict=True)]
        self._sums = [[0, *itertools.accumulate(-value for value in row)] for row in self._negative]
        self.is_old = False

    def with_at_least(self, index: int, amount: int) -> int:
        """How many machines have so much of a resource."""
        return bisect.bisect_right(self._negative[index], -amount)

    def lacks(self, gang: GangRequest, index: int) -> bool:
        """Whether this resource alone is too little; by sums, so not in all cases."""
        want = gang.need.amounts()[index]
        if gang.placement is Placement.TOGETHER:
            return not self.with_at_least(index, want * gang.slots)
        count = self.with_at_least(index, want)
        if gang.placement is Placement.SPREAD:
            return count < gang.slots
        return self._sums[index][count] < want * gang.slots


class Layout:
    """The machines without what is free on them: which may serve whom. It is kept for as long as it is the same."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.machines = machines
        self.position = {machine.name: i for i, machine in enumerate(machines)}
        self._members: dict[Labels, list[int]] = {}
        self._fits: dict[tuple[int, Resources, Placement, Labels], bool] = {}
        self._empty: Room | None = None
        self._revived: Layout | None = None

    def of(self, machines: Sequence[Machine]) -> Layout:
        """That of these machines: this one where they are the same."""
        return self if _as_laid_out(machines) == _as_laid_out(self.machines) else Layout(machines)

    def members(self, gang: GangRequest) -> Sequence[int]:
        """The positions of the machines that may serve the gang, however full they are."""
        if gang.labels not in self._members:
            self._members[gang.labels] = [i for i, machine in enumerate(self.machines) if machine.suits(gang)]
        return self._members[gang.labels]

    @property
    def empty(self) -> Room:
        """The room that there is when nothing is held; not to be taken from."""
        if self._empty is None:
            self._empty = Room(self, [machine.total for machine in self.machines])
        return self._empty

    def fits(self, gang: GangRequest) -> bool:
        """Whether a gang would fit if nothing was held."""
        kind = (gang.slots, gang.need, gang.placement, gang.labels)
        if kind not in self._fits:
            if len(self._fits) >= _KNOWN_KINDS:
                self._fits.clear()
            self._fits[kind] = self.empty.fits(gang)
        return self._fits[kind]

    def fits_with_all_alive(self, gang: GangRequest) -> bool:
        """The same, if no machine was away."""
        if all(machine.alive for machine in self.machines):
            return self.fits(gang)
        if self._revived is None:
            self._revived = Layout([replace(machine, alive=True) for machine in self.machines])
        return self._revived.fits(gang)


def _as_laid_out(machines: Sequence[Machine]) -> list[tuple[str, Resources, Labels, bool]]:
    return [(machine.name, machine.total, machine.labels, machine.alive) for machine in machines]


class Room:
    """The free room of some machines, which becomes less as gangs take it.

    Args:
        layout: The machines.
        free: What is free on each of them.
        tasks: How many slots are held on each; none, where it is not given.
    """

    def __init__(self, layout: Layout, free: Sequence[Resources], tasks: Sequence[int] = ()) -> None:
        self.layout = layout
        self._amounts = [[one.cpu for one in free], [one.memory_bytes for one in free], [one.gpu for one in free]]
        self._tasks = list(tasks) or [0] * len(free)
        self._pools: dict[Labels, _Pool] = {}

    def members(self, gang: GangRequest) -> Sequence[int]:
        """See `Layout.members`."""
        return self.layout.members(gang)

    def free(self, position: int) -> Resources:
        """What a machine has left."""
        cpu, memory, gpu = self._amounts
        return Resources(cpu[position], memory[position], gpu[position])

    def fits(self, gang: GangRequest) -> bool:
        """Whether all slots of a gang have room."""
        pool = self._pool(gang)
        asked = [index for index, want in enumerate(gang.need.amounts()) if want]
        for index in asked:
            if pool.lacks(gang, index):
                return False
        # From the machines with the most of what the fewest have: mostly the first few are enough.
        least = resources_per_machine(gang).amounts()
        scarcest = min(asked, key=lambda index: pool.with_at_least(index, least[index]), default=0)
        count = pool.with_at_least(scarcest, least[scarcest]) if asked else len(pool.members)
        wanted = units_wanted(gang)
        if self._has(gang, itertools.islice(pool.orders[scarcest], count), wanted):
            return True
        if pool.is_old:
            pool.refresh(self._amounts)
        return False

    def _has(self, gang: GangRequest, positions: Iterable[int], wanted: int) -> bool:
        for i in positions:
            wanted -= self.units(gang, i)
            if wanted <= 0:
                return True
        return False

    def find(self, gang: GangRequest) -> list[int] | None:
        """For each slot of a gang the position of its machine, as `choose_machines` chooses it; None where it does not fit."""
        if not self.fits(gang):
            return None
        cpu, memory, gpu = self._amounts
        tasks = self._tasks
        want_cpu, want_memory, want_gpu = (want or _NONE_ASKED for want in resources_per_machine(gang).amounts())
        roomy = [
            (tasks[i], i)
            for i in self.members(gang)
            if cpu[i] >= want_cpu and memory[i] >= want_memory and gpu[i] >= want_gpu
        ]
        return distribute_slots(gang, roomy, self.free)

    def units(self, gang: GangRequest, position: int) -> int:
        """How much a machine that may serve the gang counts towards `units_wanted`."""
        need, (cpu, memory, gpu) = gang.need, self._amounts
        slots = cpu[position] // need.cpu if need.cpu else _ENDLESS
        if need.memory_bytes and (fit := memory[position] // need.memory_bytes) < slots:
            slots = fit
        if need.gpu and (fit := gpu[position] // need.gpu) < slots:
            slots = fit
        if gang.placement is Placement.ANY:
            return slots if slots > 0 else 0
        return int(slots >= (gang.slots if gang.placement is Placement.TOGETHER else 1))

    def take(self, gang: GangRequest, spots: Iterable[int], sign: int = 1) -> None:
        """A gang gets room there, one slot for each spot; with `sign` -1 it gives it back."""
        cpu, memory, gpu = self._amounts
        want_cpu, want_memory, want_gpu = (sign * want for want in gang.need.amounts())
        for spot in spots:
            cpu[spot] -= want_cpu
            memory[spot] -= want_memory
            gpu[spot] -= want_gpu
            self._tasks[spot] += sign
        for pool in self._pools.values():
            pool.is_old = True

    def take_held(self, held: Iterable[tuple[Resources, Sequence[str]]]) -> None:
        """What is held by so much on each machine named; machines that are not there any more do not matter."""
        cpu, memory, gpu = self._amounts
        position = self.layout.position
        for need, names in held:
            want_cpu, want_memory, want_gpu = need.cpu, need.memory_bytes, need.gpu
            for name in names:
                i = position.get(name)
                if i is not None:
                    cpu[i] -= want_cpu
                    memory[i] -= want_memory
                    gpu[i] -= want_gpu
        for pool in self._pools.values():
            pool.is_old = True

    def lacks(self, gang: GangRequest, index: int) -> bool:
        """Whether a resource alone (by its place in `Resources.amounts`) is too little for a gang."""
        want = gang.need.amounts()[index]
        if not want:
            return False
        pool = self._pool(gang, fresh=True)
        if pool.lacks(gang, index):
            return True
        if gang.placement is not Placement.ANY:
            return False
        free = self._amounts[index]
        left = gang.slots  # as many as fit as a whole: the sum above adds up what is left over on each
        for i in itertools.islice(pool.orders[index], pool.with_at_least(index, want)):
            left -= free[i] // want
            if left <= 0:
                return False
        return True

    def _pool(self, gang: GangRequest, *, fresh: bool = False) -> _Pool:
        pool = self._pools.get(gang.labels)
        if pool is None:
            pool = _Pool(self.members(gang))
            self._pools[gang.labels] = pool
            pool.refresh(self._amounts)
        elif fresh and pool.is_old:
            pool.refresh(self._amounts)
        return pool


class Reservation:
    """Room that is kept for one gang: those that come later have to leave it.

    Args:
        gang: For whom.
        ahead: What would be free for it if only those ran that came after it; its own from now on.
    """

    def __init__(self, gang: GangRequest, ahead: Room) -> None:
        self._gang = gang
        self._ahead = ahead
        self._members = frozenset(ahead.members(gang))
        self._spare = sum(ahead.units(gang, i) for i in self._members) - units_wanted(gang)

    def concerns(self, spots: Iterable[int], need: Resources) -> bool:
        """Whether so much on one of these machines may be taken from it."""
        shared = any(a and b for a, b in zip(need.amounts(), self._gang.need.amounts(), strict=True))
        return shared and not self._members.isdisjoint(spots)

    def admits(self, gang: GangRequest, spots: Sequence[int]) -> bool:
        """Whether a gang may start on these machines; if so, it does."""
        if not self.concerns(spots, gang.need):
            return True
        if self._spare < 0:
            return False  # those that came after it hold too much already: what they leave is to add up
        touched = self._members.intersection(spots)
        before = sum(self._ahead.units(self._gang, i) for i in touched)
        self._ahead.take(gang, spots)
        lost = before - sum(self._ahead.units(self._gang, i) for i in touched)
        if lost <= self._spare:
            self._spare -= lost
            return True
        self._ahead.take(gang, spots, -1)
        return False


def units_wanted(gang: GangRequest) -> int:
    """How many units (of `Room.units`) a gang needs: slots, or machines, or one machine. All slots are alike, so that
    a gang fits when there are as many."""
    return 1 if gang.placement is Placement.TOGETHER else gang.slots
