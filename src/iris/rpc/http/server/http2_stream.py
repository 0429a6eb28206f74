"""One request over HTTP/2, as an ASGI application sees it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from iris.rpc.http.server.cross_origin import AllowedOrigins
from iris.rpc.http.server.http2_framing import INTERNAL_ERROR, Headers
from iris.rpc.http.server.http2_output import Http2Output
from iris.rpc.http.server.refusals import refusal

Message = dict[str, Any]
Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

# These headers are removed from answers, because they describe a connection of HTTP/1.1 and have no meaning in HTTP/2.
_OF_CONNECTION = (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
_INVALID_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_INVALID_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_log = logging.getLogger("uvicorn.error")


class StreamOwner(Protocol):
    """The connection of a stream."""

    def answered(self, stream: Http2Stream) -> None:
        """End a stream whose answer was sent."""

    def reset(self, stream: Http2Stream, code: int) -> None:
        """End a stream whose answer cannot be completed."""


class Http2Stream:
    """One request and its answer. `receive` and `send` are the calls of ASGI.

    `send` returns when the connection has accepted the whole message. The connection accepts only as many bytes as the
    windows of the client allow. Therefore at most one message of the application waits in memory.

    Attributes:
        stream_id: The number of the stream in its connection.
        scope: The ASGI scope of the request.
        is_lost: Whether the client no longer reads the answer.
        is_request_complete: Whether the whole request has arrived.
        is_answered: Whether the whole answer was sent.
        body_bytes: How many bytes of the request's body have arrived.
        max_body_bytes: The largest size of the request's body.
        seconds: For how many seconds the body has been arriving, or how many seconds ago an early answer was sent.
        has_begun: Whether the application has been called.
        is_started: Whether the application has sent the head of its answer.
        has_trailers: Whether the application has announced trailers.
        task: The task in which the application runs.
        waiting: The future that ends when the stream must check again whether it may send. None if the stream does not
            wait.
    """

    def __init__(
        self, owner: StreamOwner, output: Http2Output, stream_id: int, scope: Message, max_body_bytes: int
    ) -> None:
        self._owner = owner
        self._output = output
        self.stream_id = stream_id
        self.scope = scope
        self.max_body_bytes = max_body_bytes
        self.task: asyncio.Task[None] | None = None
        self.has_begun = self.is_lost = self.is_request_complete = self.is_answered = self.is_started = False
        self.body_bytes = self.seconds = 0
        self.waiting: asyncio.Future[None] | None = None
        self._arrived = asyncio.Event()
        self._body = bytearray()
        # How many bytes of the flow-control windows are used by data that the application has not read yet.
        self._occupied = 0
        self._end_received = False
        self._continue_due = any(name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers)
        # The head of the answer, while it waits to be sent. None before the application has made it, and after it was
        # sent.
        self._head: Headers | None = None
        self._head_call: asyncio.Handle | None = None
        self.has_trailers = False
        self._trailers: Headers = []

    @property
    def headers(self) -> Headers:
        """The headers of the request."""
        headers: Headers = self.scope["headers"]
        return headers

    @property
    def content_type(self) -> bytes:
        """The content type of the request, or an empty text."""
        return next((value for name, value in self.headers if name == b"content-type"), b"")

    @property
    def has_unread_body(self) -> bool:
        """Whether a part of the body has arrived that the application has not read yet."""
        return bool(self._body)

    async def run(self, application: Application) -> None:
        """Let an application answer the request. The stream has ended when this method returns."""
        self.has_begun = True
        try:
            await application(self.scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001  # Every exception of the application is logged and answered.
            _log.error("Exception in ASGI application\n", exc_info=error)
            await self._fail()
        else:
            if not self.is_answered and not self.is_lost:
                _log.error("ASGI callable returned without completing response.")
                await self._fail()

    async def _fail(self) -> None:
        if self.is_started:
            self._owner.reset(self, INTERNAL_ERROR)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"Internal Server Error"})

    # Calls by the connection.

    def body_arrived(self, data: bytes, occupied: int) -> None:
        """Keep a part of the body until the application reads it."""
        self._body += data
        self.body_bytes += len(data)
        self._occupied += occupied
        self._arrived.set()

    def request_ended(self) -> None:
        """Note that the whole request has arrived."""
        self.is_request_complete = True
        self._arrived.set()

    def lose(self) -> None:
        """Tell the application that the client has left."""
        self.is_lost = True
        if self._head_call is not None:
            self._head_call.cancel()
        self._arrived.set()
        self.wake()

    def wake(self) -> None:
        """Wake the application if it waits for the stream's window."""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    # Calls by the application.

    async def receive(self) -> Message:
        """Return the next part of the request, or `http.disconnect` if the client has left."""
        if self._continue_due:
            self._continue_due = False
            if not self._body and not self.is_request_complete and not self.is_started and not self.is_lost:
                self._output.send_head(self, [(b":status", b"100")], is_end=False)
        while not (self.is_lost or self.is_answered or self._body or self._is_end_unread()):
            self._arrived.clear()
            await self._arrived.wait()
        if self.is_lost or self.is_answered:
            return {"type": "http.disconnect"}
        body, occupied = bytes(self._body), self._occupied
        self._body.clear()
        self._occupied = 0
        self._output.consumed(self, occupied)
        self._end_received = self.is_request_complete
        return {"type": "http.request", "body": body, "more_body": not self._end_received}

    def _is_end_unread(self) -> bool:
        return self.is_request_complete and not self._end_received

    def release(self) -> None:
        """Drop the data of the request that the application will not read. Let the client send the same number of
        further bytes."""
        self._output.consumed(self, self._occupied)
        self._body.clear()
        self._occupied = 0

    async def send(self, message: Message) -> None:
        """Send a part of the answer, and wait until the client accepts it. If the client has left, do nothing."""
        if self._output.is_paused and not self.is_lost:
            await self._output.wait_for_buffer(self)
        if self.is_lost:
            await asyncio.sleep(0)  # The application may send in a loop. This pause lets the event loop do other work.
            return
        match message["type"]:
            case "http.response.start" if not self.is_started:
                self._start(message)
            case "http.response.body" if self.is_started and not self.is_answered:
                await self._send_body(message)
            case "http.response.trailers" if self.has_trailers and not self.is_answered:
                self._trailers += _valid_headers(message.get("headers", ()))
                if not message.get("more_trailers", False):
                    self._send_pending_head()
                    if self._trailers:
                        self._output.send_head(self, self._trailers, is_end=True)
                    else:
                        await self._output.send_body(self, b"", is_end=True)
                    self._answered()
            case other:
                raise RuntimeError(f"the application sent an unexpected ASGI message: {other!r}")

    def _start(self, message: Message) -> None:
        headers = _valid_headers(message.get("headers", ()))
        self.is_started = True
        self.has_trailers = bool(message.get("trailers", False))
        self._head = [(b":status", b"%d" % message["status"]), *self._output.default_headers, *headers]
        # The head waits for the first part of the body, so that both are sent together and an empty answer needs only
        # one frame. If the application sends no body now, the head is sent alone.
        self._head_call = self._output.loop.call_soon(self._send_pending_head)

    def _send_pending_head(self, *, is_end: bool = False) -> None:
        if self._head is not None and not self.is_lost:
            head, self._head = self._head, None
            if self._head_call is not None:
                self._head_call.cancel()
            self._output.send_head(self, head, is_end=is_end)

    async def _send_body(self, message: Message) -> None:
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            body = b""
        is_end = is_last and not self.has_trailers
        if self._head is not None and is_end and not body:
            self._send_pending_head(is_end=True)
        else:
            self._send_pending_head()
            if body or is_end:
                await self._output.send_body(self, body, is_end=is_end)
        if is_end and not self.is_lost:
            self._answered()

    def _answered(self) -> None:
        self.is_answered = True
        self._arrived.set()
        self._owner.answered(self)


def refusing(status: int, text: str, origins: AllowedOrigins) -> Application:
    """Return an application that answers a request with a refusal, as `refusal` describes it. A page of an allowed
    origin can read the refusal.
    """

    async def application(scope: Message, receive: Any, send: Any) -> None:
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        answer, headers, body = refusal(status, text, content_type)
        headers += origins.answer_headers(scope["headers"])
        await send({"type": "http.response.start", "status": answer, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def _valid_headers(headers: Any) -> Headers:
    valid = []
    for raw_name, value in headers:
        name = raw_name.lower()
        if _INVALID_NAME.search(name) or _INVALID_VALUE.search(value):
            raise RuntimeError(f"the application made an answer with the invalid header {name!r}")
        if name not in _OF_CONNECTION:
            valid.append((name, value))
    return valid
