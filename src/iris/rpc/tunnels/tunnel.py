"""One side of a tunnel: the channels between one client and one attempt. The client and the worker each have such an
object.

A tunnel exchanges `ChannelPart` messages, here called parts: each part has bytes of one channel. The code that uses a
`Tunnel` takes parts from it and sends them, and gives it the parts that have arrived. Channels take turns, so that a
large transfer does not delay the other channels of the tunnel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

from iris.errors import InvalidArgumentError
from iris.rpc.cluster_pb2 import ChannelPart, ChannelReset, ChannelTarget
from iris.rpc.tunnels.budget import Budget
from iris.rpc.tunnels.channel import Channel
from iris.system.event_loop import happens

# A worker ends a tunnel if the client has not come back this many seconds after a broken stream.
ABANDONED_S = 60.0
# A function that is called when the other side has opened a channel. Its arguments are the channel and the target to
# which this side must connect it.
OnOpen = Callable[[Channel, ChannelTarget], None]
# A function that is called when the other side has reset a channel. Its arguments are the channel, the code and the
# text of the reset.
OnReset = Callable[[Channel, ChannelReset, str], None]


class Tunnel:
    """The channels of a tunnel.

    Args:
        budget: The object that limits the memory of all channels of this process.
        on_open: A function that connects the channels that the other side opens. None if the other side opens no
            channels.
        on_reset: A function that is called when the other side resets a channel.

    Attributes:
        channels: The channels that are not over, by number.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        on_open: OnOpen | None = None,
        on_reset: OnReset = lambda channel, code, text: None,
    ) -> None:
        self.channels: dict[int, Channel] = {}
        self._budget = budget
        self._on_open = on_open
        self._on_reset = on_reset
        self._last_number = 0
        self._ready: dict[int, Channel] = {}  # The channels that may have something to send, in the order of turns.
        self._work = asyncio.Event()

    def open(self, target: ChannelTarget) -> Channel:
        """Open a channel to a target on the other side, and return the channel."""
        self._last_number += 1
        return self._add(self._last_number, target)

    async def wait_for_work(self, within_s: float) -> bool:
        """Wait for at most `within_s` seconds until `take` may return parts. Return False if the time has passed."""
        return await happens(self._work, within_s)

    def wake(self) -> None:
        """End the wait of `wait_for_work`."""
        self._work.set()

    def take(self, max_bytes: int) -> list[ChannelPart]:
        """Return parts to send with about `max_bytes` bytes of data together. The channels take turns."""
        parts: list[ChannelPart] = []
        left = max_bytes
        while self._ready and left > 0:
            number, channel = next(iter(self._ready.items()))
            del self._ready[number]
            part = channel.take(left)
            if part is not None:
                parts.append(part)
                # A part without data counts as some bytes, because a message could otherwise contain any number of such
                # parts.
                left -= len(part.data) + 64
            if channel.is_ready:
                self._ready[number] = channel
            else:
                self._drop_if_over(channel)
        if not self._ready:
            self._work.clear()
        return parts

    def confirm(self, parts: Iterable[ChannelPart]) -> None:
        """Record that the other side of the tunnel has answered the call with these parts, so that it has the parts."""
        for part in parts:
            channel = self.channels.get(part.channel)
            if channel is not None:
                channel.confirm(part)
                self._drop_if_over(channel)

    def apply(self, parts: Iterable[ChannelPart]) -> list[int]:
        """Apply received parts. Return the numbers of the channels whose parts were refused, so that the sender must
        send them again. Parts of unknown channels are ignored, because such a channel is over.

        Raises:
            InvalidArgumentError: A part contradicts an earlier part.
        """
        again: dict[int, None] = {}
        for part in parts:
            channel = self.channels.get(part.channel) or self._opened_by_peer(part)
            if channel is None:
                continue
            if not channel.accept(part, may_refuse=self._on_open is not None):
                again[part.channel] = None
            if part.reset:
                self._on_reset(channel, part.reset, part.reset_text)
            self._drop_if_over(channel)
        return list(again)

    def send_again(self, numbers: Iterable[int]) -> None:
        """Prepare to send the parts of these channels again after a pause, because the other side has refused them."""
        for number in numbers:
            if number in self.channels:
                self.channels[number].send_again()

    def rewind(self) -> None:
        """Send again everything that may be lost, because a stream or a call broke.

        The channels get their turns in the order of their numbers, because the other side ignores the target of a
        channel if it has already got the target of a channel with a higher number.
        """
        self._ready.clear()
        for channel in list(self.channels.values()):
            channel.rewind()

    def drop_missing(self, known: Collection[int]) -> list[Channel]:
        """Drop the channels that the other side does not have any more, and return the dropped channels that were not
        complete."""
        lost = []
        for number, channel in list(self.channels.items()):
            if channel.has_arrived and number not in known:
                if not channel.is_complete_here:
                    lost.append(channel)
                self._drop(channel)
        return lost

    def drop_all(self) -> None:
        """Drop all channels. Connections of incomplete channels are closed with a reset."""
        for channel in list(self.channels.values()):
            self._drop(channel)

    def _opened_by_peer(self, part: ChannelPart) -> Channel | None:
        if self._on_open is None or not part.HasField("target") or part.channel <= self._last_number:
            return None
        self._last_number = part.channel
        channel = self._add(part.channel, None)
        self._on_open(channel, part.target)
        return channel

    def _add(self, number: int, target: ChannelTarget | None) -> Channel:
        channel = self.channels[number] = Channel(number, self._budget, self._mark_ready, target)
        self._mark_ready(channel)
        return channel

    def _mark_ready(self, channel: Channel) -> None:
        if channel.number in self.channels:
            self._ready[channel.number] = channel
            self._work.set()

    def _drop_if_over(self, channel: Channel) -> None:
        if channel.is_over:
            self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        self.channels.pop(channel.number, None)
        self._ready.pop(channel.number, None)
        channel.discard()


def check_tunnel_id(tunnel_id: str) -> str:
    """Return the id of a tunnel, if it has 8 to 64 letters, digits, `-` or `_`.

    Raises:
        InvalidArgumentError: The id is not the id of a tunnel.
    """
    if 8 <= len(tunnel_id) <= 64 and all(one.isascii() and (one.isalnum() or one in "-_") for one in tunnel_id):
        return tunnel_id
    raise InvalidArgumentError(
        f"tunnel_id must have 8 to 64 letters, digits, '-' or '_', for example a random hexadecimal number, got"
        f" {tunnel_id!r}"
    )
