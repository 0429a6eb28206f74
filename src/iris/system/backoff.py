"""Computes the pauses between retries, and between the starts of a process that dies repeatedly."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

_JITTER = (0.5, 1.5)  # Each pause is multiplied by a random factor, so that many clients do not retry at once.
# A stream that breaks sooner after its first message counts as a failure. Otherwise a server that drops each stream
# after the first message would get requests without growing pauses. STEADY_MS of web/src/rpc/backoff.ts is the same.
_STEADY_S = 5.0


class Backoff:
    """A series of pauses with jitter, which double after each failure up to a longest pause.

    Args:
        first_s: The first pause, in seconds.
        longest_s: The longest pause, in seconds.
        factor: A function that returns a random number between two bounds. A test passes another function.
        clock_s: A function that returns the time of the monotonic clock, in seconds.
    """

    def __init__(
        self,
        first_s: float,
        longest_s: float,
        *,
        factor: Callable[[float, float], float] = random.uniform,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._factor = factor
        self._clock_s = clock_s
        self._next_s = first_s
        self._answered_s: float | None = None  # The time of the first message since the last pause.

    @property
    def expected_s(self) -> float:
        """The next pause without jitter, in seconds, for messages."""
        return self._next_s

    def next_s(self) -> float:
        """Return the next pause in seconds. Each pause is twice as long as the pause before, up to the longest
        pause.
        """
        if self._answered_s is not None and self._clock_s() - self._answered_s >= _STEADY_S:
            self.reset()
        self._answered_s = None
        pause_s = self._next_s * self._factor(*_JITTER)
        self._next_s = min(2 * self._next_s, self._longest_s)
        return pause_s

    def limit(self, longest_s: float) -> None:
        """Shorten the next pause to at most `longest_s` seconds."""
        self._next_s = min(self._next_s, longest_s)

    def answered(self) -> None:
        """Record a message of a stream. If the stream works for 5 s after its first message, the next pause is the
        first pause again.
        """
        if self._answered_s is None:
            self._answered_s = self._clock_s()

    def reset(self) -> None:
        """Begin again with the first pause. Call this method after a successful call."""
        self._next_s = self._first_s


class RestartPauses:
    """The pauses before the restarts of a process. Each further death in a row selects the next pause of a list.

    Args:
        pauses_s: The pauses in seconds. The last pause is repeated.
        long_life_s: If a process lived for longer than this number of seconds, the list begins again.
        clock_s: A function that returns the time of the monotonic clock, in seconds.
    """

    def __init__(
        self, pauses_s: Sequence[float], long_life_s: float, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._pauses_s = pauses_s
        self._long_life_s = long_life_s
        self._clock_s = clock_s
        self._deaths = 0

    async def keep_alive(
        self, live: Callable[[], Awaitable[bool]], *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        """Run a process repeatedly, with a pause after each death.

        Args:
            live: A function that starts the process, waits for its end, and returns whether to start the process again.
            sleep: A function that waits for a number of seconds.
        """
        while True:
            started_s = self._clock_s()
            if not await live():
                return
            await sleep(self._pause_after(self._clock_s() - started_s))

    def _pause_after(self, lived_s: float) -> float:
        if lived_s > self._long_life_s:
            self._deaths = 0
        pause_s = self._pauses_s[min(self._deaths, len(self._pauses_s) - 1)]
        self._deaths += 1
        return pause_s
