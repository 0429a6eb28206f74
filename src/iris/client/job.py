"""Handles on a job and its tasks, and a line of a log as a user holds it."""

from __future__ import annotations

import heapq
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iris.cluster.types import is_task_finished, make_task_id, state_name
from iris.errors import InvalidArgumentError, IrisError, JobFailedError, ResultError
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from iris.client.client import IrisClient

_SHOWN_LINES = 10


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A line of a task's log.

    Attributes:
        source: `stdout`, `stderr` or `build`.
        message: The line without its newline; what is no UTF-8 in it is replaced by U+FFFD.
        timestamp_ms: When its end was captured, milliseconds since the Unix epoch.
        data: The exact bytes.
        task_index: The task that wrote it.
        attempt_id: The attempt of the task.
    """

    source: str
    message: str
    timestamp_ms: int
    data: bytes
    task_index: int = 0
    attempt_id: int = 0


def join_pieces(
    entries: Iterable[cluster_pb2.Worker.LogEntry], pending: dict[str, bytes]
) -> Iterator[tuple[cluster_pb2.Worker.LogEntry, bytes]]:
    """Lines from what the wire brings: long ones come in pieces, which are put together again.

    Args:
        entries: A page, in order.
        pending: By source, the pieces so far; kept by the caller from page to page. What is left in it at the end of
            the log is the last line of each source, which has no newline.

    Yields:
        The entry that ends a line, and all bytes of the line.
    """
    for entry in entries:
        data = entry.raw or entry.data.encode()
        if entry.source in pending:
            data = pending.pop(entry.source) + data
        if entry.partial:
            pending[entry.source] = data
        else:
            yield entry, data


def to_log_entries(
    entries: Iterable[cluster_pb2.Worker.LogEntry],
    pending: dict[str, bytes],
    task_index: int,
    attempt_id: int,
    *,
    complete: bool,
) -> list[LogEntry]:
    """A page of the wire as a user holds it; `complete`: the log ends here. See `join_pieces` for `pending`."""
    lines = [
        LogEntry(entry.source, data.decode(errors="replace"), entry.timestamp_ms, data, task_index, attempt_id)
        for entry, data in join_pieces(entries, pending)
    ]
    if complete:
        last_ms = {entry.source: entry.timestamp_ms for entry in entries}
        for source, data in pending.items():
            text = data.decode(errors="replace")
            lines.append(LogEntry(source, text, last_ms.get(source, 0), data, task_index, attempt_id))
        pending.clear()
    return lines


class Task:
    """A handle on one task of a job."""

    def __init__(self, client: IrisClient, job_id: str, task_index: int) -> None:
        self._client = client
        self.job_id = job_id
        self.task_index = task_index

    @property
    def task_id(self) -> str:
        """`"{job_id}/task-{index}"`."""
        return make_task_id(self.job_id, self.task_index)

    def __repr__(self) -> str:
        return f"Task({self.task_id!r})"

    def status(self) -> cluster_pb2.TaskStatus:
        """Its state now, with all attempts."""
        return self._client.task_status(self.job_id, self.task_index)

    def logs(self, start_ms: int = 0, max_lines: int = 0, *, attempt_id: int | None = None) -> list[LogEntry]:
        """Its lines until now; see `IrisClient.fetch_task_logs`."""
        return self._client.fetch_task_logs(self.job_id, self.task_index, start_ms, max_lines, attempt_id=attempt_id)

    def result(self) -> Any:
        """What its callable returned.

        Raises:
            ResultError: It has not returned, or what it returned cannot be sent; the text says why.
        """
        status = self._client.cluster.get_task_status(self.job_id, self.task_index, include_result=True)
        return _unpickle_result(status)


class Job:
    """A handle on a job. It holds no state: each call asks the controller."""

    def __init__(self, client: IrisClient, job_id: str) -> None:
        self._client = client
        self.job_id = job_id

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
        status = self._client.wait(self.job_id, timeout, poll_interval, stream_logs, stream_task_index)
        if raise_on_failure and status.state != cluster_pb2.JOB_STATE_SUCCEEDED:
            raise self._failure(status)
        return status

    def logs(self, start_ms: int = 0, max_lines: int = 0) -> list[LogEntry]:
        """The lines of all its tasks until now, by time; those of one task in the order in which it wrote them.

        Args:
            start_ms: Only lines that were completed after this moment, exclusive; 0 for all.
            max_lines: The first N of all; 0 for all.
        """
        logs = [task.logs(start_ms, max_lines) for task in self.tasks()]
        merged = list(heapq.merge(*logs, key=lambda entry: entry.timestamp_ms))
        return merged[:max_lines] if max_lines else merged

    def terminate(self) -> None:
        """Asks it to end; answers at once. `wait` tells when it has."""
        self._client.terminate(self.job_id)

    def results(self, timeout: float | None = None) -> list[Any]:
        """Waits for the end, and answers with what the callable returned in each task, in index order.

        Raises:
            JobFailedError: The job did not succeed.
            ResultError: A task has no result: it failed (within `max_task_failures`), or what it returned is too
                large or cannot be pickled. The text says which and why.
            TimeoutError: The job has not ended within `timeout` seconds.
        """
        status = self.wait(timeout)
        return [Task(self._client, self.job_id, index).result() for index in range(status.num_tasks)]

    def _failure(self, status: cluster_pb2.JobStatus) -> JobFailedError:
        text = f"job {self.job_id!r} ended as {state_name(status.state)}: {status.error or 'no reason was given'}"
        if not status.HasField("first_failed_task_index"):
            return JobFailedError(text, job_id=self.job_id, status=status)
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
            f" or: iris logs {self.job_id} --task {index}"
        )
        return JobFailedError(
            text,
            job_id=self.job_id,
            status=status,
            task_index=index,
            exit_code=exit_code,
            signal=task.term_signal if task.HasField("term_signal") else None,
            last_lines=lines,
        )

    def _last_lines(self, task_index: int) -> tuple[str, ...]:
        try:
            return tuple(entry.message for entry in self._client.last_lines(self.job_id, task_index, _SHOWN_LINES))
        except IrisError:
            return ()  # the log is out of reach; the failure that is being told of matters more


def _unpickle_result(task: cluster_pb2.TaskStatus) -> Any:
    def error(why: str) -> ResultError:
        return ResultError(f"task {task.task_id!r} has no result: {why}", task_id=task.task_id)

    if not is_task_finished(task.state):
        raise error(f"it is {state_name(task.state)}")
    if task.state != cluster_pb2.TASK_STATE_SUCCEEDED:
        raise error(f"it ended as {state_name(task.state)}: {task.error}")
    if not task.HasField("serialized_result") or not task.serialized_result:
        raise error(task.result_error or "it returned none")
    try:
        return pickle.loads(task.serialized_result)
    except Exception as cause:  # whatever it is: unpickling runs the code of what was returned
        raise error(f"what it returned cannot be unpickled here: {type(cause).__name__}: {cause}") from cause


def check_index(task_index: int) -> None:
    """Refuses an index that no task can have.

    Raises:
        InvalidArgumentError: (a `ValueError`) It is no whole number, or negative.
    """
    if isinstance(task_index, bool) or not isinstance(task_index, int) or not 0 <= task_index < 2**31:
        raise InvalidArgumentError(f"task_index={task_index!r}: expected a whole number from 0")
