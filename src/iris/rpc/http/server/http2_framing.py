"""Applies the rules of HTTP/2 to one connection. Received bytes become events, and calls become bytes to send.

`Http2Framing` uses no socket, event loop or clock. Only this module uses the library `h2`, and only `http2_headers.py`
uses `hpack`. To replace one of these libraries, only its module must change.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RemoteSettingsChanged, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.events import Event as LibraryEvent
from h2.exceptions import NoSuchStreamError, ProtocolError
from h2.settings import SettingCodes, Settings

from iris.rpc.http.server.connection_limits import MAX_HEAD_BYTES
from iris.rpc.http.server.http2_headers import RememberingDecoder
from iris.rpc.http.server.http2_limits import (
    CONNECTION_WINDOW,
    DATA,
    GOAWAY,
    MAX_FRAME_BYTES,
    MAX_READ_HEAD_BYTES,
    MAX_STREAMS,
    RST_STREAM,
    SETTINGS,
    STREAM_WINDOW,
    FloodError,
    FrameBudget,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD_FORMAT = struct.Struct(">BHBBI")
_FRAME_HEAD = _FRAME_HEAD_FORMAT.size  # The size of the head of a frame in bytes.
_ACK = 0x1
_FIRST_WINDOW = 65_535  # The bytes that HTTP/2 lets each side send before the first window update.

Headers = list[tuple[bytes, bytes]]

NO_ERROR = int(ErrorCodes.NO_ERROR)
PROTOCOL_ERROR = int(ErrorCodes.PROTOCOL_ERROR)
INTERNAL_ERROR = int(ErrorCodes.INTERNAL_ERROR)
REFUSED_STREAM = int(ErrorCodes.REFUSED_STREAM)
CANCEL = int(ErrorCodes.CANCEL)
ENHANCE_YOUR_CALM = int(ErrorCodes.ENHANCE_YOUR_CALM)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """An event: a request has begun. `headers` includes pseudo headers such as `:path`, and all names are in lower
    case."""

    stream_id: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class RequestBody:
    """An event: a part of a request's body has arrived. `size` is the number of bytes that the data occupies in the
    flow-control windows."""

    stream_id: int
    data: bytes
    size: int


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """An event: the whole request has arrived."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamLost:
    """An event: a request has ended before its answer, because the client has reset the request or broken a rule."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """An event: the server may send more bytes on a stream. If `stream_id` is 0, the server may send more bytes on all
    streams together."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class WindowsResized:
    """An event: the client has changed the size of the flow-control windows of all streams."""


@dataclass(frozen=True, slots=True)
class ClientLeaves:
    """An event: the client sends no new requests on this connection, but it still reads the answers to its earlier
    requests."""


@dataclass(frozen=True, slots=True)
class ConnectionBroken:
    """An event: the client has broken a rule of the connection. The output tells the client why. This is the last event
    of the connection."""

    reason: str


Event = (
    RequestHead
    | RequestBody
    | RequestEnd
    | StreamLost
    | WindowOpened
    | WindowsResized
    | ClientLeaves
    | ConnectionBroken
)


class _Connection(H2Connection):
    """A connection of the library h2 that remembers fewer closed streams. The default of 65,536 streams needs
    megabytes."""

    MAX_CLOSED_STREAMS = 8 * MAX_STREAMS


class _BrokenRuleError(Exception):
    """An error: a frame from the client breaks a rule of HTTP/2 that the library h2 does not check."""

    def __init__(self, code: ErrorCodes, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Http2Framing:
    """The server's side of one HTTP/2 connection.

    Attributes:
        budget: The object that counts the client's frames, and refuses frames beyond the limits.
        frames: How many frames have arrived. All frames of a request's head count as one.
        pending_bytes: How many bytes `take_output` would return.
    """

    def __init__(self) -> None:
        self._h2 = _Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        # The limit of streams is only announced here. The connection answers a request beyond the limit with
        # REFUSED_STREAM, whereas the library would close the connection.
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            },
        )
        self._h2.decoder = RememberingDecoder(MAX_READ_HEAD_BYTES)
        self._h2.initiate_connection()
        # The limit of streams was announced to the client. The library must not apply this limit itself, so its own
        # limit is removed.
        self._h2.local_settings = Settings(
            client=False, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW}
        )
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - _FIRST_WINDOW)
        self.budget = FrameBudget()
        self._input = bytearray()
        self._preface_missing = True
        self._settings_missing = True
        self._is_broken = False
        self.frames = 0
        self._output: list[bytes | memoryview] = []
        self.pending_bytes = 0
        self._collect()

    # Input.

    def receive(self, data: bytes) -> Iterator[Event]:
        """Parse bytes from the client, and yield the resulting events. The caller must read all events before the next
        call."""
        self._input += data
        try:
            yield from self._events()
        except FloodError as flood:
            yield self._break(ErrorCodes.ENHANCE_YOUR_CALM, str(flood))
        except _BrokenRuleError as broken:
            yield self._break(broken.code, str(broken))
        except ProtocolError as error:
            # The client learns the reason, because the library h2 has already written a GOAWAY frame.
            self._is_broken = True
            self._collect()
            yield ConnectionBroken(str(error) or type(error).__name__)
        except Exception as error:  # noqa: BLE001  # A client must not be able to provoke an exception in the loop.
            yield self._break(ErrorCodes.INTERNAL_ERROR, f"{type(error).__name__}: {error}")

    @property
    def has_partial_frame(self) -> bool:
        """Whether the preface, the settings, a frame or a request head has begun and is not complete."""
        return bool(self._input) or self.budget.is_in_head or self._settings_missing

    def _events(self) -> Iterator[Event]:
        if self._preface_missing:
            if not (self._input.startswith(PREFACE) or PREFACE.startswith(self._input)):
                raise _BrokenRuleError(
                    ErrorCodes.PROTOCOL_ERROR, "the connection does not begin with the preface of HTTP/2"
                )
            if len(self._input) < len(PREFACE):
                return
            del self._input[: len(PREFACE)]
            self._h2.receive_data(PREFACE)
            self._preface_missing = False
        position = 0
        try:
            while len(self._input) - position >= _FRAME_HEAD and not self._is_broken:
                size, kind, flags, stream_id = _parse_frame_head(self._input, position)
                if size > MAX_FRAME_BYTES:
                    raise _BrokenRuleError(
                        ErrorCodes.FRAME_SIZE_ERROR,
                        f"the client sent a frame of {size:,} bytes, over the limit of {MAX_FRAME_BYTES:,}",
                    )
                end = position + _FRAME_HEAD + size
                if len(self._input) < end:
                    break
                frame = bytes(self._input[position:end])
                position = end
                yield from self._frame_events(frame, kind, flags, size, stream_id)
        finally:
            del self._input[:position]

    def _frame_events(self, frame: bytes, kind: int, flags: int, size: int, stream_id: int) -> Iterator[Event]:
        if self._settings_missing:
            if kind != SETTINGS or flags & _ACK:
                raise _BrokenRuleError(ErrorCodes.PROTOCOL_ERROR, "the first frame of a client must be SETTINGS")
            self._settings_missing = False
        is_in_head = self.budget.is_in_head
        self.budget.received(kind, flags, size)
        self.frames += not self.budget.is_in_head
        if kind == GOAWAY and not is_in_head:
            # The library h2 does not get a GOAWAY frame from the client, because it would then refuse to send further
            # answers.
            if stream_id or size < 8:
                raise _BrokenRuleError(ErrorCodes.PROTOCOL_ERROR, "the client sent a malformed GOAWAY frame")
            yield ClientLeaves()
            return
        if kind == SETTINGS and flags & _ACK and size:
            raise _BrokenRuleError(ErrorCodes.FRAME_SIZE_ERROR, "an acknowledgement of settings must be empty")
        if kind == RST_STREAM and (stream_id > self._h2.highest_inbound_stream_id or not stream_id % 2):
            raise _BrokenRuleError(ErrorCodes.PROTOCOL_ERROR, f"the client reset the unopened stream {stream_id}")
        events = self._h2.receive_data(frame)
        self._collect()
        for event in events:
            yield from self._translated(event)

    def _translated(self, event: LibraryEvent) -> Iterator[Event]:
        match event:
            case RequestReceived():
                if event.stream_ended is not None and _announces_body(event.headers):
                    raise _BrokenRuleError(ErrorCodes.PROTOCOL_ERROR, "the body of a request is missing")
                yield RequestHead(event.stream_id, [(bytes(name), bytes(value)) for name, value in event.headers])
            case DataReceived():
                yield RequestBody(event.stream_id, event.data, event.flow_controlled_length)
            case StreamEnded():
                yield RequestEnd(event.stream_id)
            case StreamReset():
                yield StreamLost(event.stream_id)
                self.budget.stream_reset()
            case WindowUpdated():
                yield WindowOpened(event.stream_id)
            case RemoteSettingsChanged() if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                yield WindowsResized()

    def _break(self, code: int, reason: str) -> ConnectionBroken:
        self.close(reason, code)
        return ConnectionBroken(reason)

    # The methods from here on produce bytes for the client. They must not be called after the event `ConnectionBroken`,
    # nor for a stream that has ended.

    def send_head(self, stream_id: int, headers: Headers, *, is_end: bool) -> None:
        """Send the head of a response with `:status`, or the trailers of the response."""
        self._h2.send_headers(stream_id, headers, end_stream=is_end)
        self._collect()

    def window(self, stream_id: int) -> int:
        """Return how many bytes the client accepts on a stream, without the limit of the connection. The number can be
        negative.
        """
        return self._h2.streams[stream_id].outbound_flow_control_window

    @property
    def connection_window(self) -> int:
        """How many bytes the client accepts on all streams together."""
        return self._h2.outbound_flow_control_window

    def send_body(self, stream_id: int, data: memoryview, *, is_end: bool) -> None:
        """Send a part of a response's body. The part must fit into the windows of the stream and of the connection."""
        size = min(self._h2.max_outbound_frame_size, 64 * 1024)
        last = max(0, len(data) - 1) // size * size  # Where the last frame begins.
        if last:
            # The h2 library copies each frame several times, so all DATA frames of this part except the last are
            # written here without the library. In the state of the library, such a frame changes only the flow-control
            # windows of the stream and the connection, and both are updated below. This doubles the speed of a large
            # answer.
            head = _FRAME_HEAD_FORMAT.pack(size >> 16, size & 0xFFFF, DATA, 0, stream_id)
            for start in range(0, last, size):
                self._output += (head, data[start : start + size])
                self.budget.data_sent()
            self.pending_bytes += last + last // size * _FRAME_HEAD
            self._h2.streams[stream_id].outbound_flow_control_window -= last
            self._h2.outbound_flow_control_window -= last
        self._h2.send_data(stream_id, data[last:], end_stream=is_end)
        self.budget.data_sent()
        self._collect()

    def ping(self) -> None:
        """Send a ping, which the client answers."""
        self._h2.ping(bytes(8))
        self._collect()

    def reset(self, stream_id: int, code: int) -> None:
        """Reset a stream. A client whose answer is complete learns from the reset that it need not send the rest of its
        request."""
        if self._is_broken:
            return
        # The error means that the stream has ended already, so that nothing needs to be reset.
        with contextlib.suppress(NoSuchStreamError):
            self._h2.reset_stream(stream_id, code)
        self._collect()

    def consumed(self, stream_id: int, size: int) -> None:
        """Allow the client to send `size` more bytes, because the application has read or dropped this number of
        bytes."""
        if size and not self._is_broken:
            self._h2.acknowledge_received_data(size, stream_id)
            self._collect()

    def go_away(self, reason: str = "") -> None:
        """Tell the client to open no more streams. Streams that are open already continue. The library h2 has no method
        that only sends a GOAWAY frame. Its `close_connection` would also end all streams.
        """
        self._output.append(_go_away_frame(self._h2.highest_inbound_stream_id, reason))
        self.pending_bytes += len(self._output[-1])

    def close(self, reason: str, code: int) -> None:
        """End the connection and all its streams, and tell the client why."""
        if not self._is_broken:
            self._is_broken = True
            self._h2.close_connection(code, reason.encode()[:256])
            self._collect()

    def take_output(self) -> bytes:
        """Return the bytes that must be sent to the client."""
        output = b"".join(self._output)
        self._output.clear()
        self.pending_bytes = 0
        return output

    def _collect(self) -> None:
        # The library h2 discards its output in some cases. Therefore the output is fetched after each call of the
        # library.
        data = self._h2.data_to_send()
        if data:
            self._output.append(data)
            self.pending_bytes += len(data)


def _parse_frame_head(data: bytearray, position: int) -> tuple[int, int, int, int]:
    """Return the size, the type, the flags and the stream of the frame that begins at a position."""
    high, low, kind, flags, stream_id = _FRAME_HEAD_FORMAT.unpack_from(data, position)
    return (high << 16) | low, kind, flags, stream_id & 0x7FFFFFFF


def _announces_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-length" and int(value) for name, value in headers)


def _go_away_frame(last_stream_id: int, reason: str) -> bytes:
    body = struct.pack(">II", last_stream_id, NO_ERROR) + reason.encode()[:256]
    return _FRAME_HEAD_FORMAT.pack(0, len(body), GOAWAY, 0, 0) + body
