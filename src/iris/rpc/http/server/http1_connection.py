"""A connection that speaks HTTP/1.1, within the connection limits.

uvicorn implements the protocol. `Http1Connection` overrides methods of a class of uvicorn that is not public.
`pyproject.toml` therefore caps uvicorn's version, and `tests/rpc/test_private_parts.py` fails if a new release renames
one of these methods.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from iris.rpc.http.server.connection_limits import (
    HEAD_TOO_LARGE,
    KEEPALIVE_S,
    LEAVE_S,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_REQUEST_BYTES,
    TOO_MUCH_HELD,
    ConnectionLimits,
    body_too_large,
    body_too_slow,
    head_too_slow,
    is_body_too_slow,
    not_text,
)
from iris.rpc.http.server.refusals import refusal


class _Phase(Enum):
    IDLE = auto()  # In the phase IDLE, the server waits for a request on the connection.
    HEAD = auto()
    BODY = auto()
    # In the phase COMPLETE, the whole request has arrived, and its answer may take any time.
    COMPLETE = auto()
    # In the phase LEAVING, the request was refused, and the rest of the request is discarded.
    LEAVING = auto()


class Http1Connection(HttpToolsProtocol):
    """One connection, which uvicorn serves within `ConnectionLimits`.

    Args:
        limits: The limits, which have already admitted the connection or refused it.
        refused: Why the connection is refused. The first request is then answered with this text. An empty string if
            the connection is not refused.
        arguments: The arguments with which uvicorn creates every protocol.
    """

    def __init__(self, limits: ConnectionLimits, refused: str = "", **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._refused = refused
        self._phase = _Phase.HEAD
        # The request that is being answered, or the last answered request.
        self._running: RequestResponseCycle | None = None
        # The number of seconds since the phase of the connection changed.
        self._seconds = 0
        # The number of requests that have begun on this connection.
        self._requests = 0
        # The number of received bytes of a request head that is not complete yet.
        self._head_bytes = 0
        # The total size in bytes of the headers of the present request that were parsed so far.
        self._header_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0  # How many received bytes of a body are chunk headers and newlines.
        self._max_body_bytes = MAX_REQUEST_BYTES
        self._refusal: tuple[int, str] | None = None

    # Calls by asyncio.

    def connection_made(self, transport: Any) -> None:
        """Begin to serve the connection, or refuse it."""
        super().connection_made(transport)
        self._limits.connections.add(self)
        if self._refused:
            self.refuse(503, self._refused)
        else:
            self._limits.waiting[self] = None

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
        self._parse(data)
        if self._phase is _Phase.HEAD:
            # If the head of a request begins within this data, the position of the beginning is not known. Therefore
            # the bytes of the head are counted only from the next data on.
            self._head_bytes = self._head_bytes + len(data) if self._requests == requests_before else 1
            if self._head_bytes > MAX_HEAD_BYTES:
                self.refuse(431, HEAD_TOO_LARGE)
        elif self._phase is _Phase.BODY and before is _Phase.BODY and self._requests == requests_before:
            self._framing_bytes += len(data) - (self._body_bytes - body_before)
            if self._framing_bytes > MAX_HEAD_BYTES + 16 * self._body_bytes:
                self.refuse(400, "the request's body is nearly all framing: send it in larger chunks")

    def _parse(self, data: bytes) -> None:
        """Parse data as uvicorn does, except that an offer of HTTP/2 (`Upgrade: h2c`) is ignored.

        The parser stops after the head of a request with an offer of HTTP/2, because it expects the bytes of another
        protocol there. Therefore the head is parsed a second time, without the offer.
        """
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                data = self._head_without_offer() + data[stop.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("")
                return
            else:
                return

    # The HTTP parser calls the `on_…` methods. If one of them raises an error, uvicorn calls `send_400_response`.

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._requests += 1
        self._enter(_Phase.HEAD)

    def on_url(self, url: bytes) -> None:
        """Check a part of the path."""
        super().on_url(url)
        if len(self.url) > MAX_HEAD_BYTES:
            self._raise(431, HEAD_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Check a header. Headers after a body are ignored."""
        if self._phase is _Phase.BODY:
            return
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if len(self.headers) > MAX_HEADERS or self._header_bytes > MAX_HEAD_BYTES:
            self._raise(431, HEAD_TOO_LARGE)
        if trouble := not_text(name, value):
            self._raise(400, trouble)
        if value.startswith(b"application/grpc") and value[16:20] != b"-web" and name.lower() == b"content-type":
            self._raise(415, _GRPC_NEEDS_HTTP2)

    def on_headers_complete(self) -> None:
        """Check a complete head."""
        if self.parser.should_upgrade():
            if not self._offers_http2():
                self._raise(400, "this is Iris, which speaks HTTP here: send neither 'upgrade' nor CONNECT")
            return
        super().on_headers_complete()
        self._enter(_Phase.BODY)
        self._body_bytes = self._framing_bytes = 0
        path = self.scope["path"]
        self._max_body_bytes, length = self._limits.body_limit(path, self.headers)
        if length > self._max_body_bytes:
            self._raise(429, self._too_large(length))

    def on_body(self, body: bytes) -> None:
        """Check a part of the body."""
        self._body_bytes += len(body)
        self._limits.held_bytes += len(body)
        if self._body_bytes > self._max_body_bytes:
            self._raise(429, self._too_large(self._body_bytes))
        if self._limits.held_bytes > self._limits.max_held_bytes:
            self._raise(503, TOO_MUCH_HELD)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Mark a request as complete."""
        if self.parser.should_upgrade():
            return
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
            # The application has answered before the whole request has arrived, so the connection counts as idle.
            self._limits.waiting[self] = None

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that the parser cannot read or that a check has refused."""
        self.refuse(*(self._refusal or (400, "not a valid HTTP request")))

    # Time limits.

    def tick(self) -> None:
        """Count one more second for the time limits. If a limit has passed, refuse the request or close the
        connection."""
        if not self.flow.read_paused:
            self._seconds += 1
        match self._phase:
            case _Phase.HEAD if self._seconds > self._limits.head_s:
                if self._head_bytes:
                    self.refuse(408, head_too_slow(self._limits.head_s))
                else:
                    self.drop()
            case _Phase.BODY if is_body_too_slow(self._body_bytes, self._seconds):
                self.refuse(408, body_too_slow(self._body_bytes, self._seconds))
            case _Phase.IDLE if self._seconds > KEEPALIVE_S:
                self.drop()
            case _Phase.LEAVING if self._seconds > LEAVE_S:
                self.transport.abort()

    def drop(self) -> None:
        """Close the connection without an answer."""
        self._forget()
        self.transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

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

    def refuse(self, status: int, text: str) -> None:
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
                # A part of the answer is already sent. Therefore the connection is closed, and no error is sent.
                self.transport.close()
                return
            # `disconnected` and the event tell the application that the client has left. uvicorn then drops the answer.
            running.disconnected = True
            running.message_event.set()
            # `waiting_for_100_continue` must be False. Otherwise uvicorn would try to write "100 Continue" after the
            # answer, and would fail.
            running.waiting_for_100_continue = False
        content_type = b""
        for name, value in self.headers or ():
            if name == b"content-type" and value.startswith(b"application/grpc-web"):
                content_type = value
        status, headers, body = refusal(status, text, content_type)
        headers += self._limits.origins.answer_headers(self.headers or ())
        head = [STATUS_LINE[status], *(b"%s: %s\r\n" % header for header in headers), b"connection: close\r\n\r\n"]
        self.transport.write(b"".join(head) + body)
        # The rest of the request is read and dropped. If bytes were left unread, the kernel would reset the connection,
        # and the client would lose the answer.
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _too_large(self, size: int) -> str:
        return body_too_large(size, self._max_body_bytes, self.scope["path"])

    def _offers_http2(self) -> bool:
        """Return whether the request offers to continue in HTTP/2. RFC 9110 allows a server to ignore such an offer."""
        offers = [value for name, value in self.headers if name == b"upgrade"]
        is_http2 = any(offer.strip().lower() == b"h2c" for value in offers for offer in value.split(b","))
        return is_http2 and bool(self.parser.get_method() != b"CONNECT")

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        head = [b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() not in _OFFER_HEADERS]
                head.append(b"connection: %s\r\n" % b",".join(kept) if kept else b"")
            elif name not in _OFFER_HEADERS:
                head.append(b"%s: %s\r\n" % (name, value))
        return b"".join(head) + b"\r\n"

    def _forget(self) -> None:
        self._limits.forget(self)
        self._release()

    def _release(self) -> None:
        if self._phase is _Phase.BODY:
            self._limits.held_bytes -= self._body_bytes
            self._body_bytes = 0


_OFFER_HEADERS = (b"upgrade", b"http2-settings")
_GRPC_NEEDS_HTTP2 = (
    "gRPC needs HTTP/2, and this request arrived over HTTP/1.1: use HTTP/2 from end to end, or Connect or gRPC-Web"
)
