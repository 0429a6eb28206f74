"""Joins one channel of a tunnel to a connection on this side, for example to a socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import ChannelPart, ChannelReset
from iris.rpc.tunnels.budget import Budget
from iris.rpc.tunnels.connections import ByteReader, ByteWriter
from iris.rpc.tunnels.directions import Incoming, Outgoing

# The buffer limit of the stream from which a channel reads. An asyncio stream stores up to twice this number of bytes.
BUFFERED_BYTES = 64 * 1024
_READ_BYTES = 256 * 1024
# The largest number of bytes in one part, a message of the tunnel. Parts are small, so that the channels of a tunnel
# can take turns.
MAX_PART_BYTES = 64 * 1024
# After passing on this many bytes, a channel sends an acknowledgement at once.
_ACKNOWLEDGED_BYTES = 1024**2
# If fewer bytes were passed on, the acknowledgement is sent after this many seconds, unless another part carries it
# before.
_ACKNOWLEDGED_S = 0.05
# The pause in seconds before a message of the tunnel is sent again that the other side has refused.
_AGAIN_S = 0.1


class Channel:
    """A channel, and the two tasks that copy between the channel and a connection.

    Args:
        number: The number of the channel in its tunnel.
        budget: The object that limits the memory of all channels of this process.
        on_ready: A function that is called when the channel has something to send, or has ended.
        target: Where the other side connects the channel, or None if the other side has opened the channel.

    Attributes:
        target: Where the other side connects the channel, or None if the other side has opened the channel.
        active_s: When the channel last carried bytes or a message of the tunnel, in seconds of the loop's clock.
    """

    def __init__(
        self,
        number: int,
        budget: Budget,
        on_ready: Callable[[Channel], None],
        target: cluster_pb2.ChannelTarget | None = None,
    ) -> None:
        self.number = number
        self.target = target
        self._budget = budget
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self.active_s = self._loop.time()
        self._outgoing, self._incoming = Outgoing(), Incoming()
        self._queue: deque[bytes] = deque()  # Received bytes that were not written to the connection yet.
        self._queued = 0
        # The received position that this side has acknowledged in the parts that `take` has returned.
        self._told = 0
        # The received position that this side has acknowledged in parts that have certainly arrived at the other side.
        self._confirmed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._paused_until_s = 0.0
        # Why this side has reset the channel: the reason as a `ChannelReset` value, and as text for people. None if
        # this side has not reset the channel.
        self._reset: tuple[ChannelReset, str] | None = None
        self._has_peer_reset = False
        # Whether `take` has returned the part that names the channel's target, and whether this part has certainly
        # arrived at the other side.
        self._target_taken = self._target_arrived = target is None
        # Whether `take` has returned the part that resets the channel, and whether this part has certainly arrived.
        self._reset_taken = self._reset_arrived = False
        # This event is set when bytes have arrived, or when the channel has room for more bytes.
        self._changed = asyncio.Event()
        self._is_discarded = False
        self._writer: ByteWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # The connection on this side.

    def attach(self, reader: ByteReader, writer: ByteWriter) -> None:
        """Begin to copy between the channel and a connection. The channel closes the connection at its end."""
        self._writer = writer
        connection = writer.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self.was_reset or self._is_discarded:
            self._abort()
            return
        self._tasks = [
            asyncio.create_task(self._copy(partial(self._copy_out, reader))),
            asyncio.create_task(self._copy(partial(self._copy_in, writer))),
        ]

    async def _copy(self, copy: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await copy()
        except (OSError, RuntimeError) as error:
            # asyncio raises OSError for a broken connection, and uvloop raises RuntimeError for a closed one.
            why = error if isinstance(error, OSError) else "it is already closed"
            self.reset(cluster_pb2.CHANNEL_RESET_BROKEN, f"the connection was lost: {why}")
            self._abort()

    async def _copy_out(self, reader: ByteReader) -> None:
        """Read from the connection, and send the bytes to the other side, until the connection ends. After this side
        has reset the channel, read only once more, because a connection that never pauses would delay the reset
        forever.
        """
        is_last = False
        while not is_last:
            while self._outgoing.held >= self._budget.window:
                self._changed.clear()
                await self._changed.wait()
            is_last = self.was_reset
            data = await reader.read(min(_READ_BYTES, self._budget.window))
            self.active_s = self._loop.time()
            if not data:
                break
            self._outgoing.add(data)
            self._budget.add(len(data))
            self._on_ready(self)
        self._outgoing.finish()
        self._on_ready(self)

    async def _copy_in(self, writer: ByteWriter) -> None:
        """Write the received bytes to the connection, until the other side ends its direction of the channel."""
        while True:
            while not self._queue and not self._incoming.has_end and not self._has_peer_reset:
                self._changed.clear()
                await self._changed.wait()
            if not self._queue:
                break
            data = self._queue.popleft()
            writer.write(data)
            await writer.drain()
            self._queued -= len(data)
            self._budget.add(-len(data))
            self._incoming.passed_on += len(data)
            self._acknowledge_soon()
        if self._has_peer_reset:
            self._abort()
            self._on_ready(self)
            return
        # `write_eof` fails if the program at the other end has closed the connection already.
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()
        self._incoming.passed_on += 1
        self._acknowledge_soon()

    def _acknowledge_soon(self) -> None:
        if self._incoming.passed_on - self._told >= _ACKNOWLEDGED_BYTES:
            self._acknowledge_now()
        elif self._timer is None:
            self._timer = self._loop.call_later(_ACKNOWLEDGED_S, self._acknowledge_now)

    def _acknowledge_now(self) -> None:
        self._stop_timer()
        if self._told < self._incoming.passed_on:
            self._on_ready(self)

    # The other side.

    def accept(self, part: ChannelPart, *, may_refuse: bool) -> bool:
        """Apply a part, a message of the tunnel with bytes of this channel, that the other side has sent. Return False
        if the part must be sent again, because there is no room or because an earlier part is missing.

        Args:
            part: The part that has arrived.
            may_refuse: Whether a part may be refused because there is no room.

        Raises:
            InvalidArgumentError: The part contradicts an earlier part.
        """
        self.active_s = self._loop.time()
        freed = self._outgoing.acknowledge(part.received)
        if freed:
            self._budget.add(-freed)
        self._changed.set()
        if part.reset:
            self._has_peer_reset = True
            self._on_ready(self)
        if self.was_reset:
            return True
        data, end = part.data, part.end
        fits = not may_refuse or self._queued + len(data) <= self._budget.window
        if not fits:
            if self._queued:
                return False
            # A part that is larger than the whole window is never accepted completely. Only its beginning is accepted,
            # so that the channel still makes progress.
            data, end = data[: self._budget.window], False
        new = self._incoming.accept(part.position, data, end=end)
        if new is None:
            return False
        if new:
            self._queue.append(new)
            self._queued += len(new)
            self._budget.add(len(new))
        return fits

    @property
    def is_ready(self) -> bool:
        """Whether `take` would return a part."""
        if self._has_peer_reset or self._loop.time() < self._paused_until_s:
            return False
        if not self._target_taken or not self._outgoing.is_all_taken:
            return True
        if self._reset is not None:
            return not self._reset_taken
        return self._told < self._incoming.passed_on and self._timer is None

    def take(self, max_bytes: int) -> ChannelPart | None:
        """Return the next part to send, or None if there is nothing to send.

        Args:
            max_bytes: The largest number of bytes of data.
        """
        if not self.is_ready:
            return None
        part = ChannelPart(channel=self.number, received=self._incoming.passed_on)
        if self.target is not None and not self._target_taken:
            part.target.CopyFrom(self.target)
            self._target_taken = True
        piece = self._outgoing.take(min(max_bytes, MAX_PART_BYTES))
        if piece is not None:
            part.position, part.data, part.end = piece
        if self._reset is not None and self._outgoing.is_all_taken:
            part.reset, part.reset_text = self._reset
            self._reset_taken = True
        self._told = self._incoming.passed_on
        self._stop_timer()
        return part

    def confirm(self, part: ChannelPart) -> None:
        """Record that a part which `take` returned has certainly arrived."""
        self._confirmed = max(self._confirmed, part.received)
        self._target_arrived = self._target_arrived or part.HasField("target")
        self._reset_arrived = self._reset_arrived or bool(part.reset)

    def rewind(self) -> None:
        """Prepare to send again everything that may be lost, because a call or a stream broke."""
        self._outgoing.rewind()
        self._told = 0
        self._target_taken, self._reset_taken = self._target_arrived, self._reset_arrived
        self._on_ready(self)

    def send_again(self) -> None:
        """Prepare to send a part again after a pause, because the other side has refused it."""
        self._paused_until_s = self._loop.time() + _AGAIN_S
        self._outgoing.rewind()
        self._loop.call_later(_AGAIN_S * 1.1, self._on_ready, self)

    # The end.

    @property
    def has_arrived(self) -> bool:
        """Whether the part that opens the channel has certainly arrived at the other side."""
        return self._target_arrived

    @property
    def is_over(self) -> bool:
        """Whether the channel needs no more parts: both directions are complete, or one side has reset the channel."""
        if self._has_peer_reset:
            return not self._queue or self._writer is None or self._reset is not None
        if self._reset is not None:
            return self._reset_arrived
        return self._outgoing.is_done and self._incoming.is_done and self._confirmed == self._incoming.passed_on

    @property
    def is_complete_here(self) -> bool:
        """Whether this side has sent all its bytes, and has passed on all received bytes. Only acknowledgements may
        still be missing."""
        return self._incoming.is_done and self._outgoing.has_end and self._outgoing.is_all_taken

    @property
    def was_reset(self) -> bool:
        """Whether one of the sides has reset the channel."""
        return self._has_peer_reset or self._reset is not None

    @property
    def has_delivered_end(self) -> bool:
        """Whether the connection on this side has ended, and the other side has passed on all bytes that came from
        it."""
        return self._outgoing.is_done

    @property
    def is_reading(self) -> bool:
        """Whether the connection on this side has not ended yet."""
        return not self._outgoing.has_end and not self.was_reset

    def reset(self, code: ChannelReset, text: str) -> None:
        """End the channel in both directions. Bytes that were already read from the connection are sent first."""
        if not self.was_reset:
            self._reset = code, text
            self._on_ready(self)

    def discard(self) -> None:
        """Close the connection of the channel, and free the memory of its bytes. If the channel is incomplete, reset
        the connection instead."""
        if self.was_reset or not (self._incoming.is_done and self._outgoing.has_end):
            self._abort()
        elif self._writer is not None:
            self._writer.close()
        self._is_discarded = True
        self._stop()

    def _abort(self) -> None:
        if self._writer is not None:
            reset_connection(self._writer)

    def _stop(self) -> None:
        self._stop_timer()
        for task in self._tasks:
            task.cancel()
        self._budget.add(-self._queued - self._outgoing.held)
        self._queue.clear()
        self._queued = 0
        self._outgoing = Outgoing()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def reset_connection(writer: ByteWriter) -> None:
    """Close a connection with a reset, so that its program does not mistake the end for an orderly one."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        # uvloop raises ValueError if the connection is already closed.
        with contextlib.suppress(OSError, ValueError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
