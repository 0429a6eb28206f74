"""Decides whether a gang fits on the machines, usually without checking each machine.

A scheduling pass checks hundreds of kinds of gangs on hundreds of machines. Most gangs do not fit, and usually the sums
of the free resources of all machines with the same labels are enough to prove this. Free capacity only shrinks during a
pass. Therefore an outdated sum may be too large, but never too small, and a gang that fits is never excluded. The sums
are computed again when a gang does not fit although the sums did not exclude it.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from iris.cluster.engine.base import GangRequest, Machine, Placement, Resources
from iris.cluster.engine.placement import distribute_slots, resources_per_machine

# If a gang does not ask for a resource, its need of this resource is set to this amount. The amount is below every free
# amount, and a free amount can be negative. Therefore the gang fits even on a machine that has allocated too much of
# this resource.
_NONE_ASKED = -(2**63)
# The number of slots that fit on a machine if the slots need no resources.
_UNLIMITED = 2**31
# `MachineSet` remembers its results for this number of kinds of gangs.
_MAX_REMEMBERED = 20_000
Labels = tuple[tuple[str, str], ...]


class GangKind(NamedTuple):
    """What a gang asks for: its number of slots, the resources of each slot, labels, and a placement rule. Gangs of one
    kind fit on the same machines, and wait for the same reason.
    """

    slots: int
    need: Resources
    placement: Placement
    labels: Labels

    @classmethod
    def of(cls, gang: GangRequest) -> GangKind:
        """Return the kind of a gang."""
        return cls(gang.slots, gang.need, gang.placement, gang.labels)


class _Pool:
    """The machines that may serve gangs with certain labels. For each resource, a list has these machines in the order
    of their free amount of the resource."""

    def __init__(self, members: Sequence[int]) -> None:
        self.members = members
        self.is_stale = True
        # The lists `orders`, `_negative` and `_sums` have one row for each resource. A row of `orders` contains the
        # positions of the machines in `MachineSet`. The machine with the largest free amount of the resource comes
        # first. A row of `_negative` contains the free amounts of these machines in the same order, but with a minus
        # sign, because `bisect` needs ascending numbers. Item n of a row of `_sums` is the sum of the n largest free
        # amounts.
        self.orders: list[list[int]] = []
        self._negative: list[list[int]] = []
        self._sums: list[list[int]] = []

    def refresh(self, amounts: Sequence[Sequence[int]]) -> None:
        """Sort the machines again, and recompute the sums, from the amounts that are free now."""
        self.orders = [sorted(self.members, key=lambda i, free=free: -free[i]) for free in amounts]  # type: ignore[misc]
        self._negative = [[-free[i] for i in order] for order, free in zip(self.orders, amounts, strict=True)]
        self._sums = [[0, *itertools.accumulate(-value for value in row)] for row in self._negative]
        self.is_stale = False

    def count_with_at_least(self, index: int, amount: int) -> int:
        """Return how many machines have at least `amount` free of the resource at `index` of `Resources.amounts`."""
        return bisect.bisect_right(self._negative[index], -amount)

    def lacks(self, gang: GangRequest, index: int) -> bool:
        """Return True if the sums of the free amounts prove that the machines have too little of one resource for the
        gang. If the result is False, the machines may still have too little, because a sum includes free amounts that
        are too small for one slot.
        """
        want = gang.need.amounts()[index]
        if gang.placement is Placement.TOGETHER:
            return not self.count_with_at_least(index, want * gang.slots)
        count = self.count_with_at_least(index, want)
        if gang.placement is Placement.SPREAD:
            return count < gang.slots
        return self._sums[index][count] < want * gang.slots


class MachineSet:
    """The machines with their total resources and labels, but without their free resources.

    All scheduling passes share one `MachineSet` until a machine appears, disappears, or changes anything but its free
    resources. Therefore the set can remember the results of its methods.
    """

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.machines = machines
        self.position = {machine.name: i for i, machine in enumerate(machines)}
        self._members: dict[Labels, list[int]] = {}
        self._fits: dict[GangKind, bool] = {}
        self._empty: FreeCapacity | None = None
        self._all_alive: MachineSet | None = None

    def updated(self, machines: Sequence[Machine]) -> MachineSet:
        """Return the `MachineSet` for a new list of machines. If only the free resources or the text of a shortage have
        changed, return this object.
        """
        return self if _fixed_properties(machines) == _fixed_properties(self.machines) else MachineSet(machines)

    def members(self, gang: GangRequest) -> Sequence[int]:
        """Return the live machines that have all labels of the gang, as positions in the machine set."""
        if gang.labels not in self._members:
            self._members[gang.labels] = [i for i, machine in enumerate(self.machines) if machine.suits(gang)]
        return self._members[gang.labels]

    @property
    def empty(self) -> FreeCapacity:
        """The free capacity of the machines if no gang had an allocation. Callers must not change this object."""
        if self._empty is None:
            self._empty = FreeCapacity(self, [machine.total for machine in self.machines])
        return self._empty

    def fits(self, gang: GangRequest) -> bool:
        """Return True if the gang fits into the total resources of the live machines."""
        kind = GangKind.of(gang)
        if kind not in self._fits:
            if len(self._fits) >= _MAX_REMEMBERED:
                self._fits.clear()
            self._fits[kind] = self.empty.fits(gang)
        return self._fits[kind]

    def fits_with_all_alive(self, gang: GangRequest) -> bool:
        """Return True if the gang fits into the total resources of all machines, including dead machines."""
        if all(machine.alive for machine in self.machines):
            return self.fits(gang)
        if self._all_alive is None:
            self._all_alive = MachineSet([replace(machine, alive=True) for machine in self.machines])
        return self._all_alive.fits(gang)


def _fixed_properties(machines: Sequence[Machine]) -> list[tuple[str, Resources, Labels, bool, int]]:
    # The text of a shortage contains amounts that change all the time. A new text alone must not make the set forget
    # its results, and must not give every waiting gang a new reason. Therefore only the code of a shortage counts.
    return [
        (machine.name, machine.total, machine.labels, machine.alive, machine.why_avoided.code) for machine in machines
    ]


class FreeCapacity:
    """The free resources of each machine of a set. A call of `allocate` reduces the free resources.

    Args:
        machine_set: All machines of the engine, with their total resources.
        free: The free resources of each machine.
        tasks: The number of allocated slots on each machine; empty if the numbers do not matter, as in `fits`. `find`
            prefers machines with few slots.
    """

    def __init__(self, machine_set: MachineSet, free: Sequence[Resources], tasks: Sequence[int] = ()) -> None:
        self.machine_set = machine_set
        self._amounts = [
            [one.cpu_millicores for one in free],
            [one.memory_bytes for one in free],
            [one.gpu for one in free],
        ]
        self._tasks = list(tasks) or [0] * len(free)
        self._pools: dict[Labels, _Pool] = {}

    def members(self, gang: GangRequest) -> Sequence[int]:
        """Return the live machines that have all labels of the gang, as positions in the machine set."""
        return self.machine_set.members(gang)

    def free(self, position: int) -> Resources:
        """Return the free resources of the machine at a position in the machine set."""
        cpu, memory, gpu = self._amounts
        return Resources(cpu[position], memory[position], gpu[position])

    def fits(self, gang: GangRequest) -> bool:
        """Return True if all slots of the gang fit now."""
        pool = self._pool(gang)
        asked = [index for index, want in enumerate(gang.need.amounts()) if want]
        for index in asked:
            if pool.lacks(gang, index):
                return False
        # The loop visits the machines with the most of the scarcest resource first. Usually the first few machines are
        # enough.
        least = resources_per_machine(gang).amounts()
        scarcest = min(asked, key=lambda index: pool.count_with_at_least(index, least[index]), default=0)
        count = pool.count_with_at_least(scarcest, least[scarcest]) if asked else len(pool.members)
        wanted = units_wanted(gang)
        if self._have_units(gang, itertools.islice(pool.orders[scarcest], count), wanted):
            return True
        if pool.is_stale:
            pool.refresh(self._amounts)
        return False

    def _have_units(self, gang: GangRequest, positions: Iterable[int], wanted: int) -> bool:
        for i in positions:
            wanted -= self.units(gang, i)
            if wanted <= 0:
                return True
        return False

    def find(self, gang: GangRequest) -> list[int] | None:
        """Choose a machine for each slot of the gang, and return the positions of the machines in the machine set, or
        None if the gang does not fit. The choice is the same as by `choose_machines`, but this method is faster if the
        gang does not fit.
        """
        if not self.fits(gang):
            return None
        cpu, memory, gpu = self._amounts
        tasks = self._tasks
        want_cpu, want_memory, want_gpu = (want or _NONE_ASKED for want in resources_per_machine(gang).amounts())
        candidates = [
            (tasks[i], i)
            for i in self.members(gang)
            if cpu[i] >= want_cpu and memory[i] >= want_memory and gpu[i] >= want_gpu
        ]
        return distribute_slots(gang, candidates, self.free)

    def units(self, gang: GangRequest, position: int) -> int:
        """Return how many units of a gang the machine at a position can provide. `units_wanted` defines the units. The
        machine must be one of `members(gang)`.
        """
        need, (cpu, memory, gpu) = gang.need, self._amounts
        slots = cpu[position] // need.cpu_millicores if need.cpu_millicores else _UNLIMITED
        if need.memory_bytes and (fit := memory[position] // need.memory_bytes) < slots:
            slots = fit
        if need.gpu and (fit := gpu[position] // need.gpu) < slots:
            slots = fit
        if gang.placement is Placement.ANY:
            return slots if slots > 0 else 0
        return int(slots >= (gang.slots if gang.placement is Placement.TOGETHER else 1))

    def allocate(self, gang: GangRequest, positions: Iterable[int], sign: int = 1) -> None:
        """Allocate one slot of the gang on each of the given machines. With `sign` -1, free one slot of the gang on
        each of them.
        """
        cpu, memory, gpu = self._amounts
        want_cpu, want_memory, want_gpu = (sign * want for want in gang.need.amounts())
        for position in positions:
            cpu[position] -= want_cpu
            memory[position] -= want_memory
            gpu[position] -= want_gpu
            self._tasks[position] += sign
        for pool in self._pools.values():
            pool.is_stale = True

    def subtract(self, allocated: Iterable[tuple[Resources, Sequence[str]]]) -> None:
        """Subtract allocations from the free resources. Each allocation is a pair of the resources of one slot and the
        names of the machines, one name for each slot. Machines that are no longer in the set are ignored.
        """
        cpu, memory, gpu = self._amounts
        position = self.machine_set.position
        for need, names in allocated:
            want_cpu, want_memory, want_gpu = need.cpu_millicores, need.memory_bytes, need.gpu
            for name in names:
                i = position.get(name)
                if i is not None:
                    cpu[i] -= want_cpu
                    memory[i] -= want_memory
                    gpu[i] -= want_gpu
        for pool in self._pools.values():
            pool.is_stale = True

    def lacks(self, gang: GangRequest, index: int) -> bool:
        """Return True if the gang does not fit because of one resource alone, the resource at `index` of
        `Resources.amounts`.
        """
        want = gang.need.amounts()[index]
        if not want:
            return False
        pool = self._pool(gang, fresh=True)
        if pool.lacks(gang, index):
            return True
        if gang.placement is not Placement.ANY:
            return False
        free = self._amounts[index]
        # `pool.lacks` uses sums that include amounts which are too small for one slot. This loop counts only whole
        # slots.
        missing = gang.slots
        for i in itertools.islice(pool.orders[index], pool.count_with_at_least(index, want)):
            missing -= free[i] // want
            if missing <= 0:
                return False
        return True

    def _pool(self, gang: GangRequest, *, fresh: bool = False) -> _Pool:
        pool = self._pools.get(gang.labels)
        if pool is None:
            pool = _Pool(self.members(gang))
            self._pools[gang.labels] = pool
            pool.refresh(self._amounts)
        elif fresh and pool.is_stale:
            pool.refresh(self._amounts)
        return pool


class Reservation:
    """The machines that are kept free for the oldest gang in the queue.

    Args:
        gang: The gang that has the reservation.
        free_for_gang: The capacity that is free for the gang once all earlier allocations have ended. An allocation is
            earlier if the engine granted it before the gang began to wait. The reservation owns and changes this
            object.
    """

    def __init__(self, gang: GangRequest, free_for_gang: FreeCapacity) -> None:
        self._gang = gang
        self._free_for_gang = free_for_gang
        self._members = frozenset(free_for_gang.members(gang))
        self._spare = sum(free_for_gang.units(gang, i) for i in self._members) - units_wanted(gang)

    def concerns(self, positions: Iterable[int], need: Resources) -> bool:
        """Return True if a slot with the resources `need` on one of the machines at `positions` could delay the gang
        with the reservation.
        """
        shared = any(a and b for a, b in zip(need.amounts(), self._gang.need.amounts(), strict=True))
        return shared and not self._members.isdisjoint(positions)

    def admits(self, gang: GangRequest, positions: Sequence[int]) -> bool:
        """Return True if `gang` may start now on the machines at `positions`. The gang has arrived later than the gang
        with the reservation, and must not delay that gang. If the result is True, the reservation counts `gang` as
        allocated.
        """
        if not self.concerns(positions, gang.need):
            return True
        if self._spare < 0:
            # The oldest gang fits only if resources of later allocations become free. When the gangs with these
            # allocations end, their resources must stay free for the oldest gang.
            return False
        touched = self._members.intersection(positions)
        before = sum(self._free_for_gang.units(self._gang, i) for i in touched)
        self._free_for_gang.allocate(gang, positions)
        lost = before - sum(self._free_for_gang.units(self._gang, i) for i in touched)
        if lost <= self._spare:
            self._spare -= lost
            return True
        self._free_for_gang.allocate(gang, positions, -1)
        return False


def units_wanted(gang: GangRequest) -> int:
    """Return how many units the gang needs in total. `FreeCapacity.units` returns how many units a machine contributes.

    The placement rule defines a unit: with `spread`, a machine on which one slot fits; with `together`, a machine on
    which all slots fit; otherwise, one slot. The gang fits exactly when the machines have enough units, because
    all slots of a gang need the same resources.
    """
    return 1 if gang.placement is Placement.TOGETHER else gang.slots
