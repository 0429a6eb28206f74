"""Counts the calls that a server answers, for its metrics: by method and error code, with their durations and the bytes
of logs that they carry.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from connectrpc.errors import ConnectError
from connectrpc.method import StreamType

from iris.metrics.definitions import Family, counter, gauge, histogram
from iris.metrics.tallies import CALL_SECONDS, Counts, Histograms

Message = MutableMapping[str, Any]

CALLS = counter(
    "iris_rpc_calls_total",
    "Calls that have ended, by method and error code. The code of a call without an error is ok.",
    "method",
    "code",
)
SECONDS = histogram(
    "iris_rpc_duration_seconds",
    "How long calls with one answer took, by method, from the headers of the request to the end of the answer. Calls"
    " that wait for a change on purpose are streams, and do not count.",
    "method",
)
STREAMS = gauge("iris_rpc_open_streams", "Calls that are open and stream their answers, by method.", "method")
LOG_BYTES = counter(
    "iris_log_sent_bytes_total",
    "Bytes of the answers to readers of logs, by call. The protocol around the logs counts, too.",
    "call",
)
CALL_METRICS = (CALLS, SECONDS, STREAMS, LOG_BYTES)

_LOG_CALLS = frozenset({"StreamTaskLogs", "FetchTaskLogs", "FetchLogParts"})
_OK = "ok"
_BUG = "internal"


class CallTally:
    """The tally of the calls of one server. The object is an interceptor, and must come before the interceptors that
    refuse calls, so that refused calls count.
    """

    def __init__(self) -> None:
        self._calls = Counts()
        self._seconds = Histograms(CALL_SECONDS)
        self._streams: Counter[str] = Counter()
        self._log_bytes = Counts()

    async def on_start(self, ctx: Any) -> float:
        """Count the beginning of a call, and return the time of the beginning."""
        if ctx.method.stream_type is not StreamType.UNARY:
            self._streams[ctx.method.name] += 1
        return time.perf_counter()

    async def on_end(self, began_s: float, ctx: Any, error: Exception | None) -> None:
        """Count the end of a call."""
        method = ctx.method.name
        self._calls.add(method, _code_of(error))
        # The number of a method's bugs is reported from the method's first call on, even while the number is 0.
        # Prometheus cannot see the first change of a series that begins with 1, and the alert about bugs would miss the
        # first bug.
        self._calls.add(method, _BUG, amount=0)
        if ctx.method.stream_type is StreamType.UNARY:
            self._seconds.add(time.perf_counter() - began_s, method)
        else:
            self._streams[method] -= 1

    def add_log_bytes(self, call: str, size: int) -> None:
        """Count bytes that were sent to a reader of logs."""
        self._log_bytes.add(call, amount=size)

    def families(self) -> list[Family]:
        """Return the present values."""
        return [
            CALLS.many(self._calls),
            SECONDS.distributions(self._seconds),
            STREAMS.labelled([((method,), number) for method, number in self._streams.items()]),
            LOG_BYTES.many(self._log_bytes),
        ]


def _code_of(error: Exception | None) -> str:
    if error is None:
        return _OK
    return error.code.value if isinstance(error, ConnectError) else "unknown"


class LogBytesCounter:
    """An ASGI application that counts the bytes that another application sends to readers of logs.

    Args:
        application: The application that sends the logs.
        tally: The tally of the server's calls, which gets the numbers of bytes.
        call: The name under which all bytes of the application are counted. If the name is empty, the application is a
            service with many methods. The bytes of each method that reads logs are counted under the method's name.
    """

    def __init__(self, application: Any, tally: CallTally, call: str = "") -> None:
        self.path: str = getattr(application, "path", "")
        self._application = application
        self._tally = tally
        self._call = call

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        """Answer a request."""
        call = self._call or scope["path"].rpartition("/")[2]
        if not self._call and call not in _LOG_CALLS:
            await self._application(scope, receive, send)
            return

        async def counting(message: Message) -> None:
            self._tally.add_log_bytes(call, len(message.get("body", b"")))
            await send(message)

        await self._application(scope, receive, counting)
