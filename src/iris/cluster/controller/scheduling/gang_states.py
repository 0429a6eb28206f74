"""Defines the states of a gang, the events that change the states, and the instructions that result from events.

The module `gangs.py` defines to which state an event leads from each state, and has a diagram of the states. A gang is
always in exactly one state. All times are seconds of the monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from iris.cluster.controller.scheduling.queue import Allocation
from iris.cluster.controller.scheduling.waiting.reasons import Loss
from iris.cluster.controller.workers.unavailability import MissingWorker
from iris.cluster.engine.base import GangRequest, GangStatus, Slot

# States.


@dataclass(frozen=True, slots=True)
class Paused:
    """A state: the gang is paused, and joins the queue at `until_s`."""

    until_s: float
    place_by_s: float


@dataclass(frozen=True, slots=True)
class Queued:
    """A state: the gang is in the queue, and has waited since `since_s`."""

    since_s: float
    place_by_s: float


@dataclass(frozen=True, slots=True)
class Requested:
    """A state: the engine has been asked for the gang's allocation, and has not granted the allocation yet.

    Attributes:
        since_s: When the gang began to wait. The waiting time includes the time in the queue.
        place_by_s: When the scheduling timeout of the gang expires, on the monotonic clock.
        is_confirmed: False if the engine did not answer the request. The engine may or may not have received an
            unanswered request.
        engine_reason: The engine's reason why the gang waits; None until a snapshot contains the waiting gang.
        blocking_since_s: Since when all scheduling passes have found that the gang blocks an older gang with a
            reservation; None if the gang did not block an older gang in the last pass.
    """

    since_s: float
    place_by_s: float
    is_confirmed: bool = True
    engine_reason: str | None = None
    blocking_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """A state: the gang has its allocation, but some of its workers are missing.

    Attributes:
        allocation: The allocation that the engine has granted to the gang.
        place_by_s: When the scheduling timeout of the gang expires, on the monotonic clock.
        register_by_s: The deadline for workers to register. If workers are missing at this time, the allocation is
            released.
        register_limit_s: How long the workers have to register, in seconds, from the grant of the allocation.
    """

    allocation: Allocation
    place_by_s: float
    register_by_s: float
    register_limit_s: float


@dataclass(frozen=True, slots=True)
class Held:
    """A state: the gang has its allocation and its workers, and its attempts have been started."""

    allocation: Allocation


@dataclass(frozen=True, slots=True)
class Lost:
    """A state: the gang was lost before its attempts started. The loss was reported to the job, but the job has not
    released the gang yet.

    Attributes:
        allocation: The allocation that the engine may still hold for the gang; None if there is none.
    """

    allocation: Allocation | None


@dataclass(frozen=True, slots=True)
class Draining:
    """A state: the job does not need the gang any more, and the gang's workers are uploading their last logs."""

    allocation: Allocation


@dataclass(frozen=True, slots=True)
class ReleaseDue:
    """A state: the scheduler has to ask the engine to release the gang, and has not done so successfully yet.

    Attributes:
        allocation: The allocation that the engine may still hold for the gang; None if there is none.
    """

    allocation: Allocation | None


@dataclass(frozen=True, slots=True)
class Releasing:
    """A state: the scheduler has asked the engine to release the gang, and snapshots of the engine may still contain
    the gang.

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
        job_id: The id of the gang's job.
        task_indices: The index of the task in each slot; empty if unknown.
        state: The gang's current state.
        may_split: True if the job could run its tasks as independent tasks instead of a gang.
        tree_since_s: When the root job of the gang's tree was submitted; infinity if the gang's job has no unfinished
            parent.
        counts_a_core: True if the gang is one task that counts as one core because its job asks for no resources.
        gang_id: The gang's id, which is also the id of its request.
    """

    request: GangRequest
    job_id: str
    task_indices: tuple[int, ...]
    state: State
    may_split: bool = False
    tree_since_s: float = math.inf
    counts_a_core: bool = False
    gang_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.gang_id = self.request.gang_id

    @property
    def has_machines(self) -> bool:
        """True if the gang has an allocation, and the engine has named the machines of the allocation."""
        allocation = allocation_of(self.state)
        return allocation is not None and bool(allocation.machines)


def allocation_of(state: State) -> Allocation | None:
    """Return the allocation that the engine may hold for a gang in this state; None if the state has no allocation."""
    match state:
        case Granted() | Held() | Lost() | Draining() | ReleaseDue() | Releasing():
            return state.allocation
        case _:
            return None


# Events.


@dataclass(frozen=True, slots=True)
class TimePassed:
    """An event: the time is `now_s`, so pauses and timeouts up to this time are over."""

    now_s: float


@dataclass(frozen=True, slots=True)
class PlacementExtended:
    """An event: the gang's scheduling timeout was extended to `place_by_s`."""

    place_by_s: float


@dataclass(frozen=True, slots=True)
class Selected:
    """An event: a scheduling pass has selected the gang, so the scheduler requests the gang's allocation from the
    engine."""


@dataclass(frozen=True, slots=True)
class SubmitUnanswered:
    """An event: the engine did not answer the gang's request. The engine may or may not have received the request."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event: the gang can never be placed. `reason` is the error text for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotSeen:
    """An event: a snapshot of the engine has arrived, with the status of all gangs.

    Attributes:
        status: The gang's status in the snapshot; None if the engine does not know the gang.
        now_s: The present time on the monotonic clock, in seconds.
        missing: The workers that the gang needs and that are not available.
        refusal: If one of the gang's workers was refused, the reason as a text; otherwise empty.
        register_limit_s: How long the gang's workers have to register, in seconds.
    """

    status: GangStatus | None
    now_s: float
    missing: tuple[MissingWorker, ...] = ()
    refusal: str = ""
    register_limit_s: float = math.inf


@dataclass(frozen=True, slots=True)
class BlockingChecked:
    """An event: a scheduling pass has checked whether the gang's request blocks an older gang.

    Attributes:
        is_blocking: True if the request blocks the older gang.
        now_s: The present time on the monotonic clock, in seconds.
        limit_s: The number of seconds for which the request may block an older gang. After this time the request is
            withdrawn.
    """

    is_blocking: bool
    now_s: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    """An event: the job has asked for the release of the gang. If `drains` is True, workers that have run attempts have
    to drain before the release.
    """

    drains: bool


@dataclass(frozen=True, slots=True)
class Drained:
    """An event: the workers of the gang have drained, or the time limit for draining is over."""


@dataclass(frozen=True, slots=True)
class Released:
    """An event: the engine has accepted the release of the gang."""


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
    """An instruction: request the gang's allocation from the engine."""

    request: GangRequest


@dataclass(frozen=True, slots=True)
class Drain:
    """An instruction: let the workers of the gang drain, and deliver the event `Drained` afterwards."""


@dataclass(frozen=True, slots=True)
class ReportPlaced:
    """An instruction: report to the job that the gang has its allocation, and that all its workers are available."""

    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class RecordSlots:
    """An instruction: record the machine and the GPUs of each task."""

    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class ReportLost:
    """An instruction: report to the job that the gang was lost before its attempts started. `loss` is None if the
    reason why the job waits need not mention the loss.
    """

    loss: Loss | None


@dataclass(frozen=True, slots=True)
class ReportSlotsLost:
    """An instruction: report to the job that the attempts in some slots of the gang were lost."""

    positions: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ReportRejected:
    """An instruction: report to the job that the gang can never be placed."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReportTimeout:
    """An instruction: report to the job that the scheduling timeout of the gang has expired. Either the job ends, or a
    `PlacementExtended` event extends the timeout.
    """


@dataclass(frozen=True, slots=True)
class ExplainMissing:
    """An instruction: report to the job which missing workers the gang waits for."""

    missing: tuple[MissingWorker, ...]


# The scheduler carries out the instructions `Submit` and `Drain`. All other instructions are reports to the job.
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
