"""A lane for expensive work: a few pieces at once, and a queue for each caller, served in turn.

The boring choice: a caller with many pieces of work waits behind its own pieces, never in front of another caller. The
loop that serves owns the state, so there is no lock. Think again when callers need different shares.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from iris.errors import ResourceExhaustedError, quoted
from iris.reasons import ErrorReason


class FairLane:
    """Turns at expensive work.

    Args:
        work: What the turns are for, in words, for errors: "lists".
        at_once: How many turns there are at the same time.
        per_caller: How many of these one caller may have.
        waiting_per_caller: How many turns a caller may wait for; None: any number.
        waiting: How many turns all callers together may wait for; None: any number.
    """

    def __init__(
        self,
        work: str,
        *,
        at_once: int,
        per_caller: int,
        waiting_per_caller: int | None = None,
        waiting: int | None = None,
    ) -> None:
        self._work = work
        self._at_once = at_once
        self._per_caller = per_caller
        self._waiting_per_caller = waiting_per_caller
        self._waiting = waiting
        self._running: Counter[str] = Counter()
        # By caller; the caller whose turn is next comes first.
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._num_waiting = 0

    @property
    def num_running(self) -> int:
        """How many turns there are now."""
        return self._running.total()

    @property
    def num_waiting(self) -> int:
        """How many turns are waited for now."""
        return self._num_waiting

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncGenerator[None]:
        """Wait for a turn, and have it for the time of the block.

        Args:
            caller: Who asks; turns are shared between callers.

        Raises:
            ResourceExhaustedError: Too many turns are waited for already.
        """
        await self._begin(caller)
        try:
            yield
        finally:
            self._end(caller)

    async def _begin(self, caller: str) -> None:
        if caller not in self._queues and self._is_free(caller):
            self._running[caller] += 1
            return
        self._check(caller)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(caller, deque())
        queue.append(granted)
        self._num_waiting += 1
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._leave(caller, granted)
            else:
                self._end(caller)  # the turn came in the same moment
            raise

    def _check(self, caller: str) -> None:
        queued = len(self._queues.get(caller, ()))
        if self._waiting_per_caller is not None and queued >= self._waiting_per_caller:
            raise ResourceExhaustedError(
                f"{queued:,} calls of {quoted(caller)} wait for {self._work} already, which is the limit: make the"
                " next call when an earlier one was answered",
                reason=ErrorReason.TOO_MANY_CALLS,
            )
        if self._waiting is not None and self._num_waiting >= self._waiting:
            raise ResourceExhaustedError(
                f"{self._num_waiting:,} calls wait for {self._work} already, which is the limit: try again later",
                reason=ErrorReason.TOO_MANY_CALLS,
            )

    def _is_free(self, caller: str) -> bool:
        return self._running.total() < self._at_once and self._running[caller] < self._per_caller

    def _end(self, caller: str) -> None:
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
        self._grant()

    def _leave(self, caller: str, granted: asyncio.Future[None]) -> None:
        queue = self._queues.get(caller, deque())
        if granted not in queue:
            return  # `_grant` has passed it over
        queue.remove(granted)
        self._num_waiting -= 1
        if not queue:
            del self._queues[caller]

    def _grant(self) -> None:
        """Give free turns to the callers that wait, one after the other."""
        while self._running.total() < self._at_once:
            caller = next((name for name in self._queues if self._running[name] < self._per_caller), None)
            if caller is None:
                return
            queue = self._queues[caller]
            granted = queue.popleft()
            self._num_waiting -= 1
            if queue:
                self._queues.move_to_end(caller)
            else:
                del self._queues[caller]
            if not granted.done():  # else its caller has left in this moment
                self._running[caller] += 1
                granted.set_result(None)
