"""Defines the handle of a stream, with which the reading thread closes the stream and other threads end it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Protocol

# The longest time in seconds between two messages of a stream. Servers send an empty message at least every 15 s.
# Therefore a stream that is silent for longer is broken.
STREAM_SILENCE_S = 40.0
# The longest time in seconds to wait for the first message of a stream. Servers send the first message at once.
FIRST_MESSAGE_S = 10.0


class Body(Protocol):
    """The body of a stream's answer, which a `StreamHandle` closes."""

    def close(self) -> None: ...


class StreamHandle:
    """The connection of a stream.

    The reader of a stream must call `close` at the end. Without this call, Python would close the connection when it
    discards the generators around the stream. But Python ignores exceptions during that time, and would lose a Ctrl-C.
    """

    def __init__(self) -> None:
        self.aborted = False
        self._pid = os.getpid()
        self._socket: socket.socket | None = None
        self._body: Body | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Return a context manager. The next stream that the current thread opens inside its block belongs to this
        handle."""
        token = current_handle.set(self)
        try:
            yield
        finally:
            current_handle.reset(token)

    def abort(self) -> None:
        """End the open stream. If no stream is open, end the next stream as soon as it is opened. The reader gets a
        ConnectionError. Any thread may call this method.

        A child process after a fork shares the connection with its parent. A call in the child process ends no stream,
        because the parent continues to read.
        """
        self.aborted = True
        if self._socket is not None and self._pid == os.getpid():
            with suppress(OSError):  # `shutdown` may fail, because the socket may be closed already.
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. Only the reading thread may call this method."""
        body, self._body = self._body, None
        if body is not None and self._pid == os.getpid():
            body.close()

    # Called by the transport.

    def opened(self, body: Body) -> None:
        """Store the body of the answer once the answer has begun."""
        self._body = body

    def connected(self, connection: socket.socket) -> None:
        """Store the socket of the connection on which the answer arrives.

        Raises:
            ConnectionError: The reader has closed the stream.
        """
        self._socket = connection
        if self.aborted:
            raise ConnectionError("the reader has closed the stream")

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Store the socket of a connection. httpcore calls this for each event while it opens the connection. Each
        start of TLS replaces the socket. A connection through a proxy may start TLS twice.
        """
        if event.endswith((".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")):
            self.connected(info["return_value"].get_extra_info("socket"))


current_handle: ContextVar[StreamHandle | None] = ContextVar("iris_stream_handle", default=None)
