"""A connection that speaks HTTP/2, within the connection limits.

All code here runs on the server's loop. Nothing blocks. `Http2Framing` knows the rules of HTTP/2, `Http2Stream` is one
request, `Http2Output` sends answers, and this module connects them with the transport and with the limits.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Any, cast
from urllib.parse import unquote

from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from iris.rpc.http.server.connection_limits import (
    HEAD_TOO_LARGE,
    KEEPALIVE_S,
    LEAVE_S,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    TOO_MUCH_HELD,
    ConnectionLimits,
    body_too_large,
    body_too_slow,
    is_body_too_slow,
    not_text,
)
from iris.rpc.http.server.http2_framing import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    REFUSED_STREAM,
    ClientLeaves,
    ConnectionBroken,
    Headers,
    Http2Framing,
    RequestBody,
    RequestEnd,
    RequestHead,
    StreamLost,
    WindowOpened,
    WindowsResized,
)
from iris.rpc.http.server.http2_limits import MAX_STREAMS, FloodError
from iris.rpc.http.server.http2_output import Http2Output
from iris.rpc.http.server.http2_stream import Application, Http2Stream, Message, refusing

# If more bytes than this wait to be read by the client, the connection is closed. Answers to requests are never sent
# faster than the client reads. Only frames that the client provokes, such as answers to pings, can reach this size.
_MAX_UNREAD_BYTES = 1024**2
# If a request is answered before all of it has arrived, its client may continue to send for this many seconds.
_READ_ANSWER_S = 1


class _Phase(Enum):
    OPEN = auto()
    # In the phase CLOSING, the client must open no more streams, and the open streams continue.
    CLOSING = auto()
    # In the phase LEAVING, all streams have ended, and all input is discarded.
    LEAVING = auto()


class Http2Connection(asyncio.Protocol):
    """One connection over HTTP/2. uvicorn's server starts it, and ends it with `shutdown`.

    Args:
        limits: The limits, which have already admitted the connection or refused it.
        refused: Why the connection is refused. Each request is then answered with this text. An empty string if the
            connection is not refused.
        config: The configuration of uvicorn.
        server_state: The connections and tasks of the server, which uvicorn waits for at its end.
        app_state: The state that every ASGI scope contains.
    """

    def __init__(
        self, limits: ConnectionLimits, refused: str, config: Any, server_state: Any, app_state: dict[str, Any]
    ) -> None:
        self._limits = limits
        self._refused = refused
        self._application: Application = config.loaded_app
        self._server_state = server_state
        self._app_state = app_state
        self._scope: Message = {
            "type": "http",
            "asgi": {"version": config.asgi_version, "spec_version": "2.3"},
            "http_version": "2",
            "root_path": config.root_path,
            "extensions": {"http.response.trailers": {}},
        }
        self._framing = Http2Framing()
        self._output = Http2Output(self._framing, server_state)
        self._phase = _Phase.OPEN
        # The number of seconds since the phase changed or the connection became idle.
        self._seconds = 0
        # For how many seconds the last received frame has been incomplete.
        self._partial_s = 0
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other call
        # The requests that are not answered yet.
        self._streams: dict[int, Http2Stream] = {}
        # The number of running applications, including applications whose client has left.
        self._running = 0
        # The requests whose bodies have not arrived completely yet.
        self._receiving: dict[Http2Stream, None] = {}
        # The streams that were answered before the whole request had arrived, by stream id.
        self._answered_early: dict[int, Http2Stream] = {}

    # Calls by asyncio and uvicorn.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve the connection."""
        # A cast is needed, because the TLS transport of uvloop is not a subclass of `asyncio.Transport`.
        transport = self._transport = cast(asyncio.Transport, transport)
        self._scope |= {
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
        }
        self._server_state.connections.add(self)
        self._limits.connections.add(self)
        if not self._refused:
            self._limits.waiting[self] = None
        self._output.open(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all applications that the client has left."""
        self._limits.forget(self)
        self._server_state.connections.discard(self)
        self._phase, self._output.is_closed = _Phase.LEAVING, True
        self._lose_streams()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Handle the frames that have arrived."""
        if self._is_leaving():
            return
        frames = self._framing.frames
        for event in self._framing.receive(data):
            try:
                self._handle(event)
            except FloodError as flood:
                self._leave(str(flood), ENHANCE_YOUR_CALM)
            if self._is_leaving():
                return
        if self._framing.frames != frames:
            self._partial_s = 0
        self._output.flush()
        if self._transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self._transport.abort()

    def eof_received(self) -> None:
        """Let asyncio close the connection, because HTTP/2 cannot use a connection that is open in one direction
        only."""

    def pause_writing(self) -> None:
        """Note that the buffer of the transport is full."""
        self._output.pause()

    def resume_writing(self) -> None:
        """Let the streams send again."""
        self._output.resume()

    def shutdown(self) -> None:
        """End the connection as soon as its requests are answered. uvicorn calls this method at its own end."""
        if self._phase is not _Phase.OPEN:
            return
        self._phase = _Phase.CLOSING
        self._framing.go_away("this server is closing")
        self._output.flush()
        self._close_if_done()

    # Limits.

    def tick(self) -> None:
        """Count one more second for the time limits. If a limit has passed, end the late requests or the connection."""
        self._seconds += 1
        self._framing.budget.tick()
        if self._is_leaving():
            if self._seconds > LEAVE_S:
                self._transport.abort()
            return
        if self._refused and self._seconds > LEAVE_S:
            self._transport.abort()
            return
        if self._framing.has_partial_frame:
            self._partial_s += 1
            if self._partial_s > self._limits.head_s and not self._receiving:
                self._leave(f"a frame has not arrived within {self._limits.head_s} s", ENHANCE_YOUR_CALM)
                return
        self._reset_answered_streams()
        if not self._streams and self._seconds > KEEPALIVE_S:
            self.drop()
            return
        for stream in list(self._receiving):
            if stream.has_unread_body:
                continue
            stream.seconds += 1
            if is_body_too_slow(stream.body_bytes, stream.seconds):
                self._refuse(stream, 408, body_too_slow(stream.body_bytes, stream.seconds))

    def _reset_answered_streams(self) -> None:
        """Reset the requests that the client is still sending although they were answered more than a second ago."""
        for stream_id, stream in list(self._answered_early.items()):
            stream.seconds += 1
            if stream.seconds > _READ_ANSWER_S:
                del self._answered_early[stream_id]
                self._output.reset(stream, NO_ERROR)

    def drop(self) -> None:
        """Close this idle connection. It has no running request."""
        self._limits.forget(self)
        self._leave("this connection was idle")
        if self._output.is_paused:
            self._transport.abort()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    # Events.

    def _handle(self, event: Any) -> None:
        match event:
            case RequestHead():
                self._begin(event.stream_id, event.headers)
            case RequestBody():
                self._body_arrived(event)
            case RequestEnd():
                if self._answered_early.pop(event.stream_id, None) is not None:
                    # The server sends a ping, because curl 7.88 notices the end of a stream only when another frame
                    # arrives.
                    self._framing.ping()
                if (stream := self._streams.get(event.stream_id)) is not None:
                    self._request_complete(stream)
                    stream.request_ended()
            case StreamLost():
                self._answered_early.pop(event.stream_id, None)
                if (stream := self._streams.get(event.stream_id)) is not None:
                    self._lose(stream)
            case WindowOpened(0):
                self._output.wake_turn()
            case WindowsResized():
                for stream in self._streams.values():
                    stream.wake()
                self._output.wake_turn()
            case WindowOpened():
                if (stream := self._streams.get(event.stream_id)) is not None:
                    stream.wake()
                    self._output.wake_turn()
            case ClientLeaves():
                self._phase = _Phase.CLOSING
                self._close_if_done()
            case ConnectionBroken():
                self._leave()

    def _begin(self, stream_id: int, headers: Headers) -> None:
        # Requests of lost streams count, too, because their applications may still run for a moment.
        is_full = len(self._streams) >= MAX_STREAMS or self._running >= 2 * MAX_STREAMS
        if is_full or self._phase is not _Phase.OPEN:
            self._framing.reset(stream_id, REFUSED_STREAM)
            if is_full:
                self._framing.budget.stream_reset()
            return
        scope, trouble = _request_scope(headers)
        scope |= self._scope | {"state": self._app_state.copy()}
        limit, length = self._limits.body_limit(scope["path"], scope["headers"])
        stream = Http2Stream(self, self._output, stream_id, scope, limit)
        self._streams[stream_id] = stream
        self._receiving[stream] = None
        self._limits.waiting.pop(self, None)
        if self._refused:
            trouble = (503, self._refused)
        elif self._limits.requests >= self._limits.max_requests:
            trouble = (503, f"all {self._limits.max_requests} requests of this server are busy: try again later")
        elif length > limit and not trouble:
            trouble = (429, body_too_large(length, limit, scope["path"]))
        if trouble:
            self._request_complete(stream)
        self._start(stream, refusing(*trouble, self._limits.origins) if trouble else self._application)

    def _start(self, stream: Http2Stream, application: Application) -> None:
        self._running += 1
        self._limits.requests += 1
        task = stream.task = self._output.loop.create_task(stream.run(application))
        self._server_state.tasks.add(task)
        task.add_done_callback(lambda done: self._ended(stream, done))

    def _body_arrived(self, event: RequestBody) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream not in self._receiving:
            self._framing.consumed(event.stream_id, event.size)
            return
        stream.body_arrived(event.data, event.size)
        self._limits.held_bytes += len(event.data)
        if stream.body_bytes > stream.max_body_bytes:
            self._refuse(stream, 429, body_too_large(stream.body_bytes, stream.max_body_bytes, stream.scope["path"]))
        elif self._limits.held_bytes > self._limits.max_held_bytes:
            self._refuse(stream, 503, TOO_MUCH_HELD)

    def _request_complete(self, stream: Http2Stream) -> None:
        """Stop counting the bytes of a request's body, because the body is complete or its rest is discarded."""
        if stream in self._receiving:
            del self._receiving[stream]
            self._limits.held_bytes -= stream.body_bytes

    def _refuse(self, stream: Http2Stream, status: int, text: str) -> None:
        """Answer a request with an error instead of the application's answer."""
        is_started = stream.is_started
        self._request_complete(stream)
        stream.lose()
        stream.release()
        if is_started:
            self._streams.pop(stream.stream_id, None)
            self._output.reset(stream, CANCEL)
            return
        answer = Http2Stream(self, self._output, stream.stream_id, stream.scope, 0)
        answer.is_request_complete = stream.is_request_complete
        self._streams[stream.stream_id] = answer
        self._start(answer, refusing(status, text, self._limits.origins))

    def _lose(self, stream: Http2Stream) -> None:
        """Tell an application that the client has left, and forget the stream."""
        self._request_complete(stream)
        if self._streams.get(stream.stream_id) is stream:
            del self._streams[stream.stream_id]
        stream.lose()
        stream.release()
        self._output.wake_turn()
        if stream.task is not None and not stream.has_begun:
            stream.task.cancel()  # A request that is reset at once does not reach the application.
        self._idle_if_done()

    # Calls by the streams.

    def answered(self, stream: Http2Stream) -> None:
        """End a stream whose answer was sent."""
        if not stream.is_request_complete:
            # RFC 9113, section 8.1: a server that needs no more of a request resets the stream with NO_ERROR. Some
            # clients, such as curl 7.88, drop an answer that arrives together with the reset, and most clients stop
            # sending when they have read the answer. Therefore the reset comes later, if the client is still sending.
            if len(self._answered_early) < MAX_STREAMS:
                stream.seconds = 0
                self._answered_early[stream.stream_id] = stream
            else:
                self._output.reset(stream, NO_ERROR)
        self._finish(stream)

    def reset(self, stream: Http2Stream, code: int) -> None:
        """End a stream whose answer cannot be completed."""
        if not stream.is_lost and not stream.is_answered:
            self._output.reset(stream, code)
            stream.lose()
            self._finish(stream)

    def _finish(self, stream: Http2Stream) -> None:
        self._request_complete(stream)
        stream.release()
        if self._streams.get(stream.stream_id) is stream:
            del self._streams[stream.stream_id]
        self._idle_if_done()

    # The end.

    def _ended(self, stream: Http2Stream, task: asyncio.Task[None]) -> None:
        """Note that an application has returned."""
        self._server_state.tasks.discard(task)
        self._running -= 1
        self._limits.requests -= 1
        if task.cancelled():
            self.reset(stream, CANCEL)

    def _idle_if_done(self) -> None:
        if self._streams or self._is_leaving():
            return
        self._seconds = 0
        if self._refused:
            self._leave(self._refused)
        elif self._phase is _Phase.OPEN:
            self._limits.waiting.setdefault(self)
        self._close_if_done()

    def _close_if_done(self) -> None:
        if not self._streams and self._phase is _Phase.CLOSING:
            self._output.flush()
            self._phase, self._output.is_closed = _Phase.LEAVING, True
            self._transport.close()

    def _leave(self, reason: str = "", code: int = NO_ERROR) -> None:
        """End the connection. Send the reason to the client, unless `Http2Framing` has sent it, and discard all further
        input."""
        if self._is_leaving():
            return
        if reason:
            self._framing.close(reason, code)
        self._phase, self._output.is_closed = _Phase.LEAVING, True
        self._seconds = 0
        self._limits.waiting.pop(self, None)
        self._lose_streams()
        self._output.flush()
        # If input were left unread, the kernel would reset the connection, and the client would lose the reason.
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _is_leaving(self) -> bool:
        return self._phase is _Phase.LEAVING

    def _lose_streams(self) -> None:
        for stream in list(self._streams.values()):
            self._lose(stream)


def _request_scope(headers: Headers) -> tuple[Message, tuple[int, str] | None]:
    """Return two values. The first is the part of an ASGI scope that comes from the head of a request. The second is
    the HTTP status and the text with which to refuse the request, or None if the request is valid.
    """
    pseudo: dict[bytes, bytes] = {}
    ordinary: Headers = []
    size, trouble = 0, None
    for name, value in headers:
        size += len(name) + len(value)
        if text := not_text(name, value):
            trouble = (400, text)
        if name.startswith(b":"):
            pseudo[name] = value
        elif name != b"host" or b":authority" not in pseudo:
            ordinary.append((name, value))
    if b":authority" in pseudo:
        ordinary.insert(0, (b"host", pseudo[b":authority"]))
    target, _, query = pseudo.get(b":path", b"").partition(b"?")
    if size > MAX_HEAD_BYTES or len(ordinary) > MAX_HEADERS:
        trouble = (431, HEAD_TOO_LARGE)
    elif pseudo[b":method"] == b"CONNECT":
        trouble = (400, "this is Iris, which speaks HTTP here: do not send CONNECT")
    elif not (target.startswith(b"/") or target == b"*") or not target.isascii():
        trouble = trouble or (400, "the path of the request must begin with '/' and must be ASCII")
    path = target.decode("latin-1")
    return {
        "method": pseudo[b":method"].decode("latin-1"),
        "path": unquote(path) if "%" in path else path,
        "raw_path": target,
        "query_string": query,
        "headers": ordinary,
    }, trouble
