"""The events and instructions of the follow engine: what a driver reports, and what the driver and the reader must
do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from iris.cluster.logs.cursor import Position
from iris.cluster.logs.outage import Failure
from iris.cluster.logs.progress import NextAttempt, NoAttempt
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2

StreamId = int
Worker = tuple[str, str]  # Identifies a worker by its id and its address.
Chunk = cluster_pb2.StreamTaskLogsResponse.Chunk


# The following classes are events, which a driver reports to a `Follow` object.


@dataclass(frozen=True, slots=True)
class TimePassed:
    """An event: the time `Follow.wake_at` has come. The first event that a `Follow` gets is also a `TimePassed`."""


@dataclass(frozen=True, slots=True)
class TasksChanged:
    """An event: the controller has sent new statuses of tasks."""

    tasks: Iterable[cluster_pb2.TaskStatus]


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """An event: the driver has opened a stream.

    Attributes:
        stream: The number of the stream. Each stream of a `Follow` has another number.
        worker: The id and address of the worker that serves the stream; None if the controller serves the stream.
        task_indices: The tasks whose logs the stream carries.
    """

    stream: StreamId
    worker: Worker | None
    task_indices: Iterable[int]


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """An event: a log message has arrived. The driver reports the chunks of the message as `ChunkReceived` events."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class ChunkReceived:
    """An event: a chunk of a log message has arrived."""

    stream: StreamId
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """An event: a stream has ended.

    Attributes:
        stream: The number of the log stream.
        error: The error that broke the stream; None if the server closed the stream.
        is_token_renewed: Whether the stream ended because the token had expired, and the driver has a new token now.
    """

    stream: StreamId
    error: Exception | None
    is_token_renewed: bool = False


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """An event: the controller has declared a worker lost, and a stream is open from this worker."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class NoServer:
    """An event: the driver knows no server that has the log at the moment.

    Attributes:
        task_index: The task whose log was to be read.
        error: The error that says why no server has the log.
    """

    task_index: int
    error: UnavailableError


@dataclass(frozen=True, slots=True)
class RestartRequested:
    """An event: the reader wants a new stream for a task, because its request for the task has changed."""

    stream: StreamId
    task_index: int


@dataclass(frozen=True, slots=True)
class AttemptAbandoned:
    """An event: the reader has given up the current attempt of a task, because the rest of its log cannot be read."""

    task_index: int


Event = (
    TimePassed
    | TasksChanged
    | StreamOpened
    | MessageReceived
    | ChunkReceived
    | StreamEnded
    | WorkerLost
    | NoServer
    | RestartRequested
    | AttemptAbandoned
)


# The following classes are instructions to the driver or the reader. `progress.py` defines two more instructions:
# `NextAttempt` and `NoAttempt`.


@dataclass(frozen=True, slots=True)
class Read:
    """An instruction: the driver must open a stream that reads an attempt, and report `StreamOpened` or `NoServer`.

    Attributes:
        task_index: The index of the task.
        attempt: The attempt to read, as the controller described it last.
        position: The position at which the reader begins to read the attempt: the requested position for its first
            attempt, and the beginning of the log for each later attempt. The position stays the same when chunks
            arrive. Only the controller's relay uses the position, because the relay cannot resume a broken stream.
            Other readers know how far they have read, and open a stream there.
    """

    task_index: int
    attempt: cluster_pb2.TaskAttempt
    position: Position


@dataclass(frozen=True, slots=True)
class CloseStream:
    """An instruction: the driver must close a stream."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class Deliver:
    """An instruction: give a chunk of a log to the reader.

    Attributes:
        stream: The stream that brought the chunk.
        chunk: The chunk of log records.
        attempt: The attempt to which the chunk belongs, as the controller described it last.
    """

    stream: StreamId
    chunk: Chunk
    attempt: cluster_pb2.TaskAttempt | None


@dataclass(frozen=True, slots=True)
class ReadElsewhere:
    """An instruction: request the log of an attempt from another server than the attempt's worker."""

    task_index: int
    attempt_id: int


@dataclass(frozen=True, slots=True)
class Retry:
    """An instruction: inform the reader that a try to read a log has failed and will be repeated.

    Attributes:
        task_index: The index of the task.
        attempt: The attempt that could not be read.
        error: The error with which the try has failed.
        failure: In which way the last try has failed.
        tries: The number of failed tries in a row.
        since_s: When the first of these failed tries began, on the monotonic clock.
        worker: The id and address of the worker that was asked for the log; None if the controller was asked.
    """

    task_index: int
    attempt: cluster_pb2.TaskAttempt
    error: Exception
    failure: Failure
    tries: int
    since_s: float
    worker: Worker | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """An instruction: inform the reader that a log could not be read in spite of all retries."""

    task_index: int
    attempt_id: int
    error: Exception


@dataclass(frozen=True, slots=True)
class Interrupted:
    """An instruction: inform the reader that a stream broke after it had delivered data. Only readers that cannot
    resume get this instruction."""

    task_index: int
    attempt_id: int
    error: Exception


@dataclass(frozen=True, slots=True)
class NothingYet:
    """An instruction: inform a reader without `follow` that the worker of an attempt has no log of the attempt yet."""

    task_index: int
    attempt_id: int


@dataclass(frozen=True, slots=True)
class Fail:
    """An instruction: stop reading all logs, and raise an error that a retry would not change."""

    error: Exception


Instruction = (
    Read
    | CloseStream
    | Deliver
    | ReadElsewhere
    | Retry
    | GiveUp
    | Interrupted
    | NothingYet
    | Fail
    | NextAttempt
    | NoAttempt
)


def events_of(stream: StreamId, message: cluster_pb2.StreamTaskLogsResponse) -> Iterator[Event]:
    """Yield the events for a log message: the message itself, and each of its chunks."""
    yield MessageReceived(stream)
    for chunk in message.chunks:
        yield ChunkReceived(stream, chunk)
