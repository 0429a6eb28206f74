"""Frames of HTTP/2, written and read by hand, so that a test can send frames that no library would send."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM = 11
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 5, 6

REQUEST = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/s/count")]


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"", size: int | None = None) -> bytes:
    """Return a frame. `size` replaces the true length of the payload."""
    length = len(payload) if size is None else size
    return struct.pack(">BHBBI", length >> 16, length & 0xFFFF, kind, flags, stream_id) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream_id: int, size: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", size))


def reset(stream_id: int, code: int = CANCEL) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, struct.pack(">I", code))


def block(headers: Iterable[tuple[Any, Any]]) -> bytes:
    """Return headers in HPACK, without any use of the dynamic table, so that blocks are independent of each other."""
    fields = [hpack.NeverIndexedHeaderTuple(name, value) for name, value in headers]
    return hpack.Encoder().encode(fields, huffman=False)


def headers(stream_id: int = 1, *extra: tuple[Any, Any], end: bool = True, base: Any = REQUEST) -> bytes:
    """Return the HEADERS frame of a request."""
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(HEADERS, flags, stream_id, block([*base, *extra]))


@dataclass(frozen=True)
class Frame:
    """A frame that was received."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of a GOAWAY or RST_STREAM frame."""
        at = 4 if self.kind == GOAWAY else 0
        return int.from_bytes(self.payload[at : at + 4], "big")

    @property
    def text(self) -> str:
        """The text of a GOAWAY frame."""
        return self.payload[8:].decode()


def parse(data: bytes) -> tuple[list[Frame], bytes]:
    """Return the complete frames in data, and the rest."""
    frames = []
    while len(data) >= 9:
        high, low, kind, flags, stream_id = struct.unpack(">BHBBI", data[:9])
        size = (high << 16) | low
        if len(data) < 9 + size:
            break
        frames.append(Frame(kind, flags, stream_id, data[9 : 9 + size]))
        data = data[9 + size :]
    return frames, data


def corrupted(rng: random.Random) -> bytes:
    """Return a conversation with mistakes: changed bytes, lost parts, repeated parts and random frames."""
    parts = [
        headers(1, end=False),
        frame(DATA, END_STREAM, 1, rng.randbytes(20)),
        headers(3, ("a", "b" * rng.randrange(300))),
        frame(rng.randrange(12), rng.randrange(256), rng.randrange(8), rng.randbytes(rng.randrange(20))),
        settings((rng.randrange(8), rng.randrange(2**32))),
        window_update(rng.randrange(6), rng.randrange(2**31)),
        reset(rng.randrange(6)),
        frame(HEADERS, rng.randrange(256), rng.randrange(8), rng.randbytes(rng.randrange(60))),
        frame(CONTINUATION, rng.randrange(256), rng.randrange(8), rng.randbytes(rng.randrange(60))),
    ]
    data = bytearray(b"".join(rng.choices(parts, k=rng.randrange(1, 20))))
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randrange(1, 10)]
            case 2:
                data[at:at] = data[max(0, at - 30) : at]
        data = data or bytearray(1)
    return bytes(data)
