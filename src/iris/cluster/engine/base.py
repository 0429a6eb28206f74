"""The seam to whatever gives the controller places to run: this machine, or an existing distributed engine.

An engine is asked, it never calls back. It holds room and sees to it that each slot has a worker daemon; it knows no
tasks, logs, ports or readiness (a worker is ready when it has registered with the controller). It never repairs: a
gang that loses a slot is BROKEN, the controller releases it and asks again under a new id. What cannot be told is not
dead: an engine that cannot be reached raises `UnavailableError`, it does not answer "no gangs".
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from iris.errors import IrisError


class GangRejectedError(IrisError):
    """The engine will never place this gang; the text says why. Asking again is of no use."""

    code = "failed_precondition"


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of what a machine has: cores, bytes of memory, GPUs."""

    cpu: int = 0
    memory_bytes: int = 0
    gpu: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.cpu + other.cpu, self.memory_bytes + other.memory_bytes, self.gpu + other.gpu)

    def __sub__(self, other: Resources) -> Resources:
        return Resources(self.cpu - other.cpu, self.memory_bytes - other.memory_bytes, self.gpu - other.gpu)

    def covers(self, need: Resources) -> bool:
        """Whether `need` fits into this. What is not asked for fits always, also where too much was given away."""
        return all(not want or have >= want for have, want in zip(self.amounts(), need.amounts(), strict=True))

    def amounts(self) -> tuple[int, int, int]:
        """Cores, bytes, GPUs."""
        return (self.cpu, self.memory_bytes, self.gpu)


@dataclass(frozen=True, slots=True)
class GangRequest:
    """Room for `slots` tasks with `need` each, all or none.

    `gang_id` is the controller's, new for each placement; the same id again has no effect.
    """

    gang_id: str
    slots: int
    need: Resources


class GangState(enum.Enum):
    """What an engine knows of a gang. One that it does not know at all is gone."""

    WAITING = "holds nothing yet"
    HELD = "has room for all slots"
    BROKEN = "was held, and lost a slot"


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one task: the worker that serves it, and which of the machine's GPUs are its own."""

    worker_id: str
    gpu_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GangStatus:
    """A gang as the engine sees it.

    Attributes:
        slots: In the order of the gang's tasks; empty while it waits.
        lost: Positions in `slots` that are *certainly* dead.
        reason: Why it waits or broke, in the engine's words.
    """

    state: GangState
    slots: tuple[Slot, ...] = ()
    lost: frozenset[int] = frozenset()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine, or the part of one that a worker serves."""

    name: str
    total: Resources
    free: Resources
    tasks: int = 0  # how many slots are held on it, also those that reserve nothing


class Engine(Protocol):
    """What the controller asks of an engine. `elastic`: it may get machines that it does not have now."""

    elastic: bool

    async def start(self, controller_address: str) -> None:
        """Begins to serve; workers will register at `controller_address`."""

    async def submit(self, gang: GangRequest) -> None:
        """Asks for room; returns at once. GangRejectedError: never; UnavailableError: ask again."""

    async def release(self, gang_id: str) -> None:
        """Gives everything back and ends what still runs there. Waiting, broken, unknown, again: all fine."""

    async def snapshot(self) -> dict[str, GangStatus]:
        """Every gang of this controller that the engine knows, by id."""

    async def machines(self) -> Sequence[Machine]:
        """What there is, and what of it is free."""

    async def wait_for_change(self, timeout_s: float) -> None:
        """Returns when a snapshot may have become different, or after the time."""

    async def close(self) -> None:
        """Lets go; what an engine was started for alone ends with it."""


def place(gang: GangRequest, machines: Sequence[Machine]) -> list[int] | None:
    """Finds room for all slots of a gang, or None. All slots are alike, so greedy is exact.

    Slots are dealt out evenly: each goes to the machine with the fewest tasks among those that still have room.

    Returns:
        For each slot the position of its machine.
    """
    free = [machine.free for machine in machines]
    roomy = [(machine.tasks, i) for i, machine in enumerate(machines) if machine.free.covers(gang.need)]
    heapq.heapify(roomy)
    chosen: list[int] = []
    while roomy and len(chosen) < gang.slots:
        tasks, best = heapq.heappop(roomy)
        free[best] -= gang.need
        chosen.append(best)
        if free[best].covers(gang.need):
            heapq.heappush(roomy, (tasks + 1, best))
    return chosen if len(chosen) == gang.slots else None
