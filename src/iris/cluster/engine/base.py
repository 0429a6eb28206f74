"""The seam to whatever gives the controller places to run: this machine, or an existing distributed engine.

An engine is asked, it never calls back. What the controller relies on, whatever the engine:

1. It holds room, all of a gang's or none, and nothing while a gang waits. It sees to it that each slot has a worker
   daemon. It knows no tasks, logs, ports or readiness: a worker is ready when it has registered with the controller.
2. It never repairs. A gang that loses a slot is BROKEN, also where the engine would have started it again; the
   controller releases it and asks again under a new id.
3. What cannot be told is not dead. `lost` names slots whose worker has *certainly* ended, such as a process that was
   reaped; a machine that does not answer may be behind a broken network, and run on. The truth about a worker is its
   own heartbeat to the controller.
4. An engine that cannot be reached raises `UnavailableError`; it does not answer "no gangs". A gang that is absent
   from a snapshot is gone: its room is free. What ran in it may run on where workers are not shared, as behind a broken
   network when the engine's head was replaced: then too the workers' heartbeats are the truth.
5. Order and fairness are the controller's, which submits only what is to start next.
6. Gangs outlive the controller where workers do: the next one finds them in its first snapshot, under their ids.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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

    def __mul__(self, slots: int) -> Resources:
        return Resources(self.cpu * slots, self.memory_bytes * slots, self.gpu * slots)

    def amounts(self) -> tuple[int, int, int]:
        """Cores, bytes, GPUs."""
        return (self.cpu, self.memory_bytes, self.gpu)


class Placement(enum.Enum):
    """Which machines the slots of a gang may share."""

    ANY = "any"
    SPREAD = "spread"  # each has a machine that no other slot of the gang has
    TOGETHER = "together"  # all are on one machine


@dataclass(frozen=True, slots=True)
class GangRequest:
    """Room for some tasks, all or none.

    Attributes:
        gang_id: The controller's, new for each placement; the same id again has no effect.
        slots: How many tasks.
        need: What each of them needs.
        placement: Which machines they may share.
        labels: What a machine has to be labelled with to have one of them: pairs of key and value, in order.
    """

    gang_id: str
    slots: int
    need: Resources
    placement: Placement = Placement.ANY
    labels: tuple[tuple[str, str], ...] = ()


class GangState(enum.Enum):
    """What an engine knows of a gang. One that it does not know at all is gone."""

    WAITING = "holds nothing yet"
    HELD = "has room for all slots"
    BROKEN = "was held, and lost a slot"


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one task.

    Attributes:
        worker_id: The worker that serves it.
        machine: Where that is, as in `Machine.name`.
        gpu_ids: Which of the machine's GPUs are its own; empty also where the worker itself sees no others.
    """

    worker_id: str
    machine: str
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
    """One machine, or the part of one that a worker serves.

    Attributes:
        total: What it has for tasks.
        free: What of it nobody holds, also nobody else who uses the engine.
        tasks: How many slots are held on it, also those that reserve nothing.
        labels: What it is labelled with.
        alive: Whether the engine places something there.
        why_avoided: Why it does not now although the machine runs, in words; empty: no such reason.
    """

    name: str
    total: Resources
    free: Resources
    tasks: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    alive: bool = True
    why_avoided: str = ""

    def suits(self, gang: GangRequest) -> bool:
        """Whether a slot of the gang may be here, however full it is."""
        return self.alive and all(label in self.labels for label in gang.labels)


class Engine(Protocol):
    """What the controller asks of an engine.

    Attributes:
        name: For people: `local`, `ray`, `slurm`.
        elastic: It may get machines that it does not have now: what fits on none of them waits.
        adopted: How many workers `start` has found that an earlier life has left.
        shared_workers: Workers stand, and serve slots of many gangs. Else each slot has one of its own, which ends when
            its gang is released; before that the controller lets it hand over all that it has.
    """

    name: str
    elastic: bool
    shared_workers: bool
    adopted: int

    async def start(self, controller_address: str) -> None:
        """Begins to serve; workers will register at `controller_address`."""

    async def submit(self, gang: GangRequest) -> None:
        """Asks for room; returns at once. GangRejectedError: never; UnavailableError: ask again."""

    async def release(self, gang_id: str) -> None:
        """Gives everything back and ends what still runs there, now. Waiting, broken, unknown, again: all fine.

        Its room is free when it is gone from the snapshot, which may be later.
        """

    async def snapshot(self) -> dict[str, GangStatus]:
        """Every gang of this controller that the engine knows, by id; also those from an earlier life of the
        controller."""

    async def machines(self) -> Sequence[Machine]:
        """What there is, and what of it is free."""

    async def wait_for_change(self, timeout_s: float) -> None:
        """Returns when a snapshot may have become different, or after the time."""

    async def close(self) -> None:
        """Ends all that runs, gracefully, gives everything back, and lets go: what `iris down` means.

        Raises:
            UnavailableError: The engine could not be told, or not in time. What may still run ends with its lease.
        """

    async def abandon(self) -> None:
        """Lets go; gangs live on, for the next controller. What an engine has started and told nobody of ends."""


@runtime_checkable
class AvoidsWorkers(Protocol):
    """What the controller asks besides of an engine whose workers stand, and which chooses among them."""

    def avoid(self, workers: Mapping[str, str]) -> None:
        """From now on places nothing on these workers, which can start nothing now; by id, and why.

        What is placed there already stays.
        """
