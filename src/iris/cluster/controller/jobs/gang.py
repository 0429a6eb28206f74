"""Defines `Gang`, the job's own record of a gang. The module is pure. The scheduler's record of a gang is in
scheduling/gang_states.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iris.cluster.controller.jobs.task import PENDING, Stop, Task
from iris.cluster.controller.scheduling.waiting.reasons import PendingReason


@dataclass(slots=True)
class Gang:
    """The job's own record of a gang: the tasks that are placed together, and why they wait. A retry makes a new gang
    of the same tasks.

    Attributes:
        gang_id: The gang's id, unique among all gangs of all jobs.
        task_indices: The indices of the gang's tasks.
        culprit: The index of the task whose failure caused the retry, if the gang is a retry. Otherwise the index of an
            arbitrary task of the gang.
        placed: True once the gang has its allocation and its attempts have been started.
        restarting: True once a task of the gang has to be retried. The attempts of the gang's other tasks are then
            stopped.
        reason: Why the gang waits. None while the reason is unknown.
    """

    gang_id: str
    task_indices: tuple[int, ...]
    culprit: int
    placed: bool = False
    restarting: bool = False
    reason: PendingReason | None = None


def make_gang_id(job_id: str, number: int) -> str:
    """Return the id of a job's gang. The argument `number` is the number of earlier gangs of the job."""
    return f"{job_id}@{number}"


def job_id_of_gang(gang_id: str) -> str:
    """Return the id of the job to which a gang id belongs."""
    return gang_id.rpartition("@")[0]


def culprit_of(tasks: Sequence[Task]) -> int:
    """Return the index of the task whose failure caused a retry of the given tasks. If no task has failed, return the
    index of an arbitrary task.
    """
    # Only the failed task has an error, because the other tasks of its gang were only stopped.
    return next((task for task in tasks if task.error), tasks[0]).task_index


def derive_gangs(tasks: Sequence[Task]) -> dict[str, Gang]:
    """Return the unfinished gangs of a job, by gang id. The gangs are derived from the states of the tasks, so the
    reasons why gangs wait are unknown.
    """
    members: dict[str, list[Task]] = {}
    for task in tasks:
        members.setdefault(task.gang_id, []).append(task)
    gangs: dict[str, Gang] = {}
    for gang_id, group in members.items():
        if gang_id and any(not task.is_finished for task in group):
            placed = any(task.live_attempt is not None for task in group)
            restarting = placed and any(task.state == PENDING or task.stop is Stop.RESTART for task in group)
            indices = tuple(task.task_index for task in group)
            gangs[gang_id] = Gang(gang_id, indices, culprit_of(group), placed, restarting)
    return gangs
