"""Lets open streams continue one after the other, so that other calls are handled in between.

A change of the list of jobs causes a message on the stream of each web page that shows the list. If all these streams
continued at the same moment, then the event loop would be busy for milliseconds, and each submission and report would
wait. Therefore a stream waits for a turn before it makes and sends a message. While the controller does urgent work,
for example saves a submission, no stream gets a turn. Under constant urgent work, a stream gets its turn after a tenth
of a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

# By default, a stream waits at most this many seconds because of urgent work.
MOST_URGENT_S = 0.1
# The time in seconds after which a reader that waits for the end of urgent work looks again.
LOOK_S = 0.002
_log = logging.getLogger(__name__)


def never() -> bool:
    """Return False. If `StreamTurns` gets this function as `is_urgent`, no work counts as urgent."""
    return False


class StreamTurns:
    """Gives turns to streams, in the order in which they ask. The loop handles other events after each turn.

    Args:
        busy_s: After turns of streams have kept the event loop busy for this many seconds, no stream gets a turn for
            `pause_s` seconds.
        pause_s: The length of a pause between turns in seconds, or 0 for no pauses.
        is_urgent: A function that returns whether the controller does urgent work. A stream waits for the end of urgent
            work.
        most_urgent_s: The largest number of seconds for which a stream waits because of urgent work.
        clock: A function that returns the time in seconds.
        sleep: A function that waits for a number of seconds.
    """

    def __init__(
        self,
        busy_s: float = 0.0005,
        pause_s: float = 0.003,
        is_urgent: Callable[[], bool] = never,
        most_urgent_s: float = MOST_URGENT_S,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._busy_s = busy_s
        self._pause_s = pause_s
        self._is_urgent = is_urgent
        self._most_urgent_s = most_urgent_s
        self._clock = clock
        self._sleep = sleep
        # The waiting streams, each with the time when the stream asked for its turn.
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()
        self._giving: asyncio.Task[None] | None = None
        self._had_turn = False  # Whether a stream has had a turn since the event loop last handled other events.

    async def turn(self) -> None:
        """Wait until the calling stream may continue. If no other stream waits, and no work is urgent, return at once.
        The turn of a stream ends when the stream awaits something else.
        """
        loop = asyncio.get_running_loop()
        if self._giving is None and not self._had_turn and not self._is_urgent():
            self._had_turn = True
            loop.call_soon(self._end_turn)
            return
        granted: asyncio.Future[None] = loop.create_future()
        self._waiting.append((granted, self._clock()))
        if self._giving is None:
            self._giving = asyncio.create_task(self._give_turns())
            self._giving.add_done_callback(self._giving_ended)
        await granted

    def _giving_ended(self, giving: asyncio.Task[None]) -> None:
        """Let all waiting streams continue if the task that gives turns was cancelled or has failed. Otherwise these
        streams would wait forever.
        """
        # Clear `_giving` here, too, because a task that is cancelled before its first step executes no `finally`.
        if self._giving is giving:
            self._giving = None
        error = None if giving.cancelled() else giving.exception()
        if error is not None:
            _log.error("streams get no turns, and continue at once", exc_info=error)
        if giving.cancelled() or error is not None:
            while self._waiting:
                granted, _ = self._waiting.popleft()
                if not granted.done():
                    granted.set_result(None)

    def _end_turn(self) -> None:
        self._had_turn = False

    async def _give_turns(self) -> None:
        try:
            while self._waiting:
                if self._must_wait():
                    await self._sleep(LOOK_S)
                    continue
                end_s = self._clock() + self._busy_s
                await self._give_turn()
                while self._waiting and self._clock() < end_s and not self._must_wait():
                    await self._give_turn()
                if self._pause_s:
                    await self._sleep(self._pause_s)
        finally:
            self._giving = None

    def _must_wait(self) -> bool:
        """Return whether urgent work must go before the next stream."""
        _, asked_s = self._waiting[0]
        return self._is_urgent() and self._clock() < asked_s + self._most_urgent_s

    async def _give_turn(self) -> None:
        granted, _ = self._waiting.popleft()
        if not granted.done():  # A stream that was cancelled while it waited gets no turn.
            granted.set_result(None)
            await asyncio.sleep(0)  # The stream that has just got its turn runs during this `sleep`.
