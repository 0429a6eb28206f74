"""Reads future log lines until all tasks have ended. A reader of logs has two stages: first the lines that exist, and
then the future lines. This module is the second stage.

`iris.cluster.logs.follow` decides which logs are read next from which servers, and `ThreadDriver` reads them.
`FollowReader` turns the received data into entries for the user.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from iris.client.logs.following.follow_reader import FollowReader, new_follow
from iris.client.logs.following.resume_request import Server, resume_request
from iris.client.logs.following.thread_driver import OpenStream, Silence, ThreadDriver
from iris.client.logs.read_state import Items, ReadState
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.logs.follow_events import Instruction, Read, TasksChanged, Worker
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.http.client.stream_handle import StreamHandle


class FutureLines:
    """Reads the lines that tasks write after a reader of their logs has read all existing lines.

    Args:
        cluster: The client of the cluster.
        state: The state of the log reader.
    """

    def __init__(self, cluster: RemoteClusterClient, state: ReadState) -> None:
        self._cluster = cluster
        self._state = state
        self._follow = new_follow(state)
        self._driver: ThreadDriver[Server] = ThreadDriver(self._follow, _ClientServers(cluster, state))
        self._reader = FollowReader(state, self._driver)
        self._until = min(state.options.until, state.options.follow_until)

    def run(self) -> Iterator[Items]:
        """Yield batches of log entries as they arrive. An empty batch means that no more data has arrived yet."""
        state, driver = self._state, self._driver
        yield from self._carry_out(driver.report(TasksChanged(list(state.tasks.values()))))
        if self._follow.is_over or time.monotonic() >= self._until:
            return
        driver.start()
        try:
            while not self._follow.is_over:
                yield from self._carry_out(driver.open_and_close())
                if not driver.has_arrivals:
                    yield ()
                arrival = driver.wait(self._until)
                if state.is_closed or (arrival is None and time.monotonic() >= self._until):
                    return
                if isinstance(arrival, Silence):
                    # The user needs no notice about a silent controller while a stream of log lines is open or is being
                    # retried.
                    if not self._follow.has_streams and not self._follow.has_outage:
                        state.options.on_notice(f"{arrival.error}; trying again")
                elif arrival is not None:
                    yield from self._carry_out(driver.apply(arrival))
        finally:
            driver.end()

    def lacks_existing_lines(self) -> bool:
        """Return whether some existing lines may be unread after `run`. This is the case if `run` stopped at the end
        time of the filter, because a server may have been out of reach until then.
        """
        return not self._follow.is_over and not self._state.is_closed and self._state.options.is_follow_over()

    def wake(self) -> None:
        """Make the iteration over `run` yield soon, even if no data arrives. Any thread may call this method."""
        self._driver.wake()

    def end(self) -> None:
        """End the threads, from any thread."""
        self._driver.end()

    def _carry_out(self, instructions: Iterable[Instruction]) -> Iterator[Items]:
        return self._cluster.connection.items(self._reader.carry_out(instructions))


class _ClientServers:
    """The controller and workers of a cluster, from which `ThreadDriver` reads logs."""

    def __init__(self, cluster: RemoteClusterClient, state: ReadState) -> None:
        self._cluster = cluster
        self._state = state

    def choose(self, read: Read) -> Server:
        worker = self._cluster.connection.perform(self._state.routes.worker_of(read.task_index, read.attempt))
        return worker, self._state.filters_start_here(read.task_index)

    def worker(self, server: Server) -> Worker | None:
        return server[0]

    def opener(self, server: Server, reads: Sequence[Read]) -> OpenStream:
        request = resume_request(self._state, server, reads)
        return lambda handle: self._cluster.stream_task_logs(request, server[0], handle)

    def watch(
        self, handle: StreamHandle, on_silence: Callable[[UnavailableError], None]
    ) -> Iterator[Sequence[cluster_pb2.TaskStatus]]:
        jobs = self._cluster.watch_job(
            self._state.job_id,
            patience_s=self._state.options.patience_s,
            include_tasks=True,
            handle=handle,
            on_silence=on_silence,
        )
        return (job.tasks for job in jobs)
