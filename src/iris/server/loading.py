"""Answers calls while the controller loads its state, which can take minutes after an upgrade.

The health service answers that the server is not ready yet. All other calls get UNAVAILABLE with the progress, so
that clients and workers try again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from connectrpc.code import Code

from iris.reasons import ErrorReason
from iris.rpc.error_details import error_as_grpc_headers, error_as_json, is_grpc
from iris.rpc.http.server.asgi_server import HttpServer
from iris.rpc.monitoring.metrics_route import METRICS_PATH
from iris.rpc.monitoring.probes import probes
from iris.rpc.standard.health import HealthApplication

_QUICK_S = 1.0  # If loading takes longer than this many seconds, the server already answers calls while it loads.
_REPORTED_S = 1.0
_PATHS = (
    "/iris.cluster.ControllerService",
    "/grpc.reflection.v1.ServerReflection",
    "/grpc.reflection.v1alpha.ServerReflection",
    "/v1",
    "/session",
    METRICS_PATH,
)


class Loading:
    """The progress of a controller that is loading its state.

    Args:
        on_progress: A function that is called with the progress, for people, about every second.
    """

    def __init__(self, on_progress: Callable[[str], None]) -> None:
        self._on_progress = on_progress
        self._done = self._total = 0

    def report(self, done: int, total: int) -> None:
        """Record that `done` of `total` jobs are migrated. Any thread may call this method."""
        self._done, self._total = done, total

    @property
    def text(self) -> str:
        """The progress of loading, as a text for people."""
        if not self._total:
            return "the controller is loading its state"
        return f"the controller is migrating its state: {self._done:,} of {self._total:,} jobs"

    @asynccontextmanager
    async def serve_if_slow(self, servers: Sequence[HttpServer]) -> AsyncIterator[None]:
        """Return a context manager inside which the controller loads. The servers are started when the context ends, or
        after `_QUICK_S` seconds if loading takes longer.
        """
        started = asyncio.Event()
        serving = asyncio.create_task(self._serve_and_report(servers, started))
        try:
            yield
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        if not started.is_set():
            _start_all(servers)

    @contextmanager
    def report_from_thread(self) -> Iterator[None]:
        """Return a context manager inside which a thread reports the progress about every second. The event loop
        cannot report it, because the code inside the context blocks the loop.
        """
        is_over = threading.Event()

        def report() -> None:
            while not is_over.wait(_REPORTED_S):
                self._on_progress(self.text)

        thread = threading.Thread(target=report, name="iris-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    async def _serve_and_report(self, servers: Sequence[HttpServer], started: asyncio.Event) -> None:
        await asyncio.sleep(_QUICK_S)
        _start_all(servers)
        started.set()
        while True:
            self._on_progress(self.text)
            await asyncio.sleep(_REPORTED_S)


def loading_applications(loading: Loading) -> dict[str, Any]:
    """Return the applications to serve while the controller loads, by path."""
    health = HealthApplication(is_serving=False)
    application = _LoadingApplication(loading)
    return {health.path: health, **probes(is_ready=False)} | dict.fromkeys(_PATHS, application)


def loopback_loading_applications(loading: Loading) -> dict[str, Any]:
    """Return the applications that the port of `--metrics-port` serves while the controller loads, by path."""
    return {METRICS_PATH: _LoadingApplication(loading), **probes(is_ready=False)}


def _start_all(servers: Sequence[HttpServer]) -> None:
    for server in servers:
        server.start()


class _LoadingApplication:
    """An ASGI application that answers each call with the error UNAVAILABLE, whose text contains the progress of the
    loading."""

    def __init__(self, loading: Loading) -> None:
        self._loading = loading

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        text = f"{self._loading.text}: try again"
        content_type = dict(scope["headers"]).get(b"content-type", b"")
        reason = ErrorReason.UNAVAILABLE
        if is_grpc(content_type):
            status, body = 200, b""
            headers = error_as_grpc_headers(Code.UNAVAILABLE, text, reason, content_type)
        else:
            status, body = 503, error_as_json(Code.UNAVAILABLE, text, reason)
            headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
