"""A server in a thread with a small ASGI application, on real sockets. A test lets time pass by calling `pass_time`."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from iris.rpc.http.server.asgi_server import HttpServer
from iris.rpc.http.server.connection_limits import ConnectionLimits
from iris.system.sockets import bind


class Served:
    """A server in a thread with these paths:

    * `/s/count` answers with the length of the body.
    * `/s/hang` answers with the length of the body when the test sets `go`.
    * `/s/early` answers before the body has arrived.
    * `/s/stream` sends four bytes again and again until the test sets `go`.
    * `/s/endless` sends `MESSAGE` again and again until the client leaves.
    * `/s/trailers` answers with the length of the body and one trailer.
    * `/s/unread` reads nothing of the body until the test sets `go`.
    * `/s/scope` answers with the ASGI scope.

    Args:
        limits: The limits of connections.
        tls: The TLS context of the server.
        loop: The loop of the server. The default is a loop of asyncio itself.
        counts_seconds: Whether time passes for the limits by itself. Otherwise only `pass_time` lets it pass.
    """

    MESSAGE = bytes(256 * 1024)

    def __init__(
        self,
        limits: ConnectionLimits | None = None,
        tls: ssl.SSLContext | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        counts_seconds: bool = True,
    ) -> None:
        self.path = "/s"
        self.limits = limits or ConnectionLimits()
        self._tick = self.limits.tick
        if not counts_seconds:
            self.limits.tick = lambda: None  # type: ignore[method-assign]
        self.tls = tls
        self.endless_sent = 0  # How many messages of `/s/endless` were sent.
        self.calls = 0
        self.loop = loop or asyncio.new_event_loop()
        self.go = asyncio.Event()
        self.stop = asyncio.Event()  # A test sets this event to close the server.
        self.disconnected = threading.Event()
        self.listener = bind("127.0.0.1", 0)
        self.address = self.listener.getsockname()

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        size, path = 0, scope["path"]
        self.calls += 1
        if path == "/s/unread":
            await self.go.wait()
        while path != "/s/early":
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        trailers = path == "/s/trailers"
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": trailers})
        if path == "/s/hang":
            await self.go.wait()
        if path == "/s/endless":
            await self._send_until_disconnected(receive, send)
            return
        while path == "/s/stream" and not self.go.is_set():
            await send({"type": "http.response.body", "body": b"beat", "more_body": True})
            await asyncio.sleep(0.01)
        body = repr(scope).encode() if path == "/s/scope" else str(size).encode()
        await send({"type": "http.response.body", "body": body})
        if trailers:
            await send({"type": "http.response.trailers", "headers": [(b"x-size", str(size).encode())]})

    async def _send_until_disconnected(self, receive: Any, send: Any) -> None:
        async def endless() -> None:
            while True:
                await send({"type": "http.response.body", "body": self.MESSAGE, "more_body": True})
                self.endless_sent += 1

        sending = asyncio.create_task(endless())
        while (await receive())["type"] != "http.disconnect":
            pass
        sending.cancel()
        self.disconnected.set()

    async def serve(self) -> None:
        server = HttpServer({self.path: self.application}, self.listener, self.limits, self.tls)
        server.start()
        await self.stop.wait()
        await server.close()

    def pass_time(self, seconds: int) -> None:
        """Let seconds pass for the limits."""

        def tick() -> int:
            for _ in range(seconds):
                self._tick()
            return seconds

        self.call(tick)

    @property
    def url(self) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.address[1]}"

    def call(self, function: Callable[[], Any]) -> Any:
        async def on_loop() -> Any:
            await asyncio.sleep(0)
            return function()

        return asyncio.run_coroutine_threadsafe(on_loop(), self.loop).result(30)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    @contextmanager
    def running(self) -> Iterator[Served]:
        """Serve until the context ends."""
        thread = threading.Thread(target=lambda: self.loop.run_until_complete(self.serve()))
        thread.start()
        try:
            yield self
        finally:
            self.loop.call_soon_threadsafe(self.stop.set)
            thread.join()
            self.loop.close()


@contextmanager
def served(
    limits: ConnectionLimits | None = None,
    tls: ssl.SSLContext | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
    *,
    counts_seconds: bool = True,
) -> Iterator[Served]:
    """Serve the paths of `Served` until the context ends."""
    with Served(limits, tls, loop, counts_seconds=counts_seconds).running() as world:
        yield world
