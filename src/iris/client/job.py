"""Handles on a job and its tasks, and a line of a log as a user holds it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from iris.arguments import JobReference, TaskReference, check_callable, check_flag, check_job_id, check_task_index
from iris.client.logs.log_entry import LogEntry as LogEntry
from iris.client.task_exceptions import load_exception
from iris.cluster.pickles.loading import load_here
from iris.cluster.types import is_task_finished, state_name
from iris.errors import IrisError, JobFailedError, ResultError, visible
from iris.rpc import cluster_pb2
from iris.versions import python_version

if TYPE_CHECKING:
    from iris.client.client import IrisClient
    from iris.client.logs.log_options import Route
    from iris.client.logs.streams import LogStream

_SHOWN_LINES = 10

# Makes a value of the bytes in which a task has sent it.
Loads = Callable[[bytes], Any]


class LogOptions(TypedDict, total=False):
    """The arguments that `Task.logs` and `Job.logs` hand on; see `IrisClient.stream_task_logs`."""

    cursor: str | None
    attempt_id: int | None
    end_ms: int
    tail: int | None
    sources: Sequence[str]
    regex: str
    route: Route
    patience_s: float
    on_notice: Callable[[str], None] | None
    partial: bool


class Task(TaskReference):
    """A handle on one task of a job; accepted wherever a task id is."""

    def __init__(self, client: IrisClient, job_id: str | Job, task_index: int) -> None:
        self._client = client
        self.job_id = check_job_id(job_id)
        self.task_index = check_task_index(task_index)

    def __repr__(self) -> str:
        return f"Task({self.task_id!r})"

    def status(self) -> cluster_pb2.TaskStatus:
        """Its state now, with all attempts."""
        return self._client.task_status(self.job_id, self.task_index)

    def logs(
        self, start_ms: int = 0, max_lines: int = 0, *, follow: bool = False, **wanted: Unpack[LogOptions]
    ) -> LogStream:
        """Its lines, through all its attempts, as an iterator: until now, or with `follow` until it has ended. See
        `IrisClient.stream_task_logs` for the other arguments."""
        return self._client.stream_task_logs(
            self.job_id, self.task_index, follow=follow, start_ms=start_ms, max_lines=max_lines, **wanted
        )

    def terminate(self) -> None:
        """Asks it to end, for good; answers at once. See `IrisClient.terminate` for what becomes of the others."""
        self._client.terminate(self.job_id, self.task_index)

    def result(self, *, loads: Loads = load_here) -> Any:
        """Return what its callable returned.

        Args:
            loads: Makes a value of the bytes that the task sent. The default unpickles them, which runs whatever code
                the job's owner put there, in this program. For jobs of people whom you do not trust pass a function of
                your own, or use `result_bytes`.

        Raises:
            ResultError: The task has not returned, what it returned cannot be sent, or `loads` failed; the text says
                why. Where the callable raised an exception, `__cause__` is what `exception` returns.
        """
        check_callable("loads", loads)
        return _load_result(self._with_result(), loads)

    def result_bytes(self) -> bytes:
        """Return what its callable returned as the bytes that the task sent, a pickle; none of it is run.

        Raises:
            ResultError: The task has not returned, or what it returned cannot be sent; the text says why.
        """
        return _result_bytes(self._with_result())

    def exception(self, *, loads: Loads = load_here) -> BaseException | None:
        """Return what its callable raised in its newest attempt; None when it raised nothing.

        The exception has its traceback in the task as text in its `__cause__`, a `RemoteTraceback`. Where the exception
        cannot be pickled there, or cannot be loaded here, the `RemoteTraceback` itself is returned.

        Args:
            loads: As in `result`.
        """
        check_callable("loads", loads)
        return load_exception(self._with_result(), loads)

    def _with_result(self) -> cluster_pb2.TaskStatus:
        return self._client.cluster.get_task_status(self.job_id, self.task_index, include_result=True)


class Job(JobReference):
    """A handle on a job; accepted wherever a job id is. It holds no state: each call asks the controller."""

    def __init__(self, client: IrisClient, job_id: str | Job) -> None:
        self._client = client
        self.job_id = check_job_id(job_id)

    def __repr__(self) -> str:
        return f"Job({self.job_id!r})"

    def status(self) -> cluster_pb2.JobStatus:
        """Its state now, with all tasks."""
        return self._client.status(self.job_id)

    def tasks(self) -> list[Task]:
        """Handles on its tasks, in index order."""
        return [Task(self._client, self.job_id, index) for index in range(self.status().num_tasks)]

    def wait(
        self,
        timeout: float | None = None,
        poll_interval: float = 1.0,
        stream_logs: bool = False,
        stream_task_index: int | None = None,
        *,
        raise_on_failure: bool = True,
    ) -> cluster_pb2.JobStatus:
        """Waits for the end, as `IrisClient.wait` does, and answers with the final status.

        Raises:
            JobFailedError: It did not succeed; not with `raise_on_failure=False`.
            TimeoutError: It has not ended within `timeout` seconds.
        """
        check_flag("raise_on_failure", raise_on_failure)
        status = self._client.wait(self.job_id, timeout, poll_interval, stream_logs, stream_task_index)
        if raise_on_failure and status.state != cluster_pb2.JOB_STATE_SUCCEEDED:
            raise self._failure(status)
        return status

    def logs(
        self, start_ms: int = 0, max_lines: int = 0, *, follow: bool = False, **wanted: Unpack[LogOptions]
    ) -> LogStream:
        """The lines of all its tasks as one iterator: until now, by time, or with `follow` until it has ended; those of
        one task are in the order in which it wrote them. See `IrisClient.stream_job_logs` for the other arguments."""
        return self._client.stream_job_logs(
            self.job_id, follow=follow, start_ms=start_ms, max_lines=max_lines, **wanted
        )

    def terminate(self) -> None:
        """Asks it to end; answers at once. `wait` tells when it has."""
        self._client.terminate(self.job_id)

    def results(self, timeout: float | None = None, *, loads: Loads = load_here) -> list[Any]:
        """Wait for the end, and return what the callable returned in each task, in index order.

        Args:
            timeout: Seconds to wait for the end; None waits for as long as it takes.
            loads: Makes a value of the bytes that each task sent. The default unpickles them, which runs whatever code
                the job's owner put there, in this program. For jobs of people whom you do not trust pass a function of
                your own; `loads=bytes` returns the bytes as they are.

        Raises:
            JobFailedError: The job did not succeed. Where the first task that failed raised an exception, `__cause__`
                is what `Task.exception` returns.
            ResultError: A task has no result: it failed (within `max_task_failures`), or what it returned is too
                large or cannot be pickled, or `loads` failed. The text says which and why.
            TimeoutError: The job has not ended within `timeout` seconds.
        """
        check_callable("loads", loads)
        try:
            status = self.wait(timeout)
        except JobFailedError as failed:
            raise failed from self._exception_of(failed.task_index, loads)
        return [Task(self._client, self.job_id, index).result(loads=loads) for index in range(status.num_tasks)]

    def _exception_of(self, task_index: int | None, loads: Loads) -> BaseException | None:
        if task_index is None:
            return None
        try:
            return Task(self._client, self.job_id, task_index).exception(loads=loads)
        except IrisError:
            return None  # the controller is out of reach; the failure that is being told of matters more

    def _failure(self, status: cluster_pb2.JobStatus) -> JobFailedError:
        text = f"job {self.job_id!r} ended as {state_name(status.state)}: {status.error or 'no reason was given'}"
        if not status.HasField("first_failed_task_index"):
            return JobFailedError(visible(text), job_id=self.job_id, status=status)
        index = status.first_failed_task_index
        task = status.tasks[index] if index < len(status.tasks) else self._client.task_status(self.job_id, index)
        exit_code = task.exit_code if task.HasField("exit_code") else None
        lines = self._last_lines(index)
        what = status.error or "it failed"
        if exit_code is not None and "exit code" not in what:
            what += f" (exit code {exit_code})"
        shown = "".join(f"\n  | {line}" for line in lines)
        text = (
            f"job {self.job_id!r} ended as {state_name(status.state)}: task {index}: {what}{shown}\n"
            f"All it wrote: client.fetch_task_logs({self.job_id!r}, {index}),"
            f" or: iris logs {shlex.quote(self.job_id)} --task {index}"
        )
        return JobFailedError(
            visible(text),  # a traceback shows it on a terminal, which nothing that a task wrote is to steer
            job_id=self.job_id,
            status=status,
            task_index=index,
            exit_code=exit_code,
            signal=task.term_signal if task.HasField("term_signal") else None,
            last_lines=lines,
        )

    def _last_lines(self, task_index: int) -> tuple[str, ...]:
        try:
            with self._client.stream_task_logs(
                self.job_id, task_index, follow=False, tail=_SHOWN_LINES, patience_s=0, on_notice=lambda _: None
            ) as last:
                return tuple(entry.message for entry in last)
        except IrisError:
            return ()  # the log is out of reach; the failure that is being told of matters more


def _result_bytes(task: cluster_pb2.TaskStatus, loads: Loads | None = None) -> bytes:
    if not is_task_finished(task.state):
        raise _no_result(task, f"it is {state_name(task.state)}")
    if task.state != cluster_pb2.TASK_STATE_SUCCEEDED:
        raise _no_result(task, f"it ended as {state_name(task.state)}: {task.error}") from load_exception(task, loads)
    if not task.HasField("serialized_result") or not task.serialized_result:
        raise _no_result(task, task.result_error or "it returned none")
    return task.serialized_result


def _load_result(task: cluster_pb2.TaskStatus, loads: Loads) -> Any:
    data = _result_bytes(task, loads)
    try:
        return loads(data)
    except Exception as cause:  # whatever it is: unpickling runs the code of what was returned
        if loads is not load_here:
            name = getattr(loads, "__qualname__", repr(loads))
            raise _no_result(task, f"{name} cannot load it: {type(cause).__name__}: {cause}") from cause
        raise _no_result(
            task,
            f"what it returned cannot be unpickled here, on Python {python_version()}: {type(cause).__name__}: {cause}"
            " (is what it is made of installed here in the worker's versions, its Python included?)",
        ) from cause


def _no_result(task: cluster_pb2.TaskStatus, why: str) -> ResultError:
    return ResultError(visible(f"task {task.task_id!r} has no result: {why}"), task_id=task.task_id)
