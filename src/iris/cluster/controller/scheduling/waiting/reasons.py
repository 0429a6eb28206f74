"""Defines data classes for the reasons why gangs wait. The module `reason_text.py` converts a reason to text for
people.

A `PendingReason` has a cause, which is a dataclass such as `InsufficientFree` or `Reserved`. The reason may also
contain the loss of an earlier allocation, and the problem with an unreachable engine. Each class of causes has a `code`
for programs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from iris.cluster.controller.scheduling.capacity import GangKind
from iris.cluster.controller.workers.unavailability import MissingKind, MissingWorker
from iris.cluster.engine.base import Resources
from iris.reasons import PendingCode


class LossKind(enum.Enum):
    """The reasons why a gang can lose its allocation, or its request to the engine, before its attempts start. The
    values are texts for people.
    """

    FORGOTTEN = "the engine no longer knows the gang"
    BROKEN = "the engine lost a slot of the allocation"
    REFUSED = "the controller refused a worker of the allocation"
    UNREGISTERED = "a worker of the allocation did not register in time"


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of an allocation, or of a request to the engine, before the gang's attempts started.

    Attributes:
        kind: In which way the gang was lost.
        detail: If `kind` is `BROKEN`, the engine's reason. If `kind` is `REFUSED`, why the worker was refused.
            Otherwise empty.
        machines: If `kind` is `UNREGISTERED`, the first machines of the allocation. Otherwise empty.
        limit_s: If `kind` is `UNREGISTERED`, how long the workers had to register, in seconds. Otherwise 0.
    """

    kind: LossKind
    detail: str = ""
    machines: tuple[str, ...] = ()
    limit_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MachineAmounts:
    """The free and total resources of one machine, or the sums over several machines."""

    name: str
    free: Resources
    total: Resources


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """A summary of the machines that may serve a gang, for the text of a reason.

    Attributes:
        scarce: The positions in `Resources.amounts` of the resources that are too scarce.
        shown: The amounts of each of the first machines.
        count: The number of machines that may serve the gang.
        sums: The sums over all machines that may serve the gang; None if `shown` contains all of them.
    """

    scarce: tuple[int, ...]
    shown: tuple[MachineAmounts, ...]
    count: int
    sums: MachineAmounts | None = None


@dataclass(frozen=True, slots=True)
class UnavailableMachines:
    """The machines on which no new attempt can start now.

    Attributes:
        dead: The number of machines that are not alive.
        avoided: The number of live machines that accept no new attempts.
        example: The name of one of the avoided machines, and why it accepts no new attempts; None if there is none.
    """

    dead: int = 0
    avoided: int = 0
    example: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class InsufficientFree:
    """The gang fits on the machines, but not into their free resources now.

    Attributes:
        kind: The resources and labels that the gang asks for.
        machines: The machines that may serve the gang, with their free resources now.
        held_by_others: The resources on these machines that users outside of this cluster occupy.
    """

    code: ClassVar = PendingCode.INSUFFICIENT_FREE
    kind: GangKind
    machines: MachineSummary
    held_by_others: Resources


@dataclass(frozen=True, slots=True)
class InsufficientCapacity:
    """The gang would not fit on the machines even if no other gang had an allocation."""

    code: ClassVar = PendingCode.INSUFFICIENT_CAPACITY
    kind: GangKind
    machines: MachineSummary
    unavailable: UnavailableMachines


@dataclass(frozen=True, slots=True)
class NoMachine:
    """No machine accepts new attempts now."""

    code: ClassVar = PendingCode.NO_MACHINE
    kind: GangKind
    unavailable: UnavailableMachines


@dataclass(frozen=True, slots=True)
class NoMatchingMachine:
    """No machine has all the labels that the gang asks for.

    Attributes:
        kind: The resources and labels that the gang asks for.
        label: The key of the first label that no machine has. Empty if each label by itself exists on a machine.
        values: Some values that machines have for the key `label`; empty if no machine has this key.
        more_values: The number of values for the key `label` that `values` leaves out.
        unavailable: The machines on which no new attempt can start now.
    """

    code: ClassVar = PendingCode.NO_MATCHING_MACHINE
    kind: GangKind
    label: str
    values: tuple[str, ...]
    more_values: int
    unavailable: UnavailableMachines


@dataclass(frozen=True, slots=True)
class TooFewMachines:
    """The gang needs a machine for each slot, and only `count` machines may serve the gang."""

    code: ClassVar = PendingCode.TOO_FEW_MACHINES
    kind: GangKind
    count: int
    unavailable: UnavailableMachines


@dataclass(frozen=True, slots=True)
class Reserved:
    """The gang would fit, but only on machines that are reserved for an older gang.

    Attributes:
        job_id: The job of the older gang.
        kind: The resources and labels that the older gang asks for.
    """

    code: ClassVar = PendingCode.RESERVED
    job_id: str
    kind: GangKind


@dataclass(frozen=True, slots=True)
class EnginePending:
    """The engine has the gang's request and has not granted it yet.

    Attributes:
        kind: The resources and labels that the gang asks for.
        shortage: Why the gang does not fit, as far as the controller knows. None if the gang seems to fit.
        engine: The engine's name.
        engine_reason: The engine's reason why the gang waits. Empty if the engine states no reason.
    """

    code: ClassVar = PendingCode.ENGINE_QUEUE
    kind: GangKind
    shortage: Shortage | None
    engine: str
    engine_reason: str


@dataclass(frozen=True, slots=True)
class WorkersMissing:
    """The gang has its allocation, but some of its workers are missing. `missing` is never empty."""

    missing: tuple[MissingWorker, ...]

    @property
    def code(self) -> PendingCode:
        """The code of the reason to wait, for the missing worker that explains the delay best."""
        return _CODE_OF_MISSING[self.most_telling.kind]

    @property
    def most_telling(self) -> MissingWorker:
        """The missing worker that explains the delay best. A refused worker explains more than an unregistered
        worker."""
        return next((worker for worker in self.missing if worker.kind is MissingKind.REFUSED), self.missing[0])


@dataclass(frozen=True, slots=True)
class RequestDelayed:
    """The gang pauses before its next request, because the gang lost an allocation before its attempts started."""

    code: ClassVar = PendingCode.ALLOCATION_LOST
    loss: Loss


Shortage = InsufficientFree | InsufficientCapacity | NoMachine | NoMatchingMachine | TooFewMachines
Cause = Shortage | Reserved | EnginePending | WorkersMissing | RequestDelayed

_CODE_OF_MISSING = {
    MissingKind.STARTING: PendingCode.WORKERS_STARTING,
    MissingKind.UNREACHABLE: PendingCode.WORKER_UNREACHABLE,
    MissingKind.REFUSED: PendingCode.WORKER_REFUSED,
}


@dataclass(frozen=True, slots=True)
class PendingReason:
    """Why a gang waits.

    Attributes:
        cause: The cause found by the last scheduling pass; None if no pass has visited the gang yet.
        earlier_loss: The last loss of the gang's job; None if the job had no loss since its last start.
        engine_problem: Why the engine cannot be reached now. Empty if the engine can be reached.
    """

    cause: Cause | None = None
    earlier_loss: Loss | None = None
    engine_problem: str = ""

    @property
    def code(self) -> PendingCode:
        """The reason's code for programs. If the engine is unreachable, the code reports the engine's problem, because
        the cause may be out of date.
        """
        if self.engine_problem:
            return PendingCode.ENGINE_UNREACHABLE
        return PendingCode.QUEUED if self.cause is None else self.cause.code
