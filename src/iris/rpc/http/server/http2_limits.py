"""Limits what the frames of one HTTP/2 connection may cost.

Some frames cost a server work but cost their sender nearly nothing: resets, pings, settings, window updates, empty
data, and headers in many parts. A client may send a limited number of such frames in the first second, and a limited
number in each further second. The frames with which a client reads answers or sends requests are free, because their
number grows with the useful work. The module uses no clock. The connection calls `FrameBudget.tick` once a second.
"""

from __future__ import annotations

from iris.rpc.http.server.connection_limits import MAX_HEAD_BYTES

# The largest number of requests that run on one connection at the same time. A client that follows a log uses one
# request for it.
MAX_STREAMS = 256
# How many bytes of a request's body may be on their way or wait until the application reads them. The windows grow
# again when the application has read the bytes.
STREAM_WINDOW = 1024**2
CONNECTION_WINDOW = 16 * 1024**2
# The largest frame that a client may send, in bytes. This is the default of HTTP/2.
MAX_FRAME_BYTES = 16 * 1024
# The largest size of a request's head, compressed or not, that is read to its end. A head between MAX_HEAD_BYTES and
# this size is answered with an error. A larger head closes the connection, because the state of the compression is
# lost.
MAX_READ_HEAD_BYTES = 2 * MAX_HEAD_BYTES
# The head of a request may be divided into at most this many frames.
_HEAD_FRAMES = 32
# A data frame with fewer bytes than this is a costly frame, unless it ends its request. Costly frames are limited,
# because they take the server more time than their size suggests.
_SMALL_DATA_BYTES = 256

# The number of costly frames that a client may send in the first second, and the number that it may send in each
# further second.
_FRAMES, _FRAMES_PER_S = 500, 100
_RESETS, _RESETS_PER_S = 2 * MAX_STREAMS, 50
_SETTINGS, _SETTINGS_PER_S = 32, 1
# A client may send this number of frames for each data frame that it gets, because each data frame may cause two window
# updates and a ping that measures the time to the server.
_FRAMES_FOR_DATA = 8
# A client may send this number of frames for each request.
_FRAMES_FOR_REQUEST = 8

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
_NAMES = {
    PRIORITY: "PRIORITY",
    DATA: "DATA",
    RST_STREAM: "RST_STREAM",
    SETTINGS: "SETTINGS",
    PING: "PING",
    WINDOW_UPDATE: "WINDOW_UPDATE",
    CONTINUATION: "CONTINUATION",
}


class FloodError(Exception):
    """A client has sent more frames than the limits allow. Therefore its connection must be closed."""


class FrameBudget:
    """Counts the costly frames that a client sends on one connection, and refuses further frames when there are too
    many."""

    def __init__(self) -> None:
        self._frames = _FRAMES
        self._resets = _RESETS
        self._settings = _SETTINGS
        # The numbers of bytes and of frames of the request head that is being received.
        self._head_bytes = self._head_frames = 0
        self.is_in_head = False

    def received(self, kind: int, flags: int, size: int) -> None:
        """Count a frame.

        Args:
            kind: The type of the frame.
            flags: The flags of the frame.
            size: The length of the payload in bytes.

        Raises:
            FloodError: The client has sent too many frames.
        """
        if kind == DATA:
            if size < _SMALL_DATA_BYTES and not flags & END_STREAM:
                self._charge(kind)
        elif kind == HEADERS:
            self._frames = min(_FRAMES, self._frames + _FRAMES_FOR_REQUEST)
            self._head_bytes = self._head_frames = 0
            self._count_head(flags, size)
        elif kind == CONTINUATION:
            self._charge(kind)
            self._count_head(flags, size)
        else:
            if kind == SETTINGS:
                self._settings -= 1
                if self._settings < 0:
                    raise FloodError("too many SETTINGS frames")
            self._charge(kind)

    def stream_reset(self) -> None:
        """Count a request that ended with a reset. Either the client has sent the reset, or the client's mistake has
        caused it.

        Raises:
            FloodError: The client has reset too many requests.
        """
        self._resets -= 1
        if self._resets < 0:
            raise FloodError("too many requests were reset")

    def data_sent(self) -> None:
        """Count a data frame that was sent to the client."""
        self._frames = min(_FRAMES, self._frames + _FRAMES_FOR_DATA)

    def tick(self) -> None:
        """Let a second pass, so that the client may send more frames."""
        self._frames = min(_FRAMES, self._frames + _FRAMES_PER_S)
        self._resets = min(_RESETS, self._resets + _RESETS_PER_S)
        self._settings = min(_SETTINGS, self._settings + _SETTINGS_PER_S)

    def _charge(self, kind: int) -> None:
        self._frames -= 1
        if self._frames < 0:
            raise FloodError(f"too many frames that do no work, the last of type {_NAMES.get(kind, kind)}")

    def _count_head(self, flags: int, size: int) -> None:
        self._head_bytes += size
        self._head_frames += 1
        if self._head_bytes > MAX_READ_HEAD_BYTES or self._head_frames > _HEAD_FRAMES:
            raise FloodError(
                f"the head of a request is over the limit of {MAX_HEAD_BYTES:,} bytes or {_HEAD_FRAMES} frames"
            )
        self.is_in_head = not flags & END_HEADERS
