"""Provides the low-level client of a running cluster for asyncio. The methods accept and return protobuf messages."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from iris.arguments import JobReference, TaskReference, check_seconds
from iris.cluster.client.access import ClusterAccess
from iris.cluster.client.aio.connection import AsyncClusterConnection
from iris.cluster.client.aio.verbs import AsyncVerbs
from iris.cluster.client.operations import logs, results
from iris.cluster.client.operations.results import Status
from iris.cluster.client.operations.steps import Pause
from iris.cluster.client.operations.watches import event_watching, job_watching, list_watching
from iris.cluster.types import JobState
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import DEFAULT_TIMEOUT_S
from iris.rpc.http.client.httpx_sender import check_transport

if TYPE_CHECKING:
    import httpx


class AsyncClusterClient(AsyncVerbs):
    """A low-level client of a cluster, for one asyncio event loop. The client belongs to the loop that runs its first
    call. `RemoteClusterClient` has the same methods, and documents their arguments and errors.

    Args:
        access: The address and the credentials of the cluster, or a function that starts a cluster and returns the
            address and the credentials.
        whose: The client's name in errors.
        transport: A transport of httpx that sends all requests. None: the client makes its own connections.
    """

    def __init__(
        self,
        access: ClusterAccess | Callable[[], ClusterAccess],
        whose: str,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(AsyncClusterConnection(access, whose, transport))

    @property
    def controller_address(self) -> str:
        """The base URL of the controller, or an empty string while a local cluster has not started yet."""
        return self.connection.address

    # Watching.

    def watch_job(
        self,
        job_id: str | JobReference,
        *,
        timeout: float | None = None,
        patience_s: float | None = 60.0,
        longest_pause_s: float = job_watching.LONGEST_PAUSE_S,
        include_tasks: bool = False,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> AsyncGenerator[cluster_pb2.JobStatus]:
        """Yield the state of a job after each change, up to its final state. Reconnect after a lost connection."""
        operation = job_watching.watch_job(
            job_id,
            timeout=timeout,
            patience_s=patience_s,
            longest_pause_s=longest_pause_s,
            include_tasks=include_tasks,
            on_silence=on_silence,
        )
        return self.connection.items(operation)

    def watch_jobs(
        self,
        *,
        id_prefix: str = "",
        id_contains: str = "",
        states: Iterable[JobState | str | int] = (),
        owner: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        newest_first: bool = False,
        limit: int = list_watching.MOST_JOBS,
        patience_s: float | None = 60.0,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> AsyncGenerator[list_watching.WatchedJobs]:
        """Yield the list of jobs, and the new list after each change, until the caller ends the iteration. Reconnect
        after a lost connection."""
        operation = list_watching.watch_jobs(
            id_prefix=id_prefix,
            id_contains=id_contains,
            states=states,
            owner=owner,
            since_ms=since_ms,
            until_ms=until_ms,
            newest_first=newest_first,
            limit=limit,
            patience_s=patience_s,
            on_silence=on_silence,
        )
        return self.connection.items(operation)

    def watch_events(
        self,
        job_id: str | JobReference | None = None,
        *,
        kinds: Iterable[str] = (),
        since_ms: int = 0,
        cursor: str | None = None,
        tail: int = 0,
        follow: bool = False,
        patience_s: float | None = 60.0,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> AsyncGenerator[cluster_pb2.Controller.Event]:
        """Yield the stored events of the cluster, the oldest first, and with `follow` also each new event. Reconnect
        after a lost connection, without losing or repeating an event."""
        operation = event_watching.watch_events(
            job_id,
            kinds=kinds,
            since_ms=since_ms,
            cursor=cursor,
            tail=tail,
            follow=follow,
            patience_s=patience_s,
            on_silence=on_silence,
        )
        return self.connection.items(operation)

    async def list_webhooks(self) -> list[cluster_pb2.Controller.WebhookStatus]:
        """Return the webhooks of the cluster, and whether their deliveries succeed. Only admins may call this
        method."""
        return await self.connection.perform(event_watching.list_webhooks())

    def stream_results(
        self,
        job_id: str | JobReference,
        task_indices: Sequence[int] | None = None,
        *,
        timeout: float | None = None,
        patience_s: float | None = 60.0,
        on_silence: Callable[[UnavailableError], None] = lambda error: None,
    ) -> AsyncGenerator[Status]:
        """Yield each task of a job once it has ended, with its result or exception. Reconnect after a lost
        connection."""
        operation = results.stream_results(
            job_id, task_indices, timeout=timeout, patience_s=patience_s, on_silence=on_silence
        )
        return self.connection.items(operation)

    # Logs.

    async def fetch_task_logs(
        self, task_id: str | TaskReference, start_ms: int = 0, max_lines: int = 0, *, attempt_id: int | None = None
    ) -> list[cluster_pb2.Worker.LogEntry]:
        """Return the lines that a task has written so far, or an empty list if no attempt has started yet."""
        reachable = self.connection.reachable
        operation = logs.fetch_task_logs(reachable, task_id, start_ms, max_lines, attempt_id=attempt_id)
        return await self.connection.perform(operation)

    async def fetch_log_page(
        self, task_id: str | TaskReference, attempt: cluster_pb2.TaskAttempt, wanted: cluster_pb2.Worker.FetchLogsFilter
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse:
        """Return one page of an attempt's log."""
        operation = logs.fetch_log_page(self.connection.reachable, task_id, attempt, wanted)
        return await self.connection.perform(operation)

    async def fetch_log_parts(self, request: cluster_pb2.FetchLogPartsRequest) -> cluster_pb2.FetchLogPartsResponse:
        """Read parts of attempts' logs at given positions through the controller, and return the parts."""
        return await self.connection.perform(logs.fetch_log_parts(request))

    def stream_task_logs(
        self, request: cluster_pb2.StreamTaskLogsRequest, worker: tuple[str, str] | None = None
    ) -> AsyncGenerator[cluster_pb2.StreamTaskLogsResponse]:
        """Yield the messages of one stream of logs. If the connection breaks, raise an error."""
        return self.connection.messages(logs.stream_task_logs(request, worker))

    async def reaches_worker(self, worker_id: str, address: str) -> bool:
        """Return whether this machine can call a worker directly."""
        return await self.connection.perform(self.connection.reachable.reaches(worker_id, address))

    async def find_routes(self, workers: Iterable[tuple[str, str]]) -> None:
        """Determine which workers this machine can call directly, in at most half a second for all workers together."""
        await self.connection.perform(self.connection.reachable.find(workers))

    def lost_worker(self, address: str) -> None:
        """Record that a worker does not answer any more. Afterwards `reaches_worker` returns False for the worker's
        address."""
        self.connection.reachable.lost(address)

    # Pausing and closing.

    async def pause(self, seconds: float) -> None:
        """Sleep, unless this client is closed."""

        def operation() -> Generator[Pause, None, None]:
            yield Pause(check_seconds("seconds", seconds))

        await self.connection.perform(operation())

    async def close(self) -> None:
        """Close the connections. The cluster keeps running."""
        await self.connection.close()

    async def __aenter__(self) -> Self:
        await self.connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class AsyncRemoteClusterClient(AsyncClusterClient):
    """A low-level client of a running cluster. `RemoteClusterClient` documents the arguments and errors."""

    def __init__(
        self,
        controller_address: str,
        *,
        token: str | Callable[[], str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | tuple[str, str] | None = None,
        http2: bool | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> None:
        check_transport(transport, is_async=True)
        access = ClusterAccess(controller_address, token, ca, cert, http2, transport, timeout_s)
        super().__init__(access, f"the client of the cluster at {access.address}", transport)
