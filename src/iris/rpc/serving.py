"""HTTP for the servers: ASGI applications on uvicorn, on the loop that is running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from typing import Any

import uvicorn

from iris.errors import FailedPreconditionError

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
        host: The address to bind to.
        port: 0 takes a free one; `address` tells which.

    Raises:
        FailedPreconditionError: The port is taken, or may not be bound.
    """

    def __init__(self, applications: dict[str, Any], host: str, port: int = 0) -> None:
        self._applications = applications
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        shown_host = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown_host}:{self.port}"
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


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Runs a server's program on uvloop where that is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def when_parent_ends(parent_pid: int, then: Callable[[], object]) -> None:
    """Calls `then` on the running loop when our parent is gone, however it ended; also when it is gone already."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        if pidfd is not None:
            loop.remove_reader(pidfd)
        then()

    def look() -> None:
        if os.getppid() != parent_pid:
            then()
        elif pidfd is None:
            loop.call_later(1.0, look)  # an old kernel, or a sandbox without the call: look every second

    try:
        pidfd: int | None = os.pidfd_open(parent_pid)
    except OSError:
        pidfd = None
    else:
        loop.add_reader(pidfd, ended)
    look()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: what a signal means is decided by the program that serves."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise FailedPreconditionError(
            f"cannot listen on {host}:{port}: {reason} (another port, or 0 for any free one)"
        ) from error
    return listener
