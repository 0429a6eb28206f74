"""Decides whether a job seems to hang, from what its running tasks do. This module is pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from iris.counts import counted
from iris.durations import words_of_seconds
from iris.reasons import HangCode


@dataclass(frozen=True, slots=True)
class Hang:
    """Why a job seems to hang.

    Attributes:
        code: The reason for the suspicion, as a code for programs.
        task_indices: The idle tasks, in ascending order.
        idle_ms: The shortest time for which one of these tasks has been idle, in milliseconds.
        num_running: The number of running tasks.
    """

    code: HangCode
    task_indices: tuple[int, ...]
    idle_ms: int
    num_running: int

    def text(self, job_id: str) -> str:
        """Return the text for people about the hang, with the command that shows the call stacks of the tasks."""
        idle = len(self.task_indices)
        if self.code == HangCode.ALL_TASKS_IDLE:
            who = "the task has" if idle == 1 else f"all {idle} running tasks have"
            rest = ""
        else:
            who = (
                f"task {self.task_indices[0]} has" if idle == 1 else f"{idle} of {self.num_running} running tasks have"
            )
            others = counted(self.num_running - idle, "other task")
            rest = f", while {others} {'continues' if self.num_running - idle == 1 else 'continue'}"
        since = words_of_seconds(self.idle_ms / 1000)
        return (
            f"seems to hang: {who} neither written output nor used the CPU for {since}{rest}:"
            f" 'iris stack {job_id}' shows where the tasks are"
        )


def find_hang(idle_ms: Mapping[int, int], limit_ms: int, *, is_complete: bool) -> Hang | None:
    """Return why a job seems to hang, or None if the job does not seem to hang.

    Args:
        idle_ms: For how long each running task has neither written output nor used the CPU, by task index.
        limit_ms: For how long a task must be idle before the job seems to hang; 0 means that the job is not watched.
        is_complete: Whether all tasks that depend on each other run. If one of these tasks does not run, the running
            tasks may wait for this task, which is starting or being retried. Such a job does not hang.
    """
    if not limit_ms or not is_complete:
        return None
    idle = tuple(sorted(index for index, idle in idle_ms.items() if idle >= limit_ms))
    if not idle:
        return None
    code = HangCode.ALL_TASKS_IDLE if len(idle) == len(idle_ms) else HangCode.SOME_TASKS_IDLE
    return Hang(code, idle, min(idle_ms[index] for index in idle), len(idle_ms))
