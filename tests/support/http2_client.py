"""A client of HTTP/2 on a bare socket. It sends what the test says, and reads frames."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Any

import hpack
from support.http2_frames import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Frame,
    frame,
    headers,
    parse,
    settings,
)


class Http2Client:
    """One connection.

    Args:
        address: The address of the server.
        settings_: The settings of the client, as pairs of a number and a value.

    Attributes:
        frames: All frames that were read, except acknowledgements of settings.
        answers: The headers of each answer, with its trailers, by the number of the stream.
        bodies: What has arrived of the body of each answer.
        ended: The streams whose answers are complete.
        resets: The error code of each stream that the server has reset.
        goodbye: The GOAWAY frame, or None.
        is_closed: Whether the server has closed the connection.
    """

    def __init__(self, address: Any, *settings_: tuple[int, int]) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self.frames: list[Frame] = []
        self.answers: dict[int, dict[bytes, bytes]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goodbye: Frame | None = None
        self.is_closed = False
        self._decoder = hpack.Decoder()
        self._rest = b""
        self.send(PREFACE + settings(*settings_))

    def __enter__(self) -> Http2Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send data, or as much as the server takes."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def ask(self, stream_id: int, *extra: tuple[str, str], path: str = "/s/count", body: bytes | None = b"") -> None:
        """Send a request. With `body=None` the request is not complete."""
        base = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)]
        data = headers(stream_id, *extra, end=body == b"", base=base)
        self.send(data + (frame(DATA, END_STREAM, stream_id, body) if body else b""))

    def read(self) -> bool:
        """Read once, and return whether the connection is still open."""
        try:
            data = self.socket.recv(262_144)
        except ConnectionResetError:
            data = b""
        if not data:
            self.is_closed = True
            return False
        frames, self._rest = parse(self._rest + data)
        for one in frames:
            self._note(one)
        return True

    def read_until_ended(self, *stream_ids: int) -> None:
        """Read until the answers of streams are complete or reset."""
        while not all(one in self.ended or one in self.resets for one in stream_ids):
            assert self.read(), f"the server closed the connection: {self.goodbye}"

    def read_to_end(self) -> None:
        """Read until the server closes the connection."""
        while self.read():
            pass

    def _note(self, one: Frame) -> None:
        if one.kind == SETTINGS and not one.flags & ACK:
            self.send(frame(SETTINGS, ACK))
        if one.kind != SETTINGS:
            self.frames.append(one)
        if one.kind == HEADERS:
            fields = self._decoder.decode(one.payload, raw=True)
            self.answers.setdefault(one.stream_id, {}).update(fields)
        if one.kind == DATA:
            self.bodies[one.stream_id] = self.bodies.get(one.stream_id, b"") + one.payload
        if one.kind in (HEADERS, DATA) and one.flags & END_STREAM:
            self.ended.add(one.stream_id)
        if one.kind == RST_STREAM:
            self.resets[one.stream_id] = one.code
        if one.kind == GOAWAY:
            self.goodbye = one
