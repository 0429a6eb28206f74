"""Reads future log lines on an asyncio loop, until all tasks have ended.

A reader of logs has two stages. The first stage reads the lines that exist when the reader starts. This module is the
second stage, which reads all later lines.

`iris.cluster.logs.follow` decides which logs are read next from which servers, and `AsyncioDriver` reads them.
`FollowReader` turns the received data into entries for the user.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from iris.client.logs.following.follow_reader import FollowReader, new_follow
from iris.client.logs.following.resume_request import Server, resume_request
from iris.client.logs.read_state import Items, ReadState
from iris.cluster.client.aio.connection import AsyncClusterConnection
from iris.cluster.client.operations.logs import stream_task_logs
from iris.cluster.client.operations.watches.job_watching import watch_job
from iris.cluster.logs.asyncio_driver import AsyncioDriver
from iris.cluster.logs.follow import Follow
from iris.cluster.logs.follow_events import Instruction, Read, TasksChanged, Worker, WorkerLost
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2

_BUFFERED_MESSAGES = 4  # The largest number of messages that wait in memory until the reader receives them.


class AsyncFutureLines:
    """Reads the lines that tasks write after a reader of their logs has read all existing lines.

    Args:
        connection: The object that makes the calls of the client.
        state: The state of the log reader.
    """

    def __init__(self, connection: AsyncClusterConnection, state: ReadState) -> None:
        self._connection = connection
        self._state = state
        self._driver: AsyncioDriver[Server] | None = None
        self._follow = new_follow(state)
        self._until = min(state.options.until, state.options.follow_until)

    async def run(self) -> AsyncGenerator[Items]:
        """Yield batches of log entries as they arrive. An empty batch means that no more data has arrived yet."""
        state, follow = self._state, self._follow
        servers = _ClientServers(self._connection, state)
        driver = AsyncioDriver(
            follow, servers, _statuses(self._connection, state, follow), buffered_messages=_BUFFERED_MESSAGES
        )
        self._driver = driver
        reader = FollowReader(state, driver)
        try:
            instructions: Iterable[Instruction] = driver.report(TasksChanged(list(state.tasks.values())))
            while True:
                async with aclosing(self._connection.items(reader.carry_out(instructions))) as batches:
                    async for items in batches:
                        yield items
                if follow.is_over or time.monotonic() >= self._until:
                    return
                if not driver.has_arrivals:
                    yield ()
                step = await driver.step(self._until)
                instructions = step.instructions
                for stream in follow.streams_of_lost_workers():
                    instructions += driver.report(WorkerLost(stream))
        finally:
            await driver.close()

    def lacks_existing_lines(self) -> bool:
        """Return whether some existing lines may be unread after `run`. This is the case if `run` stopped at the end
        time of the filter, because a server may have been out of reach until then.
        """
        return not self._follow.is_over and self._state.options.is_follow_over()

    def wake(self) -> None:
        """Make the iteration over `run` yield soon, even if no data arrives."""
        if self._driver is not None:
            self._driver.wake()


class _ClientServers:
    """The controller and workers of a cluster, from which `AsyncioDriver` reads logs."""

    def __init__(self, connection: AsyncClusterConnection, state: ReadState) -> None:
        self._connection = connection
        self._state = state

    def choose(self, read: Read) -> Server:
        worker = self._state.routes.known_worker_of(read.task_index, read.attempt)
        return worker, self._state.filters_start_here(read.task_index)

    def worker(self, server: Server) -> Worker | None:
        return server[0]

    def is_lost(self, server: Server) -> bool:
        # No call is needed to find out whether the worker is lost, because the follow engine knows the newest statuses
        # of the tasks.
        return False

    def open(self, server: Server, reads: Sequence[Read]) -> AsyncGenerator[cluster_pb2.StreamTaskLogsResponse]:
        request = resume_request(self._state, server, reads)
        return self._connection.messages(stream_task_logs(request, server[0]))


async def _statuses(
    connection: AsyncClusterConnection, state: ReadState, follow: Follow
) -> AsyncGenerator[list[cluster_pb2.TaskStatus]]:
    """Yield the statuses of all tasks, and then the statuses of changed tasks.

    The workers of new attempts are probed before the statuses are yielded, because the driver chooses servers without
    waiting for calls.
    """

    def on_silence(error: UnavailableError) -> None:
        # The user needs no notice about a silent controller while a stream of log lines is open or is being retried.
        if not follow.has_streams and not follow.has_outage:
            state.options.on_notice(f"{error}; trying again")

    watch = watch_job(state.job_id, patience_s=state.options.patience_s, include_tasks=True, on_silence=on_silence)
    async with aclosing(connection.items(watch)) as jobs:
        async for job in jobs:
            await connection.perform(state.routes.find(job.tasks))
            yield list(job.tasks)
