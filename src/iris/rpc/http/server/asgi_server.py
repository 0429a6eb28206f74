"""The HTTP server of controller and workers: ASGI applications on uvicorn, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, MutableMapping
from typing import Any

import uvicorn
from connectrpc.code import Code

from iris import failpoints
from iris.event_log import log_event
from iris.reasons import ErrorReason
from iris.rpc.error_details import error_as_grpc_headers, is_grpc
from iris.rpc.http.http2_support import has_http2
from iris.rpc.http.server.connection_limits import KEEPALIVE_S, ConnectionLimits
from iris.rpc.http.server.cross_origin import AllowedOrigins, CrossOriginApplication
from iris.rpc.http.server.protocol_choice import ProtocolChoice
from iris.rpc.http.server.refusals import Answer
from iris.system.event_loop import happens

# A server that closes gives its open streams this many seconds to end, and then closes their connections. The readers
# of these streams connect again.
_CLOSE_S = 1
_TICK_S = 1.0

# The largest size of a request in bytes. The largest request is a submission with its workspace.
MAX_MESSAGE_BYTES = 160 * 1024 * 1024
# The largest request in bytes, for each path whose calls carry code, results or logs. Other paths have a smaller limit.
LARGE_REQUESTS = {
    "/iris.cluster.ControllerService/LaunchJob": MAX_MESSAGE_BYTES,
    "/iris.cluster.ControllerService/ReportTaskState": 32 * 1024 * 1024,
    "/iris.cluster.ControllerService/ReportTaskStates": 64 * 1024 * 1024,
    "/iris.cluster.ControllerService/StoreLogs": 64 * 1024 * 1024,
    "/iris.cluster.WorkerService/RunTask": 80 * 1024 * 1024,
    "/iris.cluster.WorkerService/RunTasks": 80 * 1024 * 1024,
}

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]


class HttpServer:
    """An HTTP server that serves several ASGI applications on one port. Each application has a path.

    Args:
        applications: The applications by path, for example `"/iris.cluster.ControllerService"`.
        listener: The socket to serve on. The server closes the socket at its own end.
        limits: The limits of connections. The default is `ConnectionLimits` with `LARGE_REQUESTS`.
        tls: The TLS context, or None for plain HTTP.
        allow_origins: The origins whose pages may call the applications.
        files: The applications that serve one file each, by the file's whole path, for example `"/app.js"`.
    """

    def __init__(
        self,
        applications: dict[str, Any],
        listener: socket.socket,
        limits: ConnectionLimits | None = None,
        tls: ssl.SSLContext | None = None,
        allow_origins: Collection[str] = (),
        files: Mapping[str, Application] | None = None,
    ) -> None:
        self._files = dict(files or {})
        self.serve_instead(applications)
        self._socket = listener
        origins = AllowedOrigins(allow_origins)
        limits = limits or ConnectionLimits(LARGE_REQUESTS, origins=origins)
        application: Application = CrossOriginApplication(self._route, origins) if origins else self._route
        # The errors of bad requests are sent to the clients. The errors are not logged, because clients could fill the
        # disk with such errors.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
        http2 = has_http2()
        if not http2:
            log_event(_log, "server.no_http2", reason="h2 is not installed; this server speaks HTTP/1.1 only")
        config = uvicorn.Config(
            application,
            http=functools.partial(ProtocolChoice, limits, http2=http2),  # type: ignore[arg-type]  # uvicorn only calls it
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
        # The certificates are read here, because uvicorn's errors about bad certificate files are less helpful.
        config.ssl = tls
        self._server = _Server(config, limits)
        self._serving: asyncio.Task[None] | None = None

    def serve_instead(self, applications: dict[str, Any]) -> None:
        """Replace the applications that answer new calls. Calls in progress continue with the earlier applications. The
        served files stay the same.
        """
        self._applications = applications
        if failpoints.is_active:
            from iris.rpc.serving.failing_calls import with_failpoints

            self._applications = with_failpoints(applications)

    def start(self) -> None:
        """Start to accept connections, including connections that have arrived since the port was bound."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def close(self) -> None:
        """Stop accepting connections, and close the open connections after a second."""
        self._server.end()
        if self._serving is not None:
            await self._serving
            # uvicorn has cancelled the remaining requests. The server waits for them, so that it can send their errors
            # before the loop ends.
            if tasks := self._server.server_state.tasks:
                await asyncio.wait(tasks, timeout=_CLOSE_S)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        self._socket.close()

    async def _route(self, scope: Scope, receive: Any, send: Any) -> None:
        service = "/" + scope["path"].lstrip("/").partition("/")[0]
        application = self._applications.get(service) or self._files.get(scope["path"])
        if application is not None:
            await application(scope, receive, send)
            return
        status, headers, body = self._not_found(dict(scope["headers"]).get(b"content-type", b""))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _not_found(self, content_type: bytes) -> Answer:
        text = "This is Iris. It serves Connect, gRPC and gRPC-Web at " + ", ".join(sorted(self._applications))
        if is_grpc(content_type):
            reason = ErrorReason.UNIMPLEMENTED
            return 200, error_as_grpc_headers(Code.UNIMPLEMENTED, text, reason, content_type), b""
        return 404, [(b"content-type", b"text/plain; charset=utf-8")], f"{text}\n".encode()


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Return False for log records about cancelled requests, so that they are not written. A closing server cancels its
    open requests, and uvicorn would log a traceback for each of them.
    """
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


class _Server(uvicorn.Server):
    """A uvicorn server without signal handlers, because the serving program handles signals itself."""

    def __init__(self, config: uvicorn.Config, limits: ConnectionLimits) -> None:
        super().__init__(config)
        self._limits = limits
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Request the end of the server: `serve` then closes the server and returns."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Call `on_tick` once a second until `end` is called.

        The main loop of uvicorn itself wakes ten times a second, which costs an idle cluster most of its CPU time.
        """
        while not await self.on_tick(0):
            await happens(self._ending, _TICK_S)

    async def on_tick(self, counter: int) -> bool:
        """Count one more second for the connection limits, and let uvicorn update the header `Date`. The main loop
        calls this method once a second.
        """
        self._limits.tick()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
