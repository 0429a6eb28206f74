"""Chooses a machine for each slot of a gang. The module is pure. The engines and the scheduler share this algorithm."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from iris.cluster.engine.base import GangRequest, Machine, Placement, Resources


def choose_machines(gang: GangRequest, machines: Sequence[Machine]) -> list[int] | None:
    """Return the index of a machine for each slot of the gang. Return None if the gang does not fit.

    All slots of a gang need the same resources. Therefore choosing machines one slot at a time finds a placement
    whenever one exists. Each slot goes to a machine with enough free resources. If there are several such machines, the
    one with the fewest tasks is chosen. With the placement rule `together`, the machine must have enough free resources
    for all slots of the gang.
    """
    least = resources_per_machine(gang)
    candidates = [(m.tasks, i) for i, m in enumerate(machines) if m.suits(gang) and m.free.covers(least)]
    return distribute_slots(gang, candidates, lambda i: machines[i].free)


def resources_per_machine(gang: GangRequest) -> Resources:
    """Return the free resources that a machine must have to receive any slot of the gang."""
    return gang.need * gang.slots if gang.placement is Placement.TOGETHER else gang.need


def distribute_slots(
    gang: GangRequest, candidates: list[tuple[int, int]], free_of: Callable[[int], Resources]
) -> list[int] | None:
    """Distribute the slots of a gang over machines that are known to be large enough, as `choose_machines` describes.

    Args:
        gang: The gang to place.
        candidates: The number of tasks and the position of each machine whose free resources cover
            `resources_per_machine`.
        free_of: A function that returns the free resources of the machine at a position.

    Returns:
        The position of a machine for each slot, or None if the gang does not fit.
    """
    if gang.placement is Placement.TOGETHER:
        return [min(candidates)[1]] * gang.slots if candidates else None
    if gang.placement is Placement.SPREAD:
        return [i for _, i in heapq.nsmallest(gang.slots, candidates)] if len(candidates) >= gang.slots else None
    if gang.slots == 1:
        return [min(candidates)[1]] if candidates else None
    return _distribute_evenly(gang, list(candidates), {i: free_of(i) for _, i in candidates})


def _distribute_evenly(
    gang: GangRequest, candidates: list[tuple[int, int]], free: dict[int, Resources]
) -> list[int] | None:
    heapq.heapify(candidates)
    chosen: list[int] = []
    while candidates and len(chosen) < gang.slots:
        tasks, best = heapq.heappop(candidates)
        free[best] -= gang.need
        chosen.append(best)
        if free[best].covers(gang.need):
            heapq.heappush(candidates, (tasks + 1, best))
    return chosen if len(chosen) == gang.slots else None
