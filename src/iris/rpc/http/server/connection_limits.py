"""Limits the memory, the time and the connections that clients may cost a server until their requests are complete.

uvicorn reads every request for as long as it takes to arrive. With these limits, the head of a request may take ten
seconds and 64 KiB, the body must arrive at a minimum rate, and each call has a maximum size. Answers have no limit,
because a follow may last for days.

The time limits count only seconds in which this server was able to read from its connections (`ConnectionLimits.tick`).
Therefore, after a pause of the machine, no request is refused because of the time that the pause took.

`LimitedProtocol` overrides methods of a class of uvicorn that is not public. `pyproject.toml` therefore caps uvicorn's
version, and `tests/rpc/test_private_parts.py` fails if a new release renames one of these methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from connectrpc.code import Code
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from iris.reasons import ErrorReason
from iris.rpc.error_details import error_as_json
from iris.system.event_loop import open_file_limit

MAX_HEAD_BYTES = 64 * 1024  # The largest size of the request line and all headers together.
MAX_HEADERS = 100
MAX_REQUEST_BYTES = 4 * 1024**2  # The largest size of a request, unless `large` has another limit.
# The largest size of a request in JSON, because reading JSON needs seven times this size in memory and blocks other
# calls.
MAX_JSON_BYTES = 16 * 1024**2
HEAD_S = 10
# A body may take this number of seconds, and one second more for each BODY_BYTES_PER_S bytes that have arrived.
BODY_S = 30
BODY_BYTES_PER_S = 16 * 1024
# The server closes an idle connection after this time. Clients of Iris and common proxies keep an idle connection for
# 60 s or less, so that usually the client closes the connection first.
KEEPALIVE_S = 75
_LEAVE_S = 2  # After a refusal, the connection stays open for this many seconds, so that the client can read the error.

_TOO_LARGE = (Code.RESOURCE_EXHAUSTED, ErrorReason.TOO_LARGE)
_CODES = {
    400: (Code.INVALID_ARGUMENT, ErrorReason.MALFORMED_REQUEST),
    408: (Code.DEADLINE_EXCEEDED, ErrorReason.DEADLINE_EXCEEDED),
    415: (Code.INVALID_ARGUMENT, ErrorReason.MALFORMED_REQUEST),
    503: (Code.UNAVAILABLE, ErrorReason.TOO_MANY_CALLS),
}


class ConnectionLimits:
    """Limits for all connections of one server.

    Args:
        large: The largest size of a request in bytes, by path. For other paths the limit is `MAX_REQUEST_BYTES`.
        max_connections: The largest number of connections. A further connection replaces the connection that has been
            idle for longest. The default is a quarter of the number of files that this process may have open.
        max_held_bytes: The largest size in bytes of all requests together that are being received.
        head_s: The time in seconds in which the head of a request must arrive.
    """

    def __init__(
        self,
        large: Mapping[str, int] | None = None,
        *,
        max_connections: int | None = None,
        max_held_bytes: int = 1024**3,
        head_s: int = HEAD_S,
    ) -> None:
        self.large = dict(large or {})
        self.max_connections = max_connections or max(16, min(10_000, open_file_limit() // 4))
        self.max_held_bytes = max_held_bytes
        self.head_s = head_s
        self.held_bytes = 0
        self.connections: set[LimitedProtocol] = set()
        # The connections that may be replaced. Such a connection has no request, or its request was answered before the
        # whole request had arrived. The first entry has been idle for longest.
        self.waiting: dict[LimitedProtocol, None] = {}

    def protocol(self, **arguments: Any) -> LimitedProtocol:
        """Return the protocol that serves one connection. uvicorn calls this method."""
        return LimitedProtocol(self, **arguments)

    def tick(self) -> None:
        """Check the time limits of all connections. The server calls this method once a second."""
        for connection in list(self.connections):
            connection.tick()


class _Phase(Enum):
    IDLE = auto()  # The phase in which the server waits for a request on this connection.
    HEAD = auto()
    BODY = auto()
    COMPLETE = auto()  # The whole request has arrived, and its answer may take any time.
    LEAVING = auto()  # The request was refused, and the rest of the request is discarded.


class LimitedProtocol(HttpToolsProtocol):
    """One connection, which uvicorn serves within `ConnectionLimits`."""

    def __init__(self, limits: ConnectionLimits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._phase = _Phase.HEAD
        # The request that is being answered, or the last answered request.
        self._running: RequestResponseCycle | None = None
        self._seconds = 0  # The number of seconds since the phase changed.
        self._requests = 0  # The number of requests that have begun.
        self._head_bytes = 0  # The number of bytes of an incomplete head.
        self._header_bytes = 0  # The number of bytes of all headers found so far.
        self._body_bytes = 0
        self._framing_bytes = 0  # The number of bytes between the chunks of a body.
        self._max_body_bytes = MAX_REQUEST_BYTES
        self._refusal: tuple[int, str] | None = None

    # Calls by asyncio.

    def connection_made(self, transport: Any) -> None:
        """Accept a connection, and close an idle one if there are too many."""
        super().connection_made(transport)
        limits = self._limits
        limits.connections.add(self)
        if len(limits.connections) > limits.max_connections:
            if limits.waiting:
                next(iter(limits.waiting)).drop()
            else:
                self._refuse(503, f"all {limits.max_connections} connections of this server are busy: try again later")
                return
        limits.waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove a closed connection."""
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes that have arrived, and count them."""
        if self._phase is _Phase.LEAVING:
            return
        if self._phase is _Phase.IDLE:
            self._enter(_Phase.HEAD)
        before, body_before, requests_before = self._phase, self._body_bytes, self._requests
        super().data_received(data)
        if self._phase is _Phase.HEAD:
            # If the head of a request begins within this data, the position of the beginning is not known. Therefore
            # the bytes of the head are counted only from the next data on.
            self._head_bytes = self._head_bytes + len(data) if self._requests == requests_before else 1
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, _HEAD_TOO_LARGE)
        elif self._phase is _Phase.BODY and before is _Phase.BODY and self._requests == requests_before:
            self._framing_bytes += len(data) - (self._body_bytes - body_before)
            if self._framing_bytes > MAX_HEAD_BYTES + 16 * self._body_bytes:
                self._refuse(400, "the request's body is nearly all framing: send it in larger chunks")

    # The parser calls the following methods. If a method raises an error, uvicorn calls `send_400_response`.

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._requests += 1
        self._enter(_Phase.HEAD)

    def on_url(self, url: bytes) -> None:
        """Check a part of the path."""
        super().on_url(url)
        if len(self.url) > MAX_HEAD_BYTES:
            self._raise(431, _HEAD_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Check a header. Headers after a body are ignored."""
        if self._phase is _Phase.BODY:
            return
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if len(self.headers) > MAX_HEADERS or self._header_bytes > MAX_HEAD_BYTES:
            self._raise(431, _HEAD_TOO_LARGE)
        if not (value.isascii() and name.isascii()) and not _is_text(name + value):
            self._raise(400, f"the value of the header {name[:100]!r} is not valid UTF-8")
        if value.startswith(b"application/grpc") and value[16:20] != b"-web" and name.lower() == b"content-type":
            self._raise(415, "this is Iris, which speaks Connect and gRPC-Web, but not gRPC")

    def on_headers_complete(self) -> None:
        """Check a complete head."""
        if self.parser.should_upgrade():
            self._raise(400, "this is Iris, which speaks HTTP/1.1 here: send neither 'upgrade' nor CONNECT")
        super().on_headers_complete()
        self._enter(_Phase.BODY)
        self._body_bytes = self._framing_bytes = 0
        path = self.scope["path"]
        self._max_body_bytes = self._limits.large.get(path, MAX_REQUEST_BYTES)
        length = 0
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"content-type" and b"json" in value:
                self._max_body_bytes = min(self._max_body_bytes, MAX_JSON_BYTES)
        if length > self._max_body_bytes:
            self._raise(429, self._too_large(length))

    def on_body(self, body: bytes) -> None:
        """Check a part of the body."""
        self._body_bytes += len(body)
        self._limits.held_bytes += len(body)
        if self._body_bytes > self._max_body_bytes:
            self._raise(429, self._too_large(self._body_bytes))
        if self._limits.held_bytes > self._limits.max_held_bytes:
            self._raise(503, "this server is receiving too much at once: try again later")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Mark a request as complete."""
        super().on_message_complete()
        self._release()
        self._enter(_Phase.IDLE if self.cycle.response_complete else _Phase.COMPLETE)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Mark a request as answered."""
        super().on_response_complete()
        if self._phase is _Phase.COMPLETE and self.cycle.response_complete:
            self._enter(_Phase.IDLE)
        elif self._phase is _Phase.BODY and self.cycle.response_complete:
            self._limits.waiting[self] = None  # The application has answered before the whole request had arrived.

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that the parser cannot read or that a check has refused."""
        self._refuse(*(self._refusal or (400, "not a valid HTTP request")))

    # Time limits.

    def tick(self) -> None:
        """Count a second of this connection, and refuse its request or close the connection if it takes too long."""
        if not self.flow.read_paused:
            self._seconds += 1
        match self._phase:
            case _Phase.HEAD if self._seconds > self._limits.head_s:
                if self._head_bytes:
                    self._refuse(408, f"the request's head has not arrived within {self._limits.head_s} s")
                else:
                    self.drop()
            case _Phase.BODY if self._seconds > BODY_S + self._body_bytes / BODY_BYTES_PER_S:
                self._refuse(
                    408,
                    f"the request's body arrives too slowly: {self._body_bytes} bytes in {self._seconds} s"
                    f" (expected {BODY_BYTES_PER_S} a second after the first {BODY_S} s)",
                )
            case _Phase.IDLE if self._seconds > KEEPALIVE_S:
                self.drop()
            case _Phase.LEAVING if self._seconds > _LEAVE_S:
                self.transport.abort()

    def drop(self) -> None:
        """Close the connection without an answer."""
        self._forget()
        self.transport.close()

    def _enter(self, phase: _Phase) -> None:
        if self._phase is _Phase.LEAVING:
            return
        self._phase, self._seconds = phase, 0
        if phase is _Phase.HEAD:
            self._head_bytes = self._header_bytes = 0
        answering = self._running is not None and not self._running.response_complete
        if phase in (_Phase.HEAD, _Phase.IDLE) and not answering:
            self._limits.waiting.setdefault(self)
        else:
            self._limits.waiting.pop(self, None)

    def _raise(self, status: int, text: str) -> None:
        self._refusal = (status, text)
        raise ValueError(text)

    def _refuse(self, status: int, text: str) -> None:
        """Answer a request with a Connect error, and ignore the rest of the request."""
        if self._phase is _Phase.LEAVING or self.transport.is_closing():
            return
        self._limits.waiting.pop(self, None)
        self._release()
        self._phase, self._seconds = _Phase.LEAVING, 0
        self._unset_keepalive_if_required()
        running = self._running
        if running is not None and not running.response_complete:
            if running.response_started or running is not self.cycle:
                # A part of the answer is already sent, so the answer cannot be replaced by an error.
                self.transport.close()
                return
            # These two lines inform the application that the client has left, and make uvicorn drop the answer.
            running.disconnected = True
            running.message_event.set()
        code, reason = _CODES.get(status, _TOO_LARGE)
        body = error_as_json(code, text, reason)
        head = [
            STATUS_LINE[status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"connection: close\r\n\r\n",
        ]
        self.transport.write(b"".join(head) + body)
        # The rest of the request is read and dropped. If bytes were left unread, the kernel would reset the connection,
        # and the client would lose the answer.
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _too_large(self, size: int) -> str:
        return (
            f"the request is too large: at least {size:,} bytes, over the limit of {self._max_body_bytes:,} for"
            f" {self.scope['path'][:200]!r}{', as JSON' if self._max_body_bytes == MAX_JSON_BYTES else ''}"
        )

    def _forget(self) -> None:
        self._limits.connections.discard(self)
        self._limits.waiting.pop(self, None)
        self._release()

    def _release(self) -> None:
        if self._phase is _Phase.BODY:
            self._limits.held_bytes -= self._body_bytes
            self._body_bytes = 0


_HEAD_TOO_LARGE = f"the request's head is over the limit of {MAX_HEAD_BYTES:,} bytes, or of {MAX_HEADERS} headers"


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
