"""What is free on the machines, and whether a gang fits there, found without a look at each machine.

A pass of the queue asks this for hundreds of kinds of gangs on hundreds of machines. Most answers are no: they follow
from sums, which are made once for all machines that carry the same labels. Room only becomes less in a pass, so sums
that are old say no too rarely, never too often; where a look at the machines had to say it, they are made anew.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence

from iris.cluster.engine.base import GangRequest, Machine, Placement, Resources, deal

_NONE_ASKED = -(2**63)  # less than any amount: what is not asked for fits also where too much was given away
_ENDLESS = 2**31  # so many slots that need nothing have room on a machine
_AMOUNTS = 3


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


class Room:
    """The free room of some machines, which becomes less as gangs take it."""

    def __init__(self, machines: Sequence[Machine], *, empty: bool = False) -> None:
        """`empty`: as if nothing was held."""
        self.machines = machines
        free = [machine.total if empty else machine.free for machine in machines]
        self._amounts: list[list[int]] = [[one.amounts()[index] for one in free] for index in range(_AMOUNTS)]
        self._tasks = [0 if empty else machine.tasks for machine in machines]
        self._pools: dict[tuple[tuple[str, str], ...], _Pool] = {}

    def members(self, gang: GangRequest) -> Sequence[int]:
        """The positions of the machines that may serve the gang, however full they are."""
        return self._pool(gang).members

    def free(self, position: int) -> Resources:
        """What a machine has left."""
        cpu, memory, gpu = self._amounts
        return Resources(cpu[position], memory[position], gpu[position])

    def fits(self, gang: GangRequest) -> bool:
        """Whether all slots of a gang have room."""
        pool = self._pool(gang)
        asked = [index for index, want in enumerate(gang.need.amounts()) if want]
        if any(pool.lacks(gang, index) for index in asked):
            return False
        wanted = units_wanted(gang)
        # From the machines with the most of what the fewest have: mostly the first few are enough.
        least = _least(gang).amounts()
        scarcest = min(asked, key=lambda index: pool.with_at_least(index, least[index]), default=0)
        count = pool.with_at_least(scarcest, least[scarcest]) if asked else len(pool.members)
        for i in itertools.islice(pool.orders[scarcest], count):
            wanted -= self.units(gang, i)
            if wanted <= 0:
                return True
        if pool.is_old:
            pool.refresh(self._amounts)
        return False

    def find(self, gang: GangRequest) -> list[int] | None:
        """For each slot of a gang the position of its machine, as `place` chooses it; None where it does not fit."""
        if not self.fits(gang):
            return None
        cpu, memory, gpu = self._amounts
        tasks = self._tasks
        want_cpu, want_memory, want_gpu = (want or _NONE_ASKED for want in _least(gang).amounts())
        roomy = [
            (tasks[i], i)
            for i in self.members(gang)
            if cpu[i] >= want_cpu and memory[i] >= want_memory and gpu[i] >= want_gpu
        ]
        return deal(gang, roomy, self.free)

    def units(self, gang: GangRequest, position: int) -> int:
        """How much a machine that may serve the gang counts towards `units_wanted`."""
        slots = _ENDLESS
        for want, free in zip(gang.need.amounts(), self._amounts, strict=True):
            if want:
                slots = min(slots, free[position] // want)
        if gang.placement is Placement.ANY:
            return max(slots, 0)
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
            pool = _Pool([i for i, machine in enumerate(self.machines) if machine.suits(gang)])
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


def _least(gang: GangRequest) -> Resources:
    """What a machine must have to count at all."""
    return gang.need * gang.slots if gang.placement is Placement.TOGETHER else gang.need
