"""Defines the instructions that a job returns for an event. The controller carries out the instructions once the job is
saved.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestAllocation:
    """Request an allocation for a gang.

    Attributes:
        gang_id: The gang's id, which no other gang has ever had.
        task_indices: The indices of the gang's tasks.
        not_before_ms: When the gang joins the queue, as wall clock time. The gang's waiting time begins then.
    """

    gang_id: str
    task_indices: tuple[int, ...]
    not_before_ms: int


@dataclass(frozen=True, slots=True)
class ReleaseAllocation:
    """Release the gang's allocation, or remove the gang from the queue."""

    gang_id: str


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Call the worker of a task to run an attempt."""

    task_index: int
    attempt_id: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """Call the worker of an attempt to stop the attempt. The end of the attempt arrives later, as an event."""

    task_index: int
    attempt_id: int
    worker_id: str


Instruction = RequestAllocation | StartAttempt | StopAttempt | ReleaseAllocation
