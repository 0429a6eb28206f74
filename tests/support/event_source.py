"""A client of server-sent events over plain sockets, which does what a browser's `EventSource` does: it connects again
after a cut, with the id of the last event, until the server answers that nothing follows.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_NOTHING_FOLLOWS = 204


@dataclass(frozen=True)
class Event:
    """An event: its type (`message` for one without), its id and its data."""

    kind: str
    event_id: str
    data: Any


class EventSource:
    """Reads events from a URL.

    Attributes:
        last_id: The id of the last complete event.
        connections: How often the source has connected.
        comments: How many comments have arrived.
        retry_ms: The time to wait before connecting again, as the server said.
        refusal: The status and body of the answer that was neither 200 nor 204, if there was one.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = urlsplit(url)
        self._token = token
        self.last_id = ""
        self.connections = 0
        self.comments = 0
        self.retry_ms = 0
        self.refusal: tuple[int, bytes] | None = None

    def events(self) -> Iterator[Event]:
        """Yields the events of all connections, until the server answers that nothing follows, or refuses."""
        while True:
            self.connections += 1
            try:
                with socket.create_connection((self._url.hostname or "", self._url.port or 80), 60) as connection:
                    reader = connection.makefile("rb")
                    connection.sendall(self._request())
                    status = int(reader.readline().split()[1])
                    while reader.readline().strip():
                        pass
                    if status == _NOTHING_FOLLOWS:
                        return
                    if status != 200:
                        self.refusal = (status, reader.read())
                        return
                    yield from self._parse(_lines(reader))
            except (OSError, IndexError, ValueError):
                pass  # cut: within the head, or within a chunk

    def _request(self) -> bytes:
        path = self._url.path + (f"?{self._url.query}" if self._url.query else "")
        head = f"GET {path} HTTP/1.1\r\nHost: {self._url.netloc}\r\nAccept: text/event-stream\r\n"
        head += f"Authorization: Bearer {self._token}\r\n"
        return (head + (f"Last-Event-ID: {self.last_id}\r\n" if self.last_id else "") + "\r\n").encode()

    def _parse(self, lines: Iterator[bytes]) -> Iterator[Event]:
        kind, event_id, data = "", self.last_id, []
        for line in lines:
            name, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            if not line:
                self.last_id = event_id
                if data:
                    yield Event(kind or "message", event_id, json.loads("\n".join(data)))
                kind, data = "", []
            elif not name:
                self.comments += 1
            elif name == "data":
                data.append(value)
            elif name == "event":
                kind = value
            elif name == "id":
                event_id = value
            elif name == "retry":
                self.retry_ms = int(value)


def _lines(reader: Any) -> Iterator[bytes]:
    """The lines of a chunked body as they arrive; a line without its end is dropped."""
    rest = b""
    while left := int(reader.readline(), 16):
        while left:
            data = reader.read1(left)
            if not data:
                return
            left -= len(data)
            *whole, rest = (rest + data).split(b"\n")
            yield from whole
        reader.readline()
