"""Delays the first lines of an attempt until the controller knows that the attempt runs.

A task can write its first line before the worker's report has reached the controller. Without the delay, a reader could
see this line, ask for the task's status, and still get BUILDING.
"""

from __future__ import annotations

import asyncio

# If the controller does not answer, readers wait only this many seconds. The limit is short because lines matter more
# than states.
LIMIT_S = 5.0


class Announcement:
    """Tracks whether the controller knows that an attempt runs.

    Args:
        limit_s: Readers wait at most this many seconds after the start of the process for the controller's answer.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        # The latest time, on the event loop's clock, until which readers of the attempt's log wait. None before the
        # process of the attempt has started.
        self._until_s: float | None = None
        self._is_over = asyncio.Event()

    def process_started(self) -> None:
        """Record that the process has started and may write output. Readers get the output after `acknowledged` was
        called, or after `limit_s` seconds.
        """
        self._until_s = asyncio.get_running_loop().time() + self._limit_s

    def acknowledged(self) -> None:
        """Let readers get the output, because the controller knows that the attempt runs or has run."""
        self._is_over.set()

    async def wait(self) -> None:
        """Wait until readers may get the output of the process.

        Before the process has started, this method returns at once. At that time the log has only lines of the source
        `build`, which are not delayed.
        """
        if self._until_s is None or self._is_over.is_set():
            return
        try:
            async with asyncio.timeout_at(self._until_s):
                await self._is_over.wait()
        except TimeoutError:
            self._is_over.set()
