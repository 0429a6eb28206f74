"""Makes the `repr` and `str` of handles. These texts need no call, because they contain the last state that the handle
has received."""

from __future__ import annotations

from dataclasses import dataclass

from iris.client.views.job_tables import job_summary, time_taken
from iris.cluster.types import JobState, TaskState, state_name
from iris.rpc import cluster_pb2


@dataclass(frozen=True, slots=True)
class Seen:
    """The last state of a job or task that a handle has received.

    Attributes:
        state: The state of the job or task.
        summary: The state of the job or task in one sentence.
    """

    state: JobState | TaskState
    summary: str

    @classmethod
    def of_job(cls, status: cluster_pb2.JobStatus) -> Seen:
        """Return the last state of a job from its status."""
        return cls(JobState(status.state), job_summary(status))

    @classmethod
    def of_task(cls, status: cluster_pb2.TaskStatus) -> Seen:
        """Return the last state of a task from its status."""
        parts = [state_name(status.state)]
        why = status.status_message or status.error
        if status.HasField("exit_code") and "exit code" not in why:
            parts.append(f"exit code {status.exit_code}")
        if taken := time_taken(status.started_at_ms, status.finished_at_ms):
            parts.append(taken)
        return cls(TaskState(status.state), f"task {status.task_id}: {', '.join(parts)}" + (f": {why}" if why else ""))


def handle_repr(kind: str, name: str, seen: Seen | None) -> str:
    """Return the `repr` of a handle, for example `Job('train', SUCCEEDED)`."""
    if seen is None:
        return f"{kind}({name!r})"
    return f"{kind}({name!r}, {'' if seen.state.is_final else 'last seen '}{seen.state})"


def handle_str(what: str, seen: Seen | None) -> str:
    """Return the `str` of a handle, for example `job train: SUCCEEDED, 4/4 succeeded, in 12s`."""
    if seen is None:
        return what
    return seen.summary if seen.state.is_final else f"{seen.summary} (when last asked)"
