"""What a connection may take of a server before its request is complete: memory, time, and a place among others.

uvicorn reads whatever comes, for as long as it comes. Here a request's head has ten seconds and 64 KiB, its body a
rate below which nobody is waited for, and a size for each call. What the server answers has no limit: a follow may
last for days.

Time is counted in seconds in which this server was there to read (`Guard.tick`): after a pause of the machine nobody
is cut off for what lies unread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from iris.system.event_loop import open_file_limit

MAX_HEAD_BYTES = 64 * 1024  # of the request line and all headers; a token is about one of them
MAX_HEADERS = 100
MAX_REQUEST_BYTES = 4 * 1024**2  # of a call that has no larger limit of its own
MAX_JSON_BYTES = 16 * 1024**2  # reading it takes seven times its size, and all others wait meanwhile
HEAD_S = 10
# A body has this time, and a second more for each so many bytes that have come.
BODY_S = 30
BODY_BYTES_PER_S = 16 * 1024
KEEPALIVE_S = 75  # longer than our clients and common proxies (60 s), so that it is they who close
_LEAVE_S = 2  # for who is refused to read why; closing at once would take the answer away from him

_CODES = {400: "invalid_argument", 408: "deadline_exceeded", 415: "invalid_argument", 503: "unavailable"}


class Guard:
    """The connections of a server.

    Args:
        large: By path, how many bytes a request may have there; `MAX_REQUEST_BYTES` elsewhere.
        max_connections: At the same time. One more takes the place of who has been waiting for longest; default: a
            quarter of the descriptors that this process may have.
        max_held_bytes: Of all requests that are being received.
        head_s: How long the head of a request may take.
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
        self.connections: set[GuardedProtocol] = set()
        # Those whom nobody would miss: without a request, or with one that is not wanted any more. The first has been
        # waiting for longest.
        self.waiting: dict[GuardedProtocol, None] = {}

    def protocol(self, **arguments: Any) -> GuardedProtocol:
        """For uvicorn: what serves one connection."""
        return GuardedProtocol(self, **arguments)

    def tick(self) -> None:
        """A second has passed."""
        for connection in list(self.connections):
            connection.tick()


class _Phase(Enum):
    IDLE = auto()  # between two requests
    HEAD = auto()
    BODY = auto()
    COMPLETE = auto()  # the request is here, and the answer may take as long as it likes
    LEAVING = auto()  # refused; what still comes is thrown away


class GuardedProtocol(HttpToolsProtocol):
    """One connection, as uvicorn serves it, within the limits of a guard."""

    def __init__(self, guard: Guard, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._guard = guard
        self._phase = _Phase.HEAD
        self._running: RequestResponseCycle | None = None  # the request that is being answered, or was last
        self._seconds = 0  # in this phase
        self._requests = 0  # that have begun
        self._head_bytes = 0  # as far as the head is not complete
        self._header_bytes = 0  # of the headers that are
        self._body_bytes = 0
        self._framing_bytes = 0  # that came with a body and are none of it
        self._max_body_bytes = MAX_REQUEST_BYTES
        self._refusal: tuple[int, str] | None = None

    # What comes.

    def connection_made(self, transport: Any) -> None:
        """Takes the connection, in the place of another one where there are too many."""
        super().connection_made(transport)
        guard = self._guard
        guard.connections.add(self)
        if len(guard.connections) > guard.max_connections:
            if guard.waiting:
                next(iter(guard.waiting)).drop()
            else:
                self._refuse(503, f"all {guard.max_connections} connections of this server are busy: try again later")
                return
        guard.waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on, and counts."""
        if self._phase is _Phase.LEAVING:
            return
        if self._phase is _Phase.IDLE:
            self._enter(_Phase.HEAD)
        before, body_before, requests_before = self._phase, self._body_bytes, self._requests
        super().data_received(data)
        if self._phase is _Phase.HEAD:
            # Of a head that began in this data it is not known where; it is counted from the next on.
            self._head_bytes = self._head_bytes + len(data) if self._requests == requests_before else 1
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, _HEAD_TOO_LARGE)
        elif self._phase is _Phase.BODY and before is _Phase.BODY and self._requests == requests_before:
            self._framing_bytes += len(data) - (self._body_bytes - body_before)
            if self._framing_bytes > MAX_HEAD_BYTES + 16 * self._body_bytes:
                self._refuse(400, "the request's body is nearly all framing: send it in larger chunks")

    # What the parser finds. An error that is raised here comes back as `send_400_response`.

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._requests += 1
        self._enter(_Phase.HEAD)

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        super().on_url(url)
        if len(self.url) > MAX_HEAD_BYTES:
            self._raise(431, _HEAD_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those after a body are nobody's."""
        if self._phase is _Phase.BODY:
            return
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if len(self.headers) > MAX_HEADERS or self._header_bytes > MAX_HEAD_BYTES:
            self._raise(431, _HEAD_TOO_LARGE)
        if not (value.isascii() and name.isascii()) and not _is_text(name + value):
            self._raise(400, f"the value of the header {name[:100]!r} is no UTF-8")
        if value.startswith(b"application/grpc") and value[16:20] != b"-web" and name.lower() == b"content-type":
            self._raise(415, "this is Iris, which speaks Connect and gRPC-Web, and no gRPC")

    def on_headers_complete(self) -> None:
        """The head is here."""
        if self.parser.should_upgrade():
            self._raise(400, "this is Iris, which speaks HTTP/1.1 here: send no 'upgrade', and no CONNECT")
        super().on_headers_complete()
        self._enter(_Phase.BODY)
        self._body_bytes = self._framing_bytes = 0
        path = self.scope["path"]
        self._max_body_bytes = self._guard.large.get(path, MAX_REQUEST_BYTES)
        length = 0
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"content-type" and b"json" in value:
                self._max_body_bytes = min(self._max_body_bytes, MAX_JSON_BYTES)
        if length > self._max_body_bytes:
            self._raise(429, self._too_large(length))

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        self._guard.held_bytes += len(body)
        if self._body_bytes > self._max_body_bytes:
            self._raise(429, self._too_large(self._body_bytes))
        if self._guard.held_bytes > self._guard.max_held_bytes:
            self._raise(503, "this server is receiving too much at once: try again later")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here."""
        super().on_message_complete()
        self._release()
        self._enter(_Phase.IDLE if self.cycle.response_complete else _Phase.COMPLETE)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """It was answered."""
        super().on_response_complete()
        if self._phase is _Phase.COMPLETE and self.cycle.response_complete:
            self._enter(_Phase.IDLE)
        elif self._phase is _Phase.BODY and self.cycle.response_complete:
            self._guard.waiting[self] = None  # answered before it had come: what still comes is not wanted

    def send_400_response(self, msg: str) -> None:
        """The parser has given up."""
        self._refuse(*(self._refusal or (400, "no HTTP request that can be read")))

    # What time does.

    def tick(self) -> None:
        """A second has passed."""
        if not self.flow.read_paused:
            self._seconds += 1
        match self._phase:
            case _Phase.HEAD if self._seconds > self._guard.head_s:
                if self._head_bytes:
                    self._refuse(408, f"the request's head has not come within {self._guard.head_s} s")
                else:
                    self.drop()
            case _Phase.BODY if self._seconds > BODY_S + self._body_bytes / BODY_BYTES_PER_S:
                self._refuse(
                    408,
                    f"the request's body comes too slowly: {self._body_bytes} bytes in {self._seconds} s"
                    f" (expected {BODY_BYTES_PER_S} a second after the first {BODY_S} s)",
                )
            case _Phase.IDLE if self._seconds > KEEPALIVE_S:
                self.drop()
            case _Phase.LEAVING if self._seconds > _LEAVE_S:
                self.transport.abort()

    def drop(self) -> None:
        """Closes the connection: nobody waits for an answer."""
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
            self._guard.waiting.setdefault(self)
        else:
            self._guard.waiting.pop(self, None)

    def _raise(self, status: int, text: str) -> None:
        self._refusal = (status, text)
        raise ValueError(text)

    def _refuse(self, status: int, text: str) -> None:
        """Answers with an error of Connect, and reads no more."""
        if self._phase is _Phase.LEAVING or self.transport.is_closing():
            return
        self._guard.waiting.pop(self, None)
        self._release()
        self._phase, self._seconds = _Phase.LEAVING, 0
        self._unset_keepalive_if_required()
        running = self._running
        if running is not None and not running.response_complete:
            if running.response_started or running is not self.cycle:
                self.transport.close()  # an answer that is under way cannot become another one
                return
            running.disconnected = True  # its application hears that nobody listens, and what it says is dropped
            running.message_event.set()
        body = json.dumps({"code": _CODES.get(status, "resource_exhausted"), "message": text}).encode()
        head = [
            STATUS_LINE[status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"connection: close\r\n\r\n",
        ]
        self.transport.write(b"".join(head) + body)
        self.flow.resume_reading()  # what was sent has to be taken, or the answer is lost with the connection
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _too_large(self, size: int) -> str:
        return (
            f"the request is too large: {size:,} bytes and more, over the limit of {self._max_body_bytes:,} for"
            f" {self.scope['path'][:200]!r}{', as JSON' if self._max_body_bytes == MAX_JSON_BYTES else ''}"
        )

    def _forget(self) -> None:
        self._guard.connections.discard(self)
        self._guard.waiting.pop(self, None)
        self._release()

    def _release(self) -> None:
        if self._phase is _Phase.BODY:
            self._guard.held_bytes -= self._body_bytes
            self._body_bytes = 0


_HEAD_TOO_LARGE = f"the request's head is over the limit of {MAX_HEAD_BYTES:,} bytes, or of {MAX_HEADERS} headers"


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
