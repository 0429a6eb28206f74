"""Handles on a job and its tasks, and a line of a log as a user holds it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from iris.arguments import JobReference, TaskReference, check_callable, check_flag, check_job_id, check_task_index
from iris.client.task_exceptions import load_exception
from iris.cluster.logs.cursor import Position, encode_cursor, encode_positions
from iris.cluster.logs.records import SOURCES, Offsets, Source
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


class Block:
    """What the lines of one record share; see `LogEntry`.

    Args:
        job_id: The job.
        task_index: The task.
        attempt_id: The attempt.
        source_id: The source, by its position in `SOURCES`.
        timestamp_ms: When their ends were captured.
        delivered: How much of each source had been given out before.
        partial: No newline ends them.
        missing: How many bytes are missing, and why, where it is a notice of that.

    Attributes:
        ended: The attempt has ended, so nothing continues an unfinished line.
    """

    __slots__ = (
        "attempt_id",
        "delivered",
        "ended",
        "job_id",
        "missing",
        "others",
        "others_encoded",
        "partial",
        "source_id",
        "task_index",
        "timestamp_ms",
    )

    def __init__(
        self,
        job_id: str,
        task_index: int,
        attempt_id: int,
        source_id: int,
        timestamp_ms: int,
        delivered: Offsets,
        *,
        partial: bool = False,
        missing: tuple[int, str] = (0, ""),
    ) -> None:
        self.job_id = job_id
        self.task_index = task_index
        self.attempt_id = attempt_id
        self.source_id = source_id
        self.timestamp_ms = timestamp_ms
        self.delivered = delivered
        self.partial = partial
        self.missing = missing
        self.ended = False
        self.others: Callable[[], Mapping[int, Position]] = dict  # where the other tasks are, in a stream of several
        self.others_encoded: bytes | None = None  # the same in a cursor, made when the first is asked for

    def __getstate__(self) -> tuple[None, dict[str, object]]:
        state = {name: getattr(self, name) for name in self.__slots__}
        return None, state | {"others": dict(self.others()).copy}


class LogEntry:
    """A line of a task's log.

    Attributes:
        data: Its exact bytes, without the newline.

    All else is found out when it is asked for: reading a log makes millions of these.
    """

    __slots__ = ("_block", "_end", "data")

    def __init__(self, data: bytes, end: int, block: Block) -> None:
        self.data = data
        self._end = end  # in its source, newline included
        self._block = block

    @property
    def source(self) -> Source:
        """`stdout`, `stderr` or `build`."""
        return SOURCES[self._block.source_id]

    @property
    def message(self) -> str:
        """The line as text; what is no UTF-8 in it is replaced by U+FFFD."""
        if self._block.missing[0]:
            count, why = self._block.missing
            return f"[iris: {count:,} bytes of {self.source} are missing here: {why}]"
        return self.data.decode(errors="replace")

    @property
    def timestamp_ms(self) -> int:
        """When its end was captured, milliseconds since the Unix epoch."""
        return self._block.timestamp_ms

    @property
    def task_index(self) -> int:
        """The task that wrote it."""
        return self._block.task_index

    @property
    def attempt_id(self) -> int:
        """The attempt of the task."""
        return self._block.attempt_id

    @property
    def partial(self) -> bool:
        """No newline ends it: the log of the attempt ends here, or bytes are missing after it, or the next entry of its
        source continues the line. The last happens only in a line of over 64 MiB, after `LogStream.flush`, and where
        pieces were asked for with `partial=True`."""
        return self._block.partial

    @property
    def missing_bytes(self) -> int:
        """0 for a line. Else this is no line but says that so many bytes are missing here; `message` says why."""
        return self._block.missing[0]

    @property
    def cursor(self) -> str:
        """The place right after it: a short text with which any reader goes on from there, also tomorrow."""
        block = self._block
        if block.others_encoded is None:
            block.others_encoded = encode_positions(block.others())
        return encode_cursor(block.job_id, {block.task_index: self.position()}, block.others_encoded)

    def position(self, *, before: bool = False) -> Position:
        """The place right after it, or before it, in the log of its task."""
        block = self._block
        length = block.missing[0] or len(self.data) + (not block.partial)
        end = self._end - (length if before else 0)
        out, err, build = (end if i == block.source_id else count for i, count in enumerate(block.delivered))
        return Position(block.attempt_id, (out, err, build))

    @property
    def record(self) -> Block:
        """What it shares with the lines that came with it."""
        return self._block

    def in_stream_of(self, others: Callable[[], Mapping[int, Position]]) -> None:
        """For the cursors of the lines that came with it: where the other tasks of the stream are."""
        self._block.others = others
        self._block.others_encoded = None

    def continuing(self, pieces: Sequence[LogEntry]) -> LogEntry:
        """The line that this is the last piece of; `pieces` are those before it."""
        return LogEntry(b"".join([*(piece.data for piece in pieces), self.data]), self._end, self._block)

    def _key(self) -> tuple[object, ...]:
        block = self._block
        return (block.job_id, block.task_index, block.attempt_id, block.source_id, self._end, self.data, block.partial)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogEntry) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return (
            f"LogEntry(task_index={self.task_index}, attempt_id={self.attempt_id}, source={self.source!r},"
            f" timestamp_ms={self.timestamp_ms}, message={self.message!r})"
        )


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
