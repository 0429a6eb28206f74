"""The states of a gang, the events that change them, and the instructions that follow.

The module `gangs.py` defines which event leads from which state to which, and has a diagram of the states. A gang is
always in exactly one state. All times are seconds of the monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from iris.cluster.controller.scheduling.queue import Allocation
from iris.cluster.controller.scheduling.reasons import Loss
from iris.cluster.controller.workers.missing import MissingWorker
from iris.cluster.engine.base import GangRequest, GangStatus, Slot

# States.


@dataclass(frozen=True, slots=True)
class Paused:
    """The gang joins the queue at `until_s`."""

    until_s: float
    place_by_s: float


@dataclass(frozen=True, slots=True)
class Queued:
    """The gang is in the queue, and has waited since `since_s`."""

    since_s: float
    place_by_s: float


@dataclass(frozen=True, slots=True)
class Requested:
    """The engine has been asked for the gang's allocation and has not granted it.

    Attributes:
        since_s: The time since which the gang has waited, including its time in the queue.
        place_by_s: When the scheduling timeout expires.
        is_confirmed: False if the engine did not answer the request, and may not have received the request.
        engine_reason: The engine's reason why the gang waits; None until a snapshot contains the waiting gang.
        blocking_since_s: The time since which every scheduling pass has found that the gang blocks an older gang with a
            reservation; None if the gang did not block one in the last pass.
    """

    since_s: float
    place_by_s: float
    is_confirmed: bool = True
    engine_reason: str | None = None
    blocking_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """The gang has its allocation, but some of its workers are missing.

    Attributes:
        allocation: The allocation that the engine has granted.
        place_by_s: When the scheduling timeout expires.
        register_by_s: The time when the allocation is released if workers are still missing.
        register_limit_s: How long the workers have in total, in seconds.
    """

    allocation: Allocation
    place_by_s: float
    register_by_s: float
    register_limit_s: float


@dataclass(frozen=True, slots=True)
class Held:
    """The gang has its allocation and its workers. Its attempts have been started."""

    allocation: Allocation


@dataclass(frozen=True, slots=True)
class Lost:
    """The gang was lost before its attempts started. The job knows of the loss, and has not released the gang yet.

    Attributes:
        allocation: The allocation that the engine may still hold for the gang; None if there is none.
    """

    allocation: Allocation | None


@dataclass(frozen=True, slots=True)
class Draining:
    """The job does not need the gang any more, and the gang's workers upload their last logs."""

    allocation: Allocation


@dataclass(frozen=True, slots=True)
class ReleaseDue:
    """The scheduler still has to ask the engine to release the gang.

    Attributes:
        allocation: The allocation that the engine may still hold for the gang; None if there is none.
    """

    allocation: Allocation | None


@dataclass(frozen=True, slots=True)
class Releasing:
    """The scheduler has asked the engine to release the gang, and snapshots of the engine may still contain the gang.

    Attributes:
        allocation: The allocation that the engine still holds for the gang; None if there is none.
    """

    allocation: Allocation | None


State = Paused | Queued | Requested | Granted | Held | Lost | Draining | ReleaseDue | Releasing


@dataclass(slots=True)
class GangRecord:
    """The scheduler's record of a gang.

    Attributes:
        request: The request to the engine, which contains the gang's id.
        job_id: The gang's job.
        task_indices: The task of each slot; empty if unknown.
        state: The gang's only state.
        may_split: True if the job could also run with independent tasks.
        gang_id: The gang's id, which is also the id of the request.
    """

    request: GangRequest
    job_id: str
    task_indices: tuple[int, ...]
    state: State
    may_split: bool = False
    gang_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.gang_id = self.request.gang_id

    @property
    def has_machines(self) -> bool:
        """True if the gang has an allocation, and the engine has named its machines."""
        allocation = allocation_of(self.state)
        return allocation is not None and bool(allocation.machines)


def allocation_of(state: State) -> Allocation | None:
    """Return the allocation that the engine may hold for a gang in this state; None if there is none."""
    match state:
        case Granted() | Held() | Lost() | Draining() | ReleaseDue() | Releasing():
            return state.allocation
        case _:
            return None


# Events.


@dataclass(frozen=True, slots=True)
class TimePassed:
    """It is `now_s`."""

    now_s: float


@dataclass(frozen=True, slots=True)
class PlacementExtended:
    """The gang has until `place_by_s` to get its allocation."""

    place_by_s: float


@dataclass(frozen=True, slots=True)
class Selected:
    """A scheduling pass has selected the gang for a request to the engine."""


@dataclass(frozen=True, slots=True)
class SubmitUnanswered:
    """The engine did not answer the request, so it is unknown whether the engine has received it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The gang can never be placed. `reason` is the explanation for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotSeen:
    """A snapshot of the engine, with the status of all its gangs, has arrived.

    Attributes:
        status: The gang's status in the snapshot; None if the engine does not know the gang.
        now_s: The time.
        missing: The workers of the gang's slots that are not available.
        refusal: Why one of the gang's workers was refused, as a text; empty if none was.
        register_limit_s: How long the gang's workers have to register, in seconds.
    """

    status: GangStatus | None
    now_s: float
    missing: tuple[MissingWorker, ...] = ()
    refusal: str = ""
    register_limit_s: float = math.inf


@dataclass(frozen=True, slots=True)
class BlockingChecked:
    """A scheduling pass has checked whether the gang's request blocks an older gang.

    Attributes:
        is_blocking: True if the request blocks the older gang.
        now_s: The time.
        limit_s: The request is withdrawn once all passes of so many seconds have found that the request blocks an older
            gang.
    """

    is_blocking: bool
    now_s: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    """The job has asked for the release of the gang. `drains` is True if workers that have run attempts have to drain
    first.
    """

    drains: bool


@dataclass(frozen=True, slots=True)
class Drained:
    """The workers of the gang have drained, or the time limit for draining is over."""


@dataclass(frozen=True, slots=True)
class Released:
    """The engine has accepted the release."""


Event = (
    TimePassed
    | PlacementExtended
    | Selected
    | SubmitUnanswered
    | Rejected
    | SnapshotSeen
    | BlockingChecked
    | ReleaseAsked
    | Drained
    | Released
)


# Instructions.


@dataclass(frozen=True, slots=True)
class Submit:
    """Request the allocation from the engine."""

    request: GangRequest


@dataclass(frozen=True, slots=True)
class Drain:
    """Let the workers of the gang drain, then deliver `Drained`."""


@dataclass(frozen=True, slots=True)
class ReportPlaced:
    """Report to the job that the gang has its allocation, and that all its workers are available."""

    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class RecordSlots:
    """Record on which machine, and with which GPUs, each task runs."""

    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class ReportLost:
    """Report to the job that the gang was lost before its attempts started. `loss` is None if the job's reason need not
    mention the loss.
    """

    loss: Loss | None


@dataclass(frozen=True, slots=True)
class ReportSlotsLost:
    """Report to the job that the attempts in these slots were lost."""

    positions: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ReportRejected:
    """Report to the job that the gang can never be placed."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReportTimeout:
    """The scheduling timeout has expired: end the job, or deliver `PlacementExtended`."""


@dataclass(frozen=True, slots=True)
class ExplainMissing:
    """Report to the job that the gang waits for these workers."""

    missing: tuple[MissingWorker, ...]


# The scheduler carries out `Submit` and `Drain`. All other instructions concern the job.
Instruction = (
    Submit
    | Drain
    | ReportPlaced
    | RecordSlots
    | ReportLost
    | ReportSlotsLost
    | ReportRejected
    | ReportTimeout
    | ExplainMissing
)
