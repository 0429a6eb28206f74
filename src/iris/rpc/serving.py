"""HTTP for the servers: ASGI applications on uvicorn, on the loop that is running."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import uvicorn

# Longer than the keep-alive of our clients and of common proxies (60 s), so that it is they who close idle connections.
_KEEPALIVE_S = 75
# How long open streams may go on when the server closes; they are cut then, and their readers connect again.
_CLOSE_S = 1
# The largest message that is taken: a submission with its workspace.
MAX_MESSAGE_BYTES = 160 * 1024 * 1024

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]


class HttpServer:
    """Serves ASGI applications, each below its own path, on one port.

    Args:
        applications: By path, as `"/iris.cluster.ControllerService"`.
        listener: The socket to serve on, see `process.bind`; closed with the server.
        tls: Speak TLS; None: plain HTTP.
    """

    def __init__(
        self, applications: dict[str, Any], listener: socket.socket, tls: ssl.SSLContext | None = None
    ) -> None:
        self._applications = applications
        self._socket = listener
        config = uvicorn.Config(
            self._route,
            interface="asgi3",
            proxy_headers=False,
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=_KEEPALIVE_S,
            timeout_graceful_shutdown=_CLOSE_S,
            backlog=2048,
        )
        config.load()
        config.ssl = tls  # made by us, so that its errors are in our words; uvicorn would take files
        self._server = _Server(config)
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

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
