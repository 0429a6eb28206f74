"""The interface between the controller and an engine. An engine is this machine or an existing cluster manager.

The controller calls the engine; the engine never calls the controller. The controller relies on six promises, which
every engine keeps:
1. An engine allocates all slots of a gang or none. A waiting gang holds nothing. The engine provides a worker daemon
   for each slot. The engine knows nothing of tasks, logs or ports. A worker counts as ready once it has registered with
   the controller, and the engine does not check this.
2. An engine never repairs a gang. A gang that loses a slot becomes BROKEN, even where the engine could restart the
   worker. The controller releases a broken gang and submits it again under a new id.
3. An engine reports a slot as lost only if its worker has certainly ended, for example because its process was reaped.
   A machine that does not answer may be cut off by the network and still be running tasks. Only the worker's own
   heartbeats show the controller whether the worker is alive.
4. An engine that cannot be reached raises `UnavailableError` instead of reporting that there are no gangs. A gang that
   is missing from a snapshot no longer exists, and its slots are free. Its processes may still be running if workers
   are not shared, for example behind a broken network after the engine's head was replaced. After such a replacement
   too, only the heartbeats of workers show whether the workers are alive.
5. The controller decides order and fairness, and submits only gangs that should start next.
6. Gangs survive a restart of the controller if the gangs' workers survive. The first snapshot of the next controller
   contains these gangs, under the same ids.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from iris.cores import MILLICORES, cores_of
from iris.counts import counted
from iris.errors import IrisError
from iris.reasons import NO_SHORTAGE, Shortage

# A GPU of a machine, as a word of CUDA_VISIBLE_DEVICES: its number, or an id that begins with `GPU-` or `MIG-`.
GpuId = int | str


class GangRejectedError(IrisError):
    """An error: the engine can never allocate a gang. Submitting the gang again has no use. The message contains the
    reason.
    """

    code = "failed_precondition"


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of CPU in millicores (1000 are one core), memory in bytes, and GPUs."""

    cpu_millicores: int = 0
    memory_bytes: int = 0
    gpu: int = 0

    @classmethod
    def of(cls, cpu: float = 0, memory_bytes: int = 0, gpu: int = 0) -> Resources:
        """Return the resources with the given CPU cores, bytes of memory, and GPUs. Fractions of a millicore are
        rounded.
        """
        return cls(round(cpu * MILLICORES), memory_bytes, gpu)

    @property
    def cpu(self) -> int | float:
        """The number of cores: an `int` for whole cores, and otherwise a `float`."""
        return cores_of(self.cpu_millicores)

    def __add__(self, other: Resources) -> Resources:
        cpu = self.cpu_millicores + other.cpu_millicores
        return Resources(cpu, self.memory_bytes + other.memory_bytes, self.gpu + other.gpu)

    def __sub__(self, other: Resources) -> Resources:
        cpu = self.cpu_millicores - other.cpu_millicores
        return Resources(cpu, self.memory_bytes - other.memory_bytes, self.gpu - other.gpu)

    def covers(self, need: Resources) -> bool:
        """Return whether these resources are enough for `need`.

        If `need` does not request a resource, this resource always fits. It fits even if this amount is negative
        because too much was allocated.
        """
        return all(not want or have >= want for have, want in zip(self.amounts(), need.amounts(), strict=True))

    def __mul__(self, slots: int) -> Resources:
        return Resources(self.cpu_millicores * slots, self.memory_bytes * slots, self.gpu * slots)

    def amounts(self) -> tuple[int, int, int]:
        """Return CPU in millicores, memory in bytes, and GPUs as a tuple."""
        return (self.cpu_millicores, self.memory_bytes, self.gpu)


class Placement(enum.Enum):
    """A rule for the distribution of a gang's slots over machines: on any machines, all on different machines, or all
    on one machine.
    """

    ANY = "any"
    # SPREAD: each slot of the gang is on a different machine.
    SPREAD = "spread"
    # TOGETHER: all slots of the gang are on one machine.
    TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class GangRequest:
    """A request for the slots of one gang. The engine allocates all of them or none.

    Attributes:
        gang_id: An id that the controller makes for each submission. Submitting the same id again has no effect.
        slots: The number of slots, one for each task.
        need: The resources that each slot needs.
        placement: How the slots may be distributed over machines.
        labels: Labels that a machine must have to receive a slot, as sorted pairs of key and value.
    """

    gang_id: str
    slots: int
    need: Resources
    placement: Placement = Placement.ANY
    labels: tuple[tuple[str, str], ...] = ()

    def describe(self) -> str:
        """Return the needs of the gang as a text for people."""
        need = f"cpu={self.need.cpu:g}, memory_bytes={self.need.memory_bytes} and gpu={self.need.gpu}"
        rule = "" if self.placement is Placement.ANY else f", placement {self.placement.value}"
        labels = "".join(f", label {key}={value}" for key, value in self.labels)
        return f"{counted(self.slots, 'slot')} with {need} each{rule}{labels}"


class GangState(enum.Enum):
    """The state of a gang in an engine. An engine does not list a released gang."""

    WAITING = "has no slots yet"
    HELD = "has all its slots"
    BROKEN = "had all its slots and lost at least one"


@dataclass(frozen=True, slots=True)
class Slot:
    """One task's share of a gang's allocation.

    Attributes:
        worker_id: The id of the worker that serves the slot.
        machine: The name of the worker's machine, as in `Machine.name`.
        gpu_ids: The machine's GPUs that belong to the slot. Empty if the slot has no GPUs, or if its worker sees only
            the GPUs of this slot.
    """

    worker_id: str
    machine: str
    gpu_ids: tuple[GpuId, ...] = ()


@dataclass(frozen=True, slots=True)
class GangStatus:
    """The state of one gang as the engine sees it.

    Attributes:
        state: Whether the gang waits, has its slots, or is broken.
        slots: The gang's slots in the order of its tasks. Empty while the gang waits.
        lost: The positions in `slots` of the slots whose workers have certainly ended.
        reason: Why the gang waits, or why it is broken, in the engine's words.
    """

    state: GangState
    slots: tuple[Slot, ...] = ()
    lost: frozenset[int] = frozenset()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine, or the share of a machine that one worker serves.

    Attributes:
        name: The name of the machine. It is unique within the engine.
        total: All resources of the machine that tasks may use.
        free: The part of the capacity that no user of the engine has allocated.
        tasks: The number of slots on the machine, including slots that reserve no resources.
        labels: The machine's labels, as sorted pairs of key and value.
        alive: Whether the engine allocates slots on the machine at present.
        why_avoided: Why the engine allocates nothing new on this machine although the machine runs. Empty if the engine
            allocates slots on it.
    """

    name: str
    total: Resources
    free: Resources
    tasks: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    alive: bool = True
    why_avoided: Shortage = NO_SHORTAGE

    def suits(self, gang: GangRequest) -> bool:
        """Return whether the machine may get slots of the gang: it is alive and has the labels that the gang needs. The
        free capacity is not checked.
        """
        return self.alive and all(label in self.labels for label in gang.labels)


class Engine(Protocol):
    """The methods that the controller calls on an engine. The module docstring lists the promises of every engine.

    Attributes:
        name: The engine's name for users: `local`, `ray`, or `slurm`.
        elastic: Whether the engine may get more machines later. With such an engine, a gang that fits on no present
            machine waits.
        adopted: The number of workers of an earlier controller that `start` has found.
        shared_workers: True if long-lived workers serve the slots of many gangs. False if each slot has a separate
            worker, which ends when its gang is released. Before the release, the controller lets such a worker upload
            its logs and results.
    """

    name: str
    elastic: bool
    shared_workers: bool
    adopted: int

    async def start(self, controller_address: str) -> None:
        """Start the engine. Its workers register with the controller at `controller_address`."""

    async def submit(self, gang: GangRequest) -> None:
        """Request the slots of a gang, and return without waiting for them.

        Raises:
            GangRejectedError: The engine can never allocate this gang.
            UnavailableError: The engine did not answer. Submit the gang again.
        """

    async def release(self, gang_id: str) -> None:
        """Release the slots of a gang and end its processes at once.

        The gang may be in any state. It may even be unknown or already released. The gang's slots are free once a
        snapshot does not contain the gang any more, which may be some time after the call.
        """

    async def snapshot(self) -> dict[str, GangStatus]:
        """Return the status of each gang of this cluster, by gang id. The result includes gangs from an earlier process
        of the controller.
        """

    async def machines(self) -> Sequence[Machine]:
        """Return all machines, each with its capacity and its free capacity."""

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait until the next snapshot may differ from the last snapshot, but at most `timeout_s` seconds."""

    async def close(self) -> None:
        """End all workers gracefully, release all gangs, and stop the engine. `iris down` calls this method.

        Raises:
            UnavailableError: The engine did not answer in time. Workers that still run end when their lease expires.
        """

    async def abandon(self) -> None:
        """Stop the engine but keep its gangs for the next controller. Workers that have not registered with any
        controller end as well.
        """


@runtime_checkable
class AvoidsWorkers(Protocol):
    """An engine with long-lived workers. The controller can exclude some of the workers from new allocations."""

    def avoid(self, workers: Mapping[str, Shortage]) -> None:
        """Allocate no new slots on the given workers until the next call of this method. Existing slots stay.

        Args:
            workers: The ids of workers that cannot start attempts at present, each with the reason.
        """
