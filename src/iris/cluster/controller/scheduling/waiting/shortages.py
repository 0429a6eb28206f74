"""Finds the reason why a gang does not fit: which resources are too scarce, and on which machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from iris.cluster.controller.scheduling.capacity import FreeCapacity, GangKind, Labels, MachineSet
from iris.cluster.controller.scheduling.waiting.reasons import (
    InsufficientCapacity,
    InsufficientFree,
    MachineAmounts,
    MachineSummary,
    NoMachine,
    NoMatchingMachine,
    Shortage,
    TooFewMachines,
    UnavailableMachines,
)
from iris.cluster.engine.base import GangRequest, Machine, Placement, Resources

# The reason why a gang waits names at most this many machines, and at most this many values of a label.
_MAX_SHOWN = 4


class ShortageFinder:
    """Finds out why gangs did not fit on the machines in a scheduling pass. The sums over machines are computed once
    for all gangs with the same labels.

    Args:
        free: The free capacity. The finder must be created before the scheduling pass allocates from this object.
        allocated: The allocations of this cluster. Each item has the resources of one slot and the machine of each
            slot. All other resources that are not free are occupied by other users of the engine.
    """

    def __init__(self, free: FreeCapacity, allocated: Iterable[tuple[Resources, Sequence[str]]]) -> None:
        self._free = free
        self._empty = free.machine_set.empty
        self._free_before = [free.free(i) for i in range(len(free.machine_set.machines))]
        self._allocated = allocated
        self._others: list[Resources] | None = None
        self._sums: dict[tuple[Labels, bool], Resources] = {}
        self._others_of: dict[Labels, Resources] = {}

    def free_shortage(self, gang: GangRequest) -> InsufficientFree:
        """Return why a gang does not fit now. Call this method only for a gang that would fit if nothing were
        allocated.
        """
        machines = self._summary(gang, self._free)
        others = _only(self._held_by_others(gang), machines.scarce)
        return InsufficientFree(GangKind.of(gang), machines, others)

    def capacity_shortage(self, gang: GangRequest) -> Shortage:
        """Return why a gang can never fit on the present machines. Call this method only for a gang that would not fit
        even if nothing were allocated.
        """
        kind = GangKind.of(gang)
        machines, members = self._empty.machine_set.machines, self._empty.members(gang)
        unavailable = _unavailable(machines)
        if not any(machine.alive for machine in machines):
            return NoMachine(kind, unavailable)
        if not members:
            return _missing_label(kind, machines, unavailable)
        if gang.placement is Placement.SPREAD and len(members) < gang.slots:
            return TooFewMachines(kind, len(members), unavailable)
        return InsufficientCapacity(kind, self._summary(gang, self._empty), unavailable)

    def _summary(self, gang: GangRequest, capacity: FreeCapacity) -> MachineSummary:
        """Return a summary of the scarce resources. The summary omits all other resources, so that a change of their
        amounts does not change the summary.
        """
        members, machines = capacity.members(gang), capacity.machine_set.machines
        scarce = _scarce(gang, capacity)
        shown = tuple(
            MachineAmounts(machines[i].name, _only(capacity.free(i), scarce), _only(machines[i].total, scarce))
            for i in members[:_MAX_SHOWN]
        )
        sums = None
        if len(members) > _MAX_SHOWN:
            free, total = (self._sum(gang.labels, one, members) for one in (capacity, self._empty))
            sums = MachineAmounts("", _only(free, scarce), _only(total, scarce))
        return MachineSummary(scarce, shown, len(members), sums)

    def _sum(self, labels: Labels, capacity: FreeCapacity, members: Sequence[int]) -> Resources:
        key = (labels, capacity is self._empty)
        if key not in self._sums:
            self._sums[key] = _add_up(capacity.free(i) for i in members)
        return self._sums[key]

    def _held_by_others(self, gang: GangRequest) -> Resources:
        """Return how much other users of the engine occupy on the machines that may serve the gang."""
        if gang.labels not in self._others_of:
            if self._others is None:
                self._others = self._find_others(self._free.machine_set)
            others = self._others
            self._others_of[gang.labels] = _add_up(others[i] for i in self._free.members(gang))
        return self._others_of[gang.labels]

    def _find_others(self, machine_set: MachineSet) -> list[Resources]:
        """Return how much other users of the engine occupy on each machine."""
        used = [machine.total - free for machine, free in zip(machine_set.machines, self._free_before, strict=True)]
        rest = FreeCapacity(machine_set, used)
        rest.subtract(self._allocated)
        amounts = (rest.free(i).amounts() for i in range(len(used)))
        return [Resources(*(max(0, amount) for amount in each)) for each in amounts]


def _add_up(resources: Iterable[Resources]) -> Resources:
    amounts = [one.amounts() for one in resources] or [(0, 0, 0)]
    return Resources(*(sum(column) for column in zip(*amounts, strict=True)))


def _only(resources: Resources, indices: Sequence[int]) -> Resources:
    return Resources(*(amount if i in indices else 0 for i, amount in enumerate(resources.amounts())))


def _scarce(gang: GangRequest, capacity: FreeCapacity) -> tuple[int, ...]:
    """Return the positions in `Resources.amounts` of the resources that are too scarce for a gang. If no resource is
    too scarce by itself, but no machine has enough of all resources together, return the positions of all resources
    that the gang asks for.
    """
    asked = [index for index, amount in enumerate(gang.need.amounts()) if amount]
    return tuple([index for index in asked if capacity.lacks(gang, index)] or asked)


def _unavailable(machines: Sequence[Machine]) -> UnavailableMachines:
    avoided = [machine for machine in machines if machine.why_avoided]
    return UnavailableMachines(
        dead=sum(not machine.alive and not machine.why_avoided for machine in machines),
        avoided=len(avoided),
        example=(avoided[0].name, avoided[0].why_avoided.text) if avoided else None,
    )


def _missing_label(kind: GangKind, machines: Sequence[Machine], unavailable: UnavailableMachines) -> NoMatchingMachine:
    for key, value in kind.labels:
        values = sorted({v for machine in machines if machine.alive for k, v in machine.labels if k == key})
        if value not in values:
            more = max(0, len(values) - _MAX_SHOWN)
            return NoMatchingMachine(kind, key, tuple(values[:_MAX_SHOWN]), more, unavailable)
    return NoMatchingMachine(kind, "", (), 0, unavailable)
