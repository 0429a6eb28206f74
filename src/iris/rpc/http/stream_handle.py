"""A handle on the stream that a thread reads: by which it is closed, and by which other threads end it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Protocol

# Servers beat at least every 15 s on a stream: silence for longer than two beats is a dead peer.
STREAM_SILENCE_S = 40.0
# They send the first message at once.
FIRST_MESSAGE_S = 10.0


class Body(Protocol):
    """The body of a stream's answer."""

    def close(self) -> None: ...


class StreamHandle:
    """Knows the connection of a stream.

    Closing it by a call matters, though the generators around a stream would close it as well: what is raised while a
    generator is thrown away is ignored by Python, and with it a Ctrl-C that comes in just that moment.
    """

    def __init__(self) -> None:
        self.aborted = False
        self._pid = os.getpid()
        self._socket: socket.socket | None = None
        self._body: Body | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The stream that this thread opens inside of the block is that of the handle."""
        token = current_handle.set(self)
        try:
            yield
        finally:
            current_handle.reset(token)

    def abort(self) -> None:
        """Ends what is open now, and what is opened later: who reads sees a broken connection. From any thread. In a
        child after a fork nothing is ended: the connection is the parent's too, who goes on reading."""
        self.aborted = True
        if self._socket is not None and self._pid == os.getpid():
            with suppress(OSError):  # it was closed already
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connection, in the thread that reads."""
        body, self._body = self._body, None
        if body is not None and self._pid == os.getpid():
            body.close()

    # For the transport.

    def opened(self, body: Body) -> None:
        """The answer has begun."""
        self._body = body

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """What httpcore tells while it opens a connection, to a server or to a proxy before it. Each start of TLS makes
        a new socket of the one before it."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self.aborted:
                raise ConnectionError("the reader has left")


current_handle: ContextVar[StreamHandle | None] = ContextVar("iris_stream_handle", default=None)
