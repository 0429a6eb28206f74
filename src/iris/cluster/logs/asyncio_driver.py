"""Drives the follow engine with asyncio: one task for each stream and one for the statuses of tasks. The event loop
that runs `AsyncioDriver.step` owns all state. No method may be called from another thread.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

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
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import TokenRenewedError
from iris.rpc.cluster_pb2 import StreamTaskLogsResponse

Server = TypeVar("Server", bound=Hashable)


class AsyncLogServers(Protocol[Server]):
    """Protocol of the servers from which an `AsyncioDriver` reads logs. Tests implement the protocol with servers of
    their own.
    """

    def choose(self, read: Read) -> Server:
        """Return the server that has the log of an attempt.

        Raises:
            UnavailableError: No server has the log at the moment.
        """

    def worker(self, server: Server) -> Worker | None:
        """Return the id and address of the worker behind a server; None if the server is the controller."""

    def is_lost(self, server: Server) -> bool:
        """Return whether the server is a worker that the controller has declared lost."""

    def open(self, server: Server, reads: Sequence[Read]) -> AsyncGenerator[StreamTaskLogsResponse]:
        """Return the messages of one stream that carries the logs of several attempts."""


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one step of `AsyncioDriver`.

    Attributes:
        instructions: What the reader must do, in this order. The driver has already carried out `Read` and
            `CloseStream`.
        message: The log message that caused the instructions; None if another event caused the instructions.
    """

    instructions: list[Instruction] = field(default_factory=list)
    message: StreamTaskLogsResponse | None = None


_Arrival = tuple[StreamId | None, StreamTaskLogsResponse | list[cluster_pb2.TaskStatus] | Exception | None]


class AsyncioDriver(Generic[Server]):
    """Runs one `Follow` on an asyncio event loop: carries out the instructions of the `Follow`, and reports events to
    it.

    Args:
        follow: The `Follow` that decides what to read.
        servers: The servers from which the `Follow` reads.
        statuses: Yields the statuses of all tasks at first, and then the statuses of changed tasks.
        buffered_messages: The most messages, over all streams, that may wait for the reader.
    """

    def __init__(
        self,
        follow: Follow,
        servers: AsyncLogServers[Server],
        statuses: AsyncGenerator[list[cluster_pb2.TaskStatus]],
        *,
        buffered_messages: int,
    ) -> None:
        self._follow = follow
        self._servers = servers
        self._arrivals: asyncio.Queue[_Arrival] = asyncio.Queue(buffered_messages)
        self._stream_ids = itertools.count(1)
        self._tasks: dict[StreamId, asyncio.Task[None]] = {}
        self._server_of: dict[StreamId, Server] = {}
        self._watching = [asyncio.create_task(self._put_statuses(statuses))]

    @property
    def has_arrivals(self) -> bool:
        """Whether log messages or task statuses have arrived that the method `step` has not handled yet."""
        return not self._arrivals.empty()

    def report(self, event: Event) -> list[Instruction]:
        """Report an event to the `Follow`. Carry out the instructions for the driver, and return the instructions for
        the reader.
        """
        others: list[Instruction] = []
        for instruction in self._handle(event):
            if isinstance(instruction, CloseStream):
                self._server_of.pop(instruction.stream)
                self._tasks[instruction.stream].cancel()
            else:
                others.append(instruction)
        return others

    def restart(self, stream: StreamId, task_index: int) -> None:
        """Read a task from a new stream."""
        for _ in self.report(RestartRequested(stream, task_index)):
            raise AssertionError("a `RestartRequested` event must return no instructions for the caller")

    def wake(self) -> None:
        """Make `step` return soon, even if nothing arrives."""
        # If the queue is full, `step` need not be woken, because it finds an arrival in the queue and does not wait.
        with suppress(asyncio.QueueFull):
            self._arrivals.put_nowait((None, []))

    async def step(self, until: float = math.inf) -> Step:
        """Open the streams and close the streams whose time has come. If the reader has nothing to do after that, wait
        for one message or status.

        Args:
            until: The time on the monotonic clock at which an empty step is returned if nothing has arrived.

        Raises:
            Exception: The error with which the statuses of tasks have ended.
        """
        opened = self._open_and_close()
        if opened or self._follow.is_over:
            return Step(opened)
        for open_stream, server in self._server_of.items():
            if self._servers.is_lost(server):
                self._handle(WorkerLost(open_stream))
        wake_at = self._follow.wake_at
        end = until if wake_at is None else min(until, wake_at)
        try:
            async with asyncio.timeout(None if end == math.inf else max(0.0, end - time.monotonic())):
                stream, arrived = await self._arrivals.get()
        except TimeoutError:
            return Step()
        return self._apply(stream, arrived)

    async def close(self) -> None:
        """End all streams, and wait until their tasks have ended."""
        tasks = [*self._watching, *self._tasks.values()]
        # The driver drops its references to the asyncio tasks, because the error of a cancelled task refers back to the
        # driver. With references in both directions, only the garbage collector could free the last messages, much
        # later.
        self._watching.clear()
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _handle(self, event: Event) -> list[Instruction]:
        return self._follow.handle(event, time.monotonic())

    def _open_and_close(self) -> list[Instruction]:
        reads: list[Read] = []
        others: list[Instruction] = []
        for instruction in self.report(TimePassed()):
            if isinstance(instruction, Read):
                reads.append(instruction)
            else:
                others.append(instruction)
        by_server, missing = group_by_server(reads, self._servers.choose)
        for event in missing:
            others += self._handle(event)
        for server, of_server in by_server.items():
            stream = next(self._stream_ids)
            indices = [read.task_index for read in of_server]
            self._handle(StreamOpened(stream, self._servers.worker(server), indices))
            self._server_of[stream] = server
            messages = self._servers.open(server, of_server)
            self._tasks[stream] = asyncio.create_task(self._put_messages(stream, messages))
        return others

    def _apply(
        self, stream: StreamId | None, arrived: StreamTaskLogsResponse | list[cluster_pb2.TaskStatus] | Exception | None
    ) -> Step:
        if stream is None:
            if isinstance(arrived, Exception):
                raise arrived
            assert isinstance(arrived, list)
            return Step(self._handle(TasksChanged(arrived)))
        if isinstance(arrived, StreamTaskLogsResponse):
            events = events_of(stream, arrived)
            return Step([instruction for event in events for instruction in self._handle(event)], arrived)
        assert not isinstance(arrived, list)
        self._tasks.pop(stream)
        self._server_of.pop(stream, None)
        return Step(self._handle(StreamEnded(stream, arrived, isinstance(arrived, TokenRenewedError))))

    async def _put_messages(self, stream: StreamId, messages: AsyncGenerator[StreamTaskLogsResponse]) -> None:
        ended: Exception | None = None
        try:
            async with aclosing(messages):
                async for message in messages:
                    await self._arrivals.put((stream, message))
        except Exception as error:  # noqa: BLE001 - `Follow` decides what to do after any error of a stream.
            ended = error
        await self._arrivals.put((stream, ended))

    async def _put_statuses(self, statuses: AsyncGenerator[list[cluster_pb2.TaskStatus]]) -> None:
        try:
            async with aclosing(statuses):
                async for tasks in statuses:
                    await self._arrivals.put((None, tasks))
        except Exception as error:  # noqa: BLE001 - A later call of `step` raises the error.
            await self._arrivals.put((None, error))
