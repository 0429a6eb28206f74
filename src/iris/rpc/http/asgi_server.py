"""HTTP for the servers: ASGI applications on uvicorn, on the loop that is running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import uvicorn

from iris import failpoints
from iris.rpc.http.connection_limits import KEEPALIVE_S, Guard

# How long open streams may go on when the server closes; they are cut then, and their readers connect again.
_CLOSE_S = 1
# The largest message that is taken: a submission with its workspace.
MAX_MESSAGE_BYTES = 160 * 1024 * 1024
# The calls that carry code, results or logs; those of all others are small.
LARGE_REQUESTS = {
    "/iris.cluster.ControllerService/LaunchJob": MAX_MESSAGE_BYTES,
    "/iris.cluster.ControllerService/ReportTaskState": 32 * 1024 * 1024,
    "/iris.cluster.ControllerService/ReportTaskStates": 64 * 1024 * 1024,
    "/iris.cluster.ControllerService/StoreLogs": 64 * 1024 * 1024,
    "/iris.cluster.WorkerService/RunTask": 80 * 1024 * 1024,
    "/iris.cluster.WorkerService/RunTasks": 80 * 1024 * 1024,
}

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]


class HttpServer:
    """Serves ASGI applications, each below its own path, on one port.

    Args:
        applications: By path, as `"/iris.cluster.ControllerService"`.
        listener: The socket to serve on, see `process.bind`; closed with the server.
        guard: What its connections may take; default: a `Guard` for `LARGE_REQUESTS`.
        tls: Speak TLS; None: plain HTTP.
    """

    def __init__(
        self,
        applications: dict[str, Any],
        listener: socket.socket,
        guard: Guard | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._applications = applications
        if failpoints.is_active:
            from iris.rpc.serving.failing_calls import FailingApplication

            self._applications = {path: FailingApplication(path, one) for path, one in applications.items()}
        self._socket = listener
        guard = guard or Guard(LARGE_REQUESTS)
        # What others send wrongly is told to them, and must not fill our disk.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            self._route,
            http=guard.protocol,  # type: ignore[arg-type]  # it is called, and no more
            interface="asgi3",
            proxy_headers=False,
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEPALIVE_S,
            timeout_graceful_shutdown=_CLOSE_S,
            backlog=2048,
        )
        config.load()
        config.ssl = tls  # made by us, so that its errors are in our words; uvicorn would take files
        self._server = _Server(config, guard)
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to accept; connections that came since the port was bound are waiting."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def close(self) -> None:
        """Stops accepting, and cuts what is still open after a second."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
        self._socket.close()

    async def _route(self, scope: Scope, receive: Any, send: Any) -> None:
        service = "/" + scope["path"].lstrip("/").partition("/")[0]
        application = self._applications.get(service)
        if application is not None:
            await application(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        text = "This is Iris. It speaks Connect-RPC: " + ", ".join(sorted(self._applications)) + "\n"
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: what a signal means is decided by the program that serves."""

    def __init__(self, config: uvicorn.Config, guard: Guard) -> None:
        super().__init__(config)
        self._guard = guard

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % 10 == 0:
            self._guard.tick()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
