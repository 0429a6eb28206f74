"""Drives the follow engine with threads: one thread for each stream, and one thread that watches the job.

The iterating thread owns the `Follow` object. The other threads only put messages into a queue. Each stream may have
only a few messages in the queue, so that the servers pause while the reader pauses.

At the end, the driver shuts the connections down. The threads then end, and the driver joins the threads. A thread that
wakes up while the interpreter shuts down would abort the process.
"""

from __future__ import annotations

import atexit
import itertools
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from iris.cluster.logs.follow import Follow, group_by_server
from iris.cluster.logs.follow_events import (
    CloseStream,
    Event,
    Instruction,
    Read,
    RestartRequested,
    StreamEnded,
    StreamId,
    StreamOpened,
    TasksChanged,
    TimePassed,
    Worker,
    WorkerLost,
    events_of,
)
from iris.errors import IrisError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import TokenRenewedError
from iris.rpc.http.client.stream_handle import StreamHandle

_BUFFERED_MESSAGES = 4  # The largest number of queued messages of one stream.

# After the driver has shut a connection down, it waits this many seconds for the end of the connection's thread. A
# thread that is still connecting takes longer to end.
_JOIN_S = 1.0
_open_drivers: weakref.WeakSet[ThreadDriver[Any]] = weakref.WeakSet()

Server = TypeVar("Server", bound=Hashable)
# A function that opens a stream and yields its messages. Another thread can end the stream with the handle.
OpenStream = Callable[[StreamHandle], Generator[cluster_pb2.StreamTaskLogsResponse]]


@atexit.register
def _end_all() -> None:
    for driver in list(_open_drivers):
        driver.end()


class LogServers(Protocol[Server]):
    """The servers from which a `Follow` reads logs. The class is a protocol, so that tests can use another
    implementation."""

    def choose(self, read: Read) -> Server:
        """Return the server from which to read the log of an attempt."""

    def worker(self, server: Server) -> Worker | None:
        """Return the id and address of the worker if the server is a worker. Return None if the server is the
        controller.
        """

    def opener(self, server: Server, reads: Sequence[Read]) -> OpenStream:
        """Return a function that opens one stream for several attempts. The thread of the stream calls the function."""

    def watch(
        self, handle: StreamHandle, on_silence: Callable[[UnavailableError], None]
    ) -> Iterator[Sequence[cluster_pb2.TaskStatus]]:
        """Yield the statuses of tasks: first the statuses of all tasks, then each change.

        Args:
            handle: A handle with which another thread can end the watch.
            on_silence: A function that is called when the controller does not answer.
        """


@dataclass(frozen=True, slots=True)
class Silence:
    """A message in the queue, from the thread that watches the job: the controller does not answer."""

    error: UnavailableError


@dataclass(frozen=True, slots=True)
class _NewStatuses:
    """A message in the queue without content. It wakes the iterating thread, for example because new statuses of tasks
    have arrived."""


@dataclass(frozen=True, slots=True)
class _WatchFailed:
    error: IrisError


@dataclass(frozen=True, slots=True)
class _Message:
    stream: StreamId
    message: cluster_pb2.StreamTaskLogsResponse


Arrival = Silence | _NewStatuses | _WatchFailed | _Message | StreamEnded


class ThreadDriver(Generic[Server]):
    """Drives one `Follow`, the engine that decides which logs to read. Opens and closes the streams that the `Follow`
    requests, and reports each received message to it.

    Args:
        follow: The follow engine, which decides which logs are read from which servers.
        servers: The servers from which logs are read.
    """

    def __init__(self, follow: Follow, servers: LogServers[Server]) -> None:
        self._follow = follow
        self._servers = servers
        self._arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._watch = _WatchThread(servers.watch, self._arrivals)
        self._stream_ids = itertools.count(1)
        self._streams: dict[StreamId, _StreamThread] = {}

    @property
    def has_arrivals(self) -> bool:
        """Whether the queue contains messages that were not passed to `apply` yet."""
        return not self._arrivals.empty()

    def start(self) -> None:
        """Start to watch the job."""
        self._watch.start()
        _open_drivers.add(self)

    def report(self, event: Event) -> Iterator[Instruction]:
        """Report an event to the `Follow`. Carry out the instructions of the `Follow` that concern streams, and yield
        the instructions for the reader.
        """
        for instruction in self._follow.handle(event, time.monotonic()):
            if isinstance(instruction, CloseStream):
                # The thread of the stream is asked to end. The stream stays in `_streams` until its last message,
                # `StreamEnded`, arrives.
                self._streams[instruction.stream].end()
            else:
                yield instruction

    def open_and_close(self) -> Iterator[Instruction]:
        """Open and close the streams that are due now, and yield the instructions for the reader."""
        reads: list[Read] = []
        for instruction in self.report(TimePassed()):
            if isinstance(instruction, Read):
                reads.append(instruction)
            else:
                yield instruction
        by_server, missing = group_by_server(reads, self._servers.choose)
        for event in missing:
            yield from self.report(event)
        for server, of_server in by_server.items():
            stream_id = next(self._stream_ids)
            indices = [read.task_index for read in of_server]
            yield from self.report(StreamOpened(stream_id, self._servers.worker(server), indices))
            stream = _StreamThread(stream_id, self._servers.opener(server, of_server), self._arrivals)
            self._streams[stream_id] = stream
            stream.start()

    def wait(self, until: float) -> Arrival | None:
        """Wait for the next message from a stream or from the watch of the job, and return it. Return None if nothing
        has arrived by `until`, or by the time at which the `Follow` has to act.

        Args:
            until: A time on the monotonic clock.
        """
        wake_at = self._follow.wake_at
        end = until if wake_at is None else min(until, wake_at)
        try:
            return self._arrivals.get(timeout=None if end == math.inf else max(0.0, end - time.monotonic()))
        except queue.Empty:
            return None

    def apply(self, arrival: Arrival) -> Iterator[Instruction]:
        """Report a received message to the `Follow`, and yield the instructions for the reader. The reader must carry
        out each instruction before it requests the next instruction.
        """
        match arrival:
            case _NewStatuses():
                yield from self.report(TasksChanged(self._watch.take()))
                for stream_id in self._follow.streams_of_lost_workers():
                    yield from self.report(WorkerLost(stream_id))
            case _WatchFailed(error):
                raise error
            case _Message(stream_id, message):
                if stream_id in self._streams:
                    self._streams[stream_id].message_taken()
                for event in events_of(stream_id, message):
                    yield from self.report(event)
            case StreamEnded(stream_id):
                self._streams.pop(stream_id, None)
                yield from self.report(arrival)

    def restart(self, stream: StreamId, task_index: int) -> None:
        """Read a task from a new stream."""
        for _ in self.report(RestartRequested(stream, task_index)):
            raise AssertionError("a `RestartRequested` event must return no instructions for the caller")

    def wake(self) -> None:
        """Make `wait` return soon. Any thread may call this method."""
        self._arrivals.put(_NewStatuses())

    def end(self) -> None:
        """End the threads, from any thread."""
        threads: list[_StreamThread | _WatchThread] = [self._watch, *list(self._streams.values())]
        for thread in threads:
            thread.end()
        for thread in threads:
            thread.join()
        self.wake()
        _open_drivers.discard(self)


class _StreamThread:
    """A thread that reads one stream from one server.

    Args:
        stream_id: The number of the stream, which its messages contain.
        open_stream: The function that opens the stream.
        arrivals: The queue for the messages of the stream, and finally a `StreamEnded`.
    """

    def __init__(
        self,
        stream_id: StreamId,
        open_stream: OpenStream,
        arrivals: queue.SimpleQueue[Arrival],
    ) -> None:
        self._stream_id = stream_id
        self._handle = StreamHandle()
        self._open_stream = open_stream
        self._arrivals = arrivals
        self._free_buffers = threading.Semaphore(_BUFFERED_MESSAGES)
        self._thread = threading.Thread(target=self._run, name="iris-logs", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def message_taken(self) -> None:
        """Record that the iterating thread has removed a message of this stream from the queue. The stream may then add
        another message to the queue."""
        self._free_buffers.release()

    def end(self) -> None:
        """End the stream, from any thread."""
        self._handle.abort()
        self._free_buffers.release()

    def join(self) -> None:
        """Wait for the end of the thread, but only for a limited time."""
        _join(self._thread)

    def _run(self) -> None:
        ended: Exception | None = None
        try:
            with closing(self._open_stream(self._handle)) as messages:
                for message in messages:
                    self._free_buffers.acquire()
                    if self._handle.aborted:
                        return
                    self._arrivals.put(_Message(self._stream_id, message))
        except Exception as error:  # noqa: BLE001 - The iterating thread handles every error of the stream.
            ended = error
        self._arrivals.put(StreamEnded(self._stream_id, ended, isinstance(ended, TokenRenewedError)))


class _WatchThread:
    """A thread that watches the tasks of the job. It stores the newest status of each task for the iterating thread."""

    def __init__(
        self,
        watch: Callable[[StreamHandle, Callable[[UnavailableError], None]], Iterator[Sequence[cluster_pb2.TaskStatus]]],
        arrivals: queue.SimpleQueue[Arrival],
    ) -> None:
        self._watch = watch
        self._arrivals = arrivals
        self._handle = StreamHandle()
        self._lock = threading.Lock()
        self._new: dict[int, cluster_pb2.TaskStatus] = {}
        self._thread = threading.Thread(target=self._run, name="iris-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def take(self) -> list[cluster_pb2.TaskStatus]:
        """Return the statuses of all tasks that have changed since the last call of this method."""
        with self._lock:
            new, self._new = self._new, {}
        return list(new.values())

    def end(self) -> None:
        """End the thread that watches the job. Any thread may call this method."""
        self._handle.abort()

    def join(self) -> None:
        """Wait for the end of the thread, but only for a limited time."""
        _join(self._thread)

    def _run(self) -> None:
        try:
            for tasks in self._watch(self._handle, lambda error: self._arrivals.put(Silence(error))):
                if self._handle.aborted:
                    return
                with self._lock:
                    was_empty = not self._new
                    self._new |= {task.task_index: task for task in tasks}
                if was_empty:
                    self._arrivals.put(_NewStatuses())
        except IrisError as error:
            if not self._handle.aborted:
                self._arrivals.put(_WatchFailed(error))


def _join(thread: threading.Thread) -> None:
    if thread.ident is not None and thread is not threading.current_thread():
        thread.join(_JOIN_S)
