"""Sends the answers of the streams of one HTTP/2 connection, no faster than the client reads them.

The answer to a request over HTTP/2 is sent in these steps:
1. A stream waits until the client accepts bytes on this stream (the window of the stream).
2. The streams of the connection take turns. In one turn, a stream sends at most TURN_BYTES. Before the turn begins, the
   stream waits until the client accepts bytes on the connection (the window of the connection), and until the transport
   has sent enough of its buffer.
3. The output of one pass of the loop is written with one call, or earlier if it is larger than TURN_BYTES.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from iris.rpc.http.server.http2_framing import Headers, Http2Framing

TURN_BYTES = 64 * 1024


class WaitingStream(Protocol):
    """The attributes of an HTTP/2 stream that the code for sending answers uses.

    Attributes:
        stream_id: The number of the stream in its connection.
        is_lost: Whether the client no longer reads the answer.
        waiting: The future that ends when the stream must check again whether it may send. None if the stream does not
            wait.
    """

    stream_id: int
    is_lost: bool
    waiting: asyncio.Future[None] | None


class Http2Output:
    """The output of one connection.

    Args:
        framing: The object that applies the rules of HTTP/2 to this connection.
        server_state: The state of uvicorn's server, which has the headers of every answer.

    Attributes:
        loop: The loop of the server.
        is_paused: Whether the buffer of the transport is full.
        is_closed: Whether the connection has ended, so that nothing is sent any more.
    """

    def __init__(self, framing: Http2Framing, server_state: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_paused = self.is_closed = False
        self._framing = framing
        self._server_state = server_state
        self._transport: asyncio.Transport | None = None
        self._turn = asyncio.Lock()
        self._turn_waiter: asyncio.Future[None] | None = None
        self._buffer_waiters: set[asyncio.Future[None]] = set()
        self._flush_call: asyncio.Handle | None = None

    def open(self, transport: asyncio.Transport) -> None:
        """Begin to write to a transport."""
        self._transport = transport
        self.flush()

    @property
    def default_headers(self) -> Headers:
        """The headers of every answer, for example `date`."""
        headers: Headers = self._server_state.default_headers
        return headers

    def consumed(self, stream: WaitingStream, size: int) -> None:
        """Allow the client to send `size` more bytes, because the same number of bytes of the request was read or
        discarded."""
        if not self.is_closed:
            self._framing.consumed(stream.stream_id, size)
            self._schedule_flush()

    def send_head(self, stream: WaitingStream, headers: Headers, *, is_end: bool) -> None:
        """Send the head of an answer, or its trailers."""
        self._framing.send_head(stream.stream_id, headers, is_end=is_end)
        self._schedule_flush()

    def reset(self, stream: WaitingStream, code: int) -> None:
        """Reset a stream. A client whose answer is complete learns from the reset that it need not send the rest of its
        request."""
        self._framing.reset(stream.stream_id, code)
        self._schedule_flush()

    async def send_body(self, stream: WaitingStream, body: bytes, *, is_end: bool) -> None:
        """Send a part of an answer's body, and wait until all of it is within the windows of the client."""
        # A mutable part is copied, because the application could change the part while it waits for the next flush.
        rest = memoryview(body if isinstance(body, bytes) else bytes(body))
        while True:
            while rest and not stream.is_lost and self._framing.window(stream.stream_id) <= 0:
                await self._wait(stream)
            async with self._turn:
                while not stream.is_lost and (self.is_paused or (rest and self._framing.connection_window <= 0)):
                    await self._wait_in_turn()
                if stream.is_lost:
                    return
                room = min(self._framing.window(stream.stream_id), self._framing.connection_window, TURN_BYTES)
                if rest and room <= 0:
                    continue  # The flow-control window has become smaller meanwhile, so wait again.
                part, rest = rest[:room], rest[room:]
                self._framing.send_body(stream.stream_id, part, is_end=is_end and not rest)
                self._schedule_flush()
            if not rest:
                return
            # Without this pause, a client that reads fast would keep the event loop busy, and other connections would
            # wait.
            await asyncio.sleep(0)

    async def wait_for_buffer(self, stream: WaitingStream) -> None:
        """Wait until the transport accepts more output, or until the client of the stream has left."""
        while self.is_paused and not stream.is_lost:
            await self._wait(stream, self._buffer_waiters)

    def pause(self) -> None:
        """Note that the buffer of the transport is full."""
        self.is_paused = True

    def resume(self) -> None:
        """Let the streams send again."""
        self.is_paused = False
        for waiter in self._buffer_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.wake_turn()

    def wake_turn(self) -> None:
        """Wake the stream that has the turn, so that it checks again whether it may send."""
        if self._turn_waiter is not None and not self._turn_waiter.done():
            self._turn_waiter.set_result(None)

    def flush(self) -> None:
        """Write the output to the transport."""
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        output = self._framing.take_output()
        if output and self._transport is not None and not self._transport.is_closing():
            self._transport.write(output)

    def _schedule_flush(self) -> None:
        if self._framing.pending_bytes >= TURN_BYTES:
            self.flush()
        elif self._flush_call is None and self._framing.pending_bytes:
            self._flush_call = self.loop.call_soon(self.flush)

    async def _wait(self, stream: WaitingStream, waiters: set[asyncio.Future[None]] | None = None) -> None:
        """Wait until the stream is woken. If `waiters` is given, completing the futures in this set also wakes the
        stream."""
        waiter = stream.waiting = self.loop.create_future()
        if waiters is not None:
            waiters.add(waiter)
        try:
            await waiter
        finally:
            stream.waiting = None
            if waiters is not None:
                waiters.discard(waiter)

    async def _wait_in_turn(self) -> None:
        self._turn_waiter = self.loop.create_future()
        try:
            await self._turn_waiter
        finally:
            self._turn_waiter = None
