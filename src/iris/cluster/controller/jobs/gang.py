"""The job's record of a gang, which is one placement of some tasks of a job. Pure.

The scheduler's record of a gang is in scheduling/gang_states.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iris.cluster.controller.jobs.task import PENDING, Stop, Task
from iris.cluster.controller.scheduling.reasons import PendingReason


@dataclass(slots=True)
class Gang:
    """One placement of some tasks of the job.

    Attributes:
        gang_id: The gang's id, unique among all gangs of all jobs.
        task_indices: The tasks of the gang.
        culprit: The index of the task whose failure caused this retry; an arbitrary task if the gang is not a retry.
        placed: True once the gang has its allocation and its attempts have been started.
        restarting: True once a task of the gang has to be retried, so that the attempts of its peers are stopped.
        reason: Why the gang waits; None if that is not known yet.
    """

    gang_id: str
    task_indices: tuple[int, ...]
    culprit: int
    placed: bool = False
    restarting: bool = False
    reason: PendingReason | None = None


def make_gang_id(job_id: str, number: int) -> str:
    """Return the id of a job's gang. The number counts the gangs that the job has had before."""
    return f"{job_id}@{number}"


def job_id_of_gang(gang_id: str) -> str:
    """Return the id of the job that has made a gang id."""
    return gang_id.rpartition("@")[0]


def culprit_of(tasks: Sequence[Task]) -> int:
    """Return the index of the task whose failure caused a retry of these tasks; an arbitrary task of them if no task
    has failed.
    """
    # Only the failed task has an error, because its peers were only stopped.
    return next((task for task in tasks if task.error), tasks[0]).task_index


def derive_gangs(tasks: Sequence[Task]) -> dict[str, Gang]:
    """Return the unfinished gangs of a job by id, as the states of its tasks show them. Their reasons are unknown."""
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
