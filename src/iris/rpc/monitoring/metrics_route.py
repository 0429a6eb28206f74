"""Serves the metrics of a server to Prometheus at `GET /metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from iris.errors import IrisError
from iris.metrics.definitions import Family
from iris.metrics.exposition import TextFormat, choose_format, metric_lines
from iris.rpc.auth.authenticate import AuthenticationInterceptor
from iris.rpc.monitoring.plain_answers import Message, Send, refuse_method, send_answer, send_error

METRICS_PATH = "/metrics"
# Readers that ask within this many seconds get the same answer. Otherwise many readers could keep a server busy.
_FRESH_S = 1.0
# Writing this many lines takes a few milliseconds. After these lines, the event loop does other work.
_LINES_AT_ONCE = 1000

Collect = Callable[[], Awaitable[Sequence[Family]]]


class MetricsText:
    """The metrics of a server as text, computed when a reader asks.

    Args:
        collect: A function that returns the present values of all metrics.
        clock: A function that returns the time of the monotonic clock in seconds.
    """

    def __init__(self, collect: Collect, clock: Callable[[], float] = time.monotonic) -> None:
        self._collect = collect
        self._clock = clock
        self._collecting = asyncio.Lock()
        self._collected_s = -_FRESH_S
        self._families: Sequence[Family] = ()
        self._texts: dict[TextFormat, bytes] = {}

    async def text(self, text_format: TextFormat) -> bytes:
        """Return the metrics, which are at most a second old."""
        async with self._collecting:
            if self._clock() - self._collected_s >= _FRESH_S:
                self._families = await self._collect()
                self._texts.clear()
                self._collected_s = self._clock()
            if text_format not in self._texts:
                self._texts[text_format] = await _encode(self._families, text_format)
            return self._texts[text_format]


async def _encode(families: Sequence[Family], text_format: TextFormat) -> bytes:
    lines: list[str] = []
    for line in metric_lines(families, text_format):
        lines.append(line)
        if len(lines) % _LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
    return ("\n".join(lines) + "\n").encode()


class MetricsRoute:
    """An ASGI application that serves metrics.

    Args:
        metrics: The metrics of the server.
        authentication: The object that checks the tokens of readers. None: a reader needs no token, because only this
            machine can reach the port.
        method: The name of the call whose permissions apply to the route.
    """

    def __init__(
        self, metrics: MetricsText, authentication: AuthenticationInterceptor | None = None, method: str = ""
    ) -> None:
        self._metrics = metrics
        self._authentication = authentication
        self._method = method

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        """Answer a request."""
        method = scope["method"]
        if await refuse_method(send, method):
            return
        accept = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"accept")
        chosen = choose_format(accept)
        try:
            await self._authenticate(scope)
            body = await self._metrics.text(chosen)
        except IrisError as error:
            await send_error(send, method, error)
            return
        kind, vary = chosen.content_type.encode(), (b"vary", b"accept")
        await send_answer(send, method, body, content_type=kind, headers=[vary])

    async def _authenticate(self, scope: Message) -> None:
        if self._authentication is not None:
            value = dict(scope["headers"]).get(b"authorization")
            header = None if value is None else value.decode("latin-1")
            await self._authentication.authenticate(header, self._method)
