"""Limits how many pieces of expensive work run at the same time. Each caller has a queue for its work, and the queues
get their turns one after the other.

Because each caller has a queue, a caller with much work delays only its own further work. All callers get
equal shares. The state needs no lock, because only the event loop of the server uses it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

from iris.errors import ResourceExhaustedError, quoted
from iris.reasons import ErrorReason

_asked_s: ContextVar[float | None] = ContextVar("_asked_s", default=None)


def asked_for_turn_s() -> float | None:
    """Return when the work of the current asyncio task asked for the turn that it has now, in seconds of the clock of
    its lane. Return None outside of a turn.
    """
    return _asked_s.get()


class FairLane:
    """A limit on expensive work. A caller waits for a turn, does the work, and ends the turn.

    Args:
        work: The name of the work in error messages, for example "lists".
        at_once: The number of turns at the same time.
        per_caller: The number of turns that one caller may have at the same time.
        waiting_per_caller: The number of turns that one caller may wait for, or None for any number.
        waiting: The number of turns that all callers together may wait for, or None for any number.
        clock: A function that returns the time in seconds.
    """

    def __init__(
        self,
        work: str,
        *,
        at_once: int,
        per_caller: int,
        waiting_per_caller: int | None = None,
        waiting: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._work = work
        self._at_once = at_once
        self._per_caller = per_caller
        self._waiting_per_caller = waiting_per_caller
        self._waiting = waiting
        self._clock = clock
        self._running: Counter[str] = Counter()
        # For each caller, the queue of its work that waits for a turn. The caller whose queue comes first gets the next
        # turn.
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._num_waiting = 0

    @property
    def num_running(self) -> int:
        """The number of pieces of work that are running now."""
        return self._running.total()

    @property
    def num_waiting(self) -> int:
        """The number of pieces of work that wait for a turn."""
        return self._num_waiting

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncGenerator[None]:
        """Wait for a turn, and keep the turn while the block runs.

        Args:
            caller: The name of the caller that needs the turn. All callers get equal shares of the turns.

        Raises:
            ResourceExhaustedError: Too many pieces of work wait for a turn already.
        """
        before, asked_s = _asked_s.get(), self._clock()
        await self._begin(caller)
        _asked_s.set(asked_s)
        try:
            yield
        finally:
            _asked_s.set(before)
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
                # The turn is given back, because the caller was cancelled just after it got the turn.
                self._end(caller)
            raise

    def _check(self, caller: str) -> None:
        queued = len(self._queues.get(caller, ()))
        if self._waiting_per_caller is not None and queued >= self._waiting_per_caller:
            raise ResourceExhaustedError(
                f"{queued:,} calls of {quoted(caller)} wait for {self._work} already, which is the limit: make the"
                " next call after an earlier call was answered",
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
        """Give free turns to the waiting callers, one after the other."""
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
            if not granted.done():  # A caller that was cancelled gets no turn.
                self._running[caller] += 1
                granted.set_result(None)
