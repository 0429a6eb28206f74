"""The events and instructions of the follow engine: what a driver reports, and what it and the reader do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from iris.cluster.logs.cursor import Position
from iris.cluster.logs.outage import Failure
from iris.cluster.logs.progress import NextAttempt, NoAttempt
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2

StreamId = int
Worker = tuple[str, str]  # the id and the address of a worker
Chunk = cluster_pb2.StreamTaskLogsResponse.Chunk


# Events: what the driver reports.


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The time that `Follow.wake_at` named has come, or the follow begins."""


@dataclass(frozen=True, slots=True)
class TasksChanged:
    """The controller has sent new statuses of tasks."""

    tasks: Iterable[cluster_pb2.TaskStatus]


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The driver has opened a stream.

    Attributes:
        stream: A number that no other stream has.
        worker: The id and address of the worker that serves the stream. None: the controller serves it.
        task_indices: The tasks whose logs the stream carries.
    """

    stream: StreamId
    worker: Worker | None
    task_indices: Iterable[int]


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message has arrived. Its chunks follow as `ChunkReceived` events."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class ChunkReceived:
    """A chunk of a message has arrived."""

    stream: StreamId
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """A stream has ended.

    Attributes:
        stream: The stream.
        error: Why it broke. None: the server closed it.
        is_token_renewed: Whether it ended because the token had expired, and there is a new token now.
    """

    stream: StreamId
    error: Exception | None
    is_token_renewed: bool = False


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The worker that serves a stream was declared lost."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class NoServer:
    """The driver knows no server that has the log at the moment.

    Attributes:
        task_index: The task whose log was to be read.
        error: Why there is no server.
    """

    task_index: int
    error: UnavailableError


@dataclass(frozen=True, slots=True)
class RestartRequested:
    """The reader wants to read a task from a new stream, with a different request."""

    stream: StreamId
    task_index: int


@dataclass(frozen=True, slots=True)
class AttemptAbandoned:
    """The reader has decided that the rest of the current attempt of a task cannot be read."""

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


# Instructions: what the driver and the reader do. `NextAttempt` and `NoAttempt` of `Progress` are instructions too.


@dataclass(frozen=True, slots=True)
class Read:
    """Read an attempt: open a stream, and report `StreamOpened` or `NoServer`."""

    task_index: int
    attempt: cluster_pb2.TaskAttempt
    position: Position


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close a stream."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand a chunk to the reader.

    Attributes:
        stream: The stream that brought the chunk.
        chunk: The chunk.
        attempt: The attempt to which the chunk belongs, as the controller described it last.
    """

    stream: StreamId
    chunk: Chunk
    attempt: cluster_pb2.TaskAttempt | None


@dataclass(frozen=True, slots=True)
class ReadElsewhere:
    """Do not ask the worker of an attempt for its log any more."""

    task_index: int
    attempt_id: int


@dataclass(frozen=True, slots=True)
class Retry:
    """Know that a try to read a log has failed and will be repeated.

    Attributes:
        task_index: The index of the task.
        attempt: The attempt that could not be read.
        error: Why the try failed.
        failure: The kind of failure.
        tries: The number of failed tries in a row.
        since_s: When the first of these tries began.
        worker: The id and address of the worker that was asked. None: the controller was asked.
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
    """Tell the reader that a log could not be read in spite of all retries."""

    task_index: int
    attempt_id: int
    error: Exception


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Tell a reader that cannot resume that a stream broke after it had delivered something."""

    task_index: int
    attempt_id: int
    error: Exception


@dataclass(frozen=True, slots=True)
class NothingYet:
    """Tell a reader without `follow` that the worker has nothing of a running attempt yet."""

    task_index: int
    attempt_id: int


@dataclass(frozen=True, slots=True)
class Fail:
    """End the follow with an error, because a retry would not change it."""

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
    """Yield the events that a message stands for."""
    yield MessageReceived(stream)
    for chunk in message.chunks:
        yield ChunkReceived(stream, chunk)
