"""Describes the machines, their allocations and the waiting gangs at one moment, for `iris machines`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iris.cluster.controller.scheduling.gang_states import (
    Draining,
    Granted,
    Held,
    Lost,
    ReleaseDue,
    Releasing,
    Requested,
    allocation_of,
)
from iris.cluster.controller.scheduling.gang_table import GangTable
from iris.cluster.controller.scheduling.queue import Allocation, QueuedGang
from iris.cluster.engine.base import GangStatus, Machine


@dataclass(frozen=True, slots=True)
class Survey:
    """A snapshot of the machines, their allocations, and the gangs that wait for machines.

    Attributes:
        machines: The machines as the engine has reported them last.
        allocations: All granted allocations, each with the id of its job.
        waiting: The queued gangs, and the gangs that wait at the engine, in no particular order.
        reserved_for: The id of the gang that has a reservation; empty if no gang has one.
        workers: The machine of each worker that serves a slot, by worker id. Empty if the engine cannot be reached.
        problem: Why the engine cannot be reached. Empty if the engine can be reached.
    """

    machines: Sequence[Machine]
    allocations: list[tuple[str, Allocation]]
    waiting: list[QueuedGang]
    reserved_for: str
    workers: Mapping[str, str]
    problem: str


def all_allocations(gangs: GangTable, snapshot: Mapping[str, GangStatus] | None) -> list[tuple[str, Allocation]]:
    """Return all allocations, each with the id of its job.

    Args:
        gangs: The table of all gangs of the scheduler.
        snapshot: The latest snapshot of the engine, which may not have been applied to the gangs yet. None if the
            engine cannot be reached.
    """
    held = []
    for gang in gangs.in_state(Requested, ReleaseDue, Draining, Releasing, Lost, Granted, Held):
        allocation = allocation_of(gang.state)
        status = None if snapshot is None else snapshot.get(gang.gang_id)
        if allocation is None and status is not None and status.slots:
            machines = tuple(slot.machine for slot in status.slots)
            allocation = Allocation(gang.request, 0.0, machines, gang.task_indices)
        elif snapshot is not None and status is None and isinstance(gang.state, Lost | Releasing):
            allocation = None
        if allocation is not None:
            held.append((gang.job_id, allocation))
    return held
