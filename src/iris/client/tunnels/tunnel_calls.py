"""The calls with which a tunnel reaches the controller, for the sync and the async client."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Protocol

from iris.cluster.client.operations.tunnels import TunnelKind, tunnel_messages, write_tunnel
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import TunnelMessage, WriteTunnelResponse
from iris.rpc.http.client.stream_handle import StreamHandle

if TYPE_CHECKING:
    from iris.cluster.client.aio.connection import AsyncClusterConnection
    from iris.cluster.client.verbs.connection import ClusterConnection

OpenTunnelRequest = cluster_pb2.Controller.OpenTunnelRequest
WriteTunnelRequest = cluster_pb2.Controller.WriteTunnelRequest


class TunnelCalls(Protocol):
    """The two calls of a tunnel, on an asyncio loop."""

    def messages(self, request: OpenTunnelRequest) -> AsyncGenerator[TunnelMessage]:
        """Open or resume a tunnel, and yield its messages."""

    async def write(self, request: WriteTunnelRequest, timeout_s: float) -> WriteTunnelResponse:
        """Send data of some channels to the worker. All tries of the call together take at most `timeout_s` seconds."""


class AsyncTunnelCalls:
    """The calls of an async client.

    Args:
        connection: The object that makes the calls of the client.
        kind: The purpose of the tunnels: port forwarding, or commands in tasks.
    """

    def __init__(self, connection: AsyncClusterConnection, kind: TunnelKind = "tunnel") -> None:
        self._connection = connection
        self._kind = kind

    def messages(self, request: OpenTunnelRequest) -> AsyncGenerator[TunnelMessage]:
        """Open or resume a tunnel, and yield its messages."""
        return self._connection.items(tunnel_messages(request, self._kind))

    async def write(self, request: WriteTunnelRequest, timeout_s: float) -> WriteTunnelResponse:
        """Send data of some channels to the worker."""
        return await self._connection.perform(write_tunnel(request, timeout_s, self._kind))


class ThreadTunnelCalls:
    """The calls of a sync client. Each call is made in a daemon thread, so that the program can end during the call.

    Args:
        connection: The object that makes the calls of the client.
        kind: The purpose of the tunnels: port forwarding, or commands in tasks.
    """

    def __init__(self, connection: ClusterConnection, kind: TunnelKind = "tunnel") -> None:
        self._connection = connection
        self._kind = kind

    async def messages(self, request: OpenTunnelRequest) -> AsyncGenerator[TunnelMessage]:
        """Open or resume a tunnel, and yield its messages."""
        loop = asyncio.get_running_loop()
        # The queue needs no limit, because the worker sends only a limited number of bytes that are not acknowledged.
        queue: asyncio.Queue[TunnelMessage | BaseException | None] = asyncio.Queue()
        handle = StreamHandle()

        def put(item: TunnelMessage | BaseException | None) -> None:
            # The message is dropped if the event loop has ended, because the tunnel was closed.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def read() -> None:
            try:
                for message in self._connection.items(tunnel_messages(request, self._kind), handle):
                    put(message)
                put(None)
            except BaseException as error:  # noqa: BLE001 - The event loop raises the error.
                put(error)

        thread = threading.Thread(target=read, name="iris-tunnel-reader", daemon=True)
        thread.start()
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            handle.abort()

    async def write(self, request: WriteTunnelRequest, timeout_s: float) -> WriteTunnelResponse:
        """Send data of some channels to the worker."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[WriteTunnelResponse] = loop.create_future()

        def settle(answer: WriteTunnelResponse | None, error: BaseException | None) -> None:
            if answered.done():  # The answer is dropped, because the tunnel was closed during the call.
                return
            if answer is None:
                answered.set_exception(error or AssertionError("a call has an answer or an error"))
            else:
                answered.set_result(answer)

        def call() -> None:
            outcome: tuple[WriteTunnelResponse | None, BaseException | None]
            try:
                outcome = self._connection.perform(write_tunnel(request, timeout_s, self._kind)), None
            except BaseException as error:  # noqa: BLE001 - The event loop raises the error.
                outcome = None, error
            # The answer is dropped if the event loop has ended, because the tunnel was closed.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, *outcome)

        threading.Thread(target=call, name="iris-tunnel-writer", daemon=True).start()
        return await answered
