"""Spreads the relayed messages of all tunnels over the turns of the event loop, so that other calls are not delayed."""

from __future__ import annotations

import asyncio


class RelayPace:
    """Lets only one relayed message through in each turn of the event loop, whichever tunnel the message belongs to.

    A relayed message occupies the loop for about a millisecond. If each turn of the loop relayed a message for each
    tunnel, a hundred tunnels could occupy a turn for a hundred milliseconds. Every other call needs several turns, and
    would be slow.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until the next message may be relayed. Callers get their turns in the order of their calls."""
        async with self._lock:
            await asyncio.sleep(0)
