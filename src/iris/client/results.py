"""Makes the results and errors of jobs and tasks from their final statuses."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from iris.client.task_exceptions import load_exception
from iris.cluster.pickles.loading import load_here
from iris.cluster.types import is_task_finished, state_name
from iris.errors import JobFailedError, ResultError, visible
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.versions import python_version

SHOWN_LINES = 10  # A JobFailedError shows this many lines from the end of the failed task's log.

# A function that converts the bytes sent by a task into an object.
Loads = Callable[[bytes], Any]


def result_bytes(task: cluster_pb2.TaskStatus, loads: Loads | None = None) -> bytes:
    """Return the pickle of the value that a task's callable returned.

    Args:
        task: The status of the task, with its result.
        loads: A function that loads the exception of a failed task. If None, the exception is not loaded.

    Raises:
        ResultError: The task has not succeeded, or the value could not be sent.
    """
    if not is_task_finished(task.state):
        raise _no_result(task, f"the task has not ended, its state is {state_name(task.state)}")
    if task.state != cluster_pb2.TASK_STATE_SUCCEEDED:
        raise _no_result(task, f"the task ended as {state_name(task.state)}: {task.error}") from load_exception(
            task, loads
        )
    if not task.HasField("serialized_result") or not task.serialized_result:
        raise _no_result(task, task.result_error or "the task has sent none")
    return task.serialized_result


def load_result(task: cluster_pb2.TaskStatus, loads: Loads) -> Any:
    """Return the value that a task's callable returned. `Task.result` documents the arguments and errors."""
    data = result_bytes(task, loads)
    try:
        return loads(data)
    except Exception as cause:  # Unpickling runs the user's code, which can raise any exception.
        if loads is not load_here:
            name = getattr(loads, "__qualname__", repr(loads))
            raise _no_result(
                task, f"the function loads={name} cannot load the returned value: {type(cause).__name__}: {cause}"
            ) from cause
        raise _no_result(
            task,
            f"the returned value cannot be unpickled on Python {python_version()}: {type(cause).__name__}: {cause}"
            " (check that Python and the packages of the value have the same versions here as on the worker)",
        ) from cause


def load_outcome(task: cluster_pb2.TaskStatus, loads: Loads) -> Any:
    """Return the value that a task's callable returned. If the task has no value, return the exception that the
    callable raised, or the `ResultError` that explains why the task has no value.
    """
    try:
        return load_result(task, loads)
    except ResultError as error:
        return load_exception(task, loads) or error


class Outcomes:
    """The ended tasks of a job, as `stream_results` yields them.

    Attributes:
        job: The last status of the job, without its tasks.
        tasks: The tasks that have ended, with their results, by task index.
    """

    def __init__(self) -> None:
        self.job = cluster_pb2.JobStatus()
        self.tasks: dict[int, cluster_pb2.TaskStatus] = {}

    def add(self, status: cluster_pb2.TaskStatus | cluster_pb2.JobStatus) -> None:
        """Store an item of the stream."""
        if isinstance(status, cluster_pb2.JobStatus):
            self.job = status
        else:
            self.tasks[status.task_index] = status

    def load(self, loads: Loads, *, return_exceptions: bool) -> list[Any]:
        """Return the values that the callable has returned in the tasks, in index order. `Job.results` documents the
        arguments and errors."""
        load = load_outcome if return_exceptions else load_result
        return [load(self.tasks[index], loads) for index in range(self.job.num_tasks)]

    def exception_of(self, task_index: int | None, loads: Loads) -> BaseException | None:
        """Return the exception that the callable raised in the task `task_index`. Return None if the callable raised no
        exception, or if `task_index` is None.
        """
        return None if task_index is None else load_exception(self.tasks[task_index], loads)

    def failed_status(self) -> cluster_pb2.JobStatus | None:
        """Return the status of a job that has not succeeded, with all its tasks. Return None if the job has
        succeeded."""
        if self.job.state == cluster_pb2.JOB_STATE_SUCCEEDED:
            return None
        status = cluster_pb2.JobStatus()
        status.CopyFrom(self.job)
        for index in range(self.job.num_tasks):
            task = status.tasks.add()
            task.CopyFrom(self.tasks[index])
            task.ClearField("serialized_result")
            task.ClearField("exception")
        return status


def _no_result(task: cluster_pb2.TaskStatus, why: str) -> ResultError:
    reason = ErrorReason.RESULT_DROPPED if task.result_dropped else None
    return ResultError(visible(f"task {task.task_id!r} has no result: {why}"), task_id=task.task_id, reason=reason)


def first_failed_task(status: cluster_pb2.JobStatus) -> int | None:
    """Return the index of the task that failed first. Return None if no task failed, for example in a terminated
    job.
    """
    return status.first_failed_task_index if status.HasField("first_failed_task_index") else None


def job_failure(
    job_id: str, status: cluster_pb2.JobStatus, task: cluster_pb2.TaskStatus | None, lines: Sequence[str]
) -> JobFailedError:
    """Return the error for a job that has not succeeded.

    Args:
        job_id: The id of the job.
        status: The final status of the job.
        task: The task that failed first, or None if no task failed.
        lines: The last log lines of the failed task.
    """
    text = f"job {job_id!r} ended as {state_name(status.state)}: {status.error or 'no reason was given'}"
    if task is None:
        return JobFailedError(visible(text), job_id=job_id, status=status)
    index = status.first_failed_task_index
    exit_code = task.exit_code if task.HasField("exit_code") else None
    reason = status.error or "it failed"
    if exit_code is not None and "exit code" not in reason:
        reason += f" (exit code {exit_code})"
    shown = "".join(f"\n  | {line}" for line in lines)
    text = (
        f"job {job_id!r} ended as {state_name(status.state)}: task {index}: {reason}{shown}\n"
        f"All it wrote: client.fetch_task_logs({job_id!r}, {index}),"
        f" or: iris logs {shlex.quote(job_id)} --task {index}"
    )
    return JobFailedError(
        # An error text of a task may contain control sequences, which must not reach a terminal.
        visible(text),
        job_id=job_id,
        status=status,
        task_index=index,
        exit_code=exit_code,
        signal=task.term_signal if task.HasField("term_signal") else None,
        last_lines=tuple(lines),
    )


def last_line_arguments() -> dict[str, Any]:
    """Return the arguments with which `stream_task_logs` reads the last lines of a failed task."""
    return {"follow": False, "tail": SHOWN_LINES, "patience_s": 0, "on_notice": lambda _: None}
