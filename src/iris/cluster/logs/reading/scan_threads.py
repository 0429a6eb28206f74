"""Threads that read logs for readers: apart from all that a server does otherwise, and shared fairly between callers.

A page may look through gigabytes before it finds a line. It is read in slices: after each, the thread goes to the
caller whose turn is next. A reader that has gone gets no further slice, so nothing is read for it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from iris.rpc.serving.fair_lane import FairLane
from iris.rpc.serving.steps import Steps

T = TypeVar("T")

# Pages that are read for a caller that has left are ended after the step of 1 MiB that is being read.
_SLICE_S = 0.05
_THREADS = 4
_OF_CALLER = 2
_WAITING_OF_CALLER = 2048  # as many streams may be open, and each reads one piece after the other
_WAITING = 20_000


@dataclass(slots=True)
class _Slice(Generic[T]):
    """What came of a slice: the result, if that is there."""

    done: bool
    result: T | None = None


class _Stop:
    """Set by the loop, seen by a thread: the caller has gone."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False


class LogScans:
    """The threads of one server.

    Args:
        threads: How many there are.
        per_caller: How many of these one caller may have at a time.
    """

    def __init__(self, threads: int = _THREADS, per_caller: int = _OF_CALLER) -> None:
        self._threads = ThreadPoolExecutor(threads, "iris-logs")
        self.lane = FairLane(
            "logs",
            at_once=threads,
            per_caller=per_caller,
            waiting_per_caller=_WAITING_OF_CALLER,
            waiting=_WAITING,
        )

    async def scan(self, caller: str, work: Steps[T]) -> T:
        """Do some reading, slice by slice, and return what comes of it.

        Args:
            caller: Who asks.
            work: Yields wherever it may be interrupted. It is closed at the end, also when the caller has gone.

        Raises:
            ResourceExhaustedError: The caller has too many calls waiting.
        """
        stop = _Stop()
        try:
            while True:
                async with self.lane.turn(caller):
                    part = await self._in_thread(stop, _do_slice, work, stop)
                if part.done:
                    result: T = part.result
                    return result
        finally:
            work.close()

    async def read(self, caller: str, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Do some reading that is known to be short: a few megabytes at most.

        Raises:
            ResourceExhaustedError: The caller has too many calls waiting.
        """
        async with self.lane.turn(caller):
            result: T = await self._in_thread(_Stop(), function, *args, **options)
            return result

    async def _in_thread(self, stop: _Stop, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function in a thread. When the caller has gone, the turn lasts until the thread is free again."""
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(self._threads, lambda: function(*args, **options))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            stop.is_set = True
            while not reading.done():  # however often we are told to end: nobody else may touch what the thread reads
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([reading])
            if not reading.cancelled():
                reading.exception()  # nobody else would look at it
            raise

    def close(self) -> None:
        """End the threads when they have done what they do."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _do_slice(work: Steps[T], stop: _Stop) -> _Slice[T]:
    end = time.monotonic() + _SLICE_S
    while not stop.is_set:
        try:
            next(work)
        except StopIteration as finished:
            return _Slice(True, finished.value)
        if time.monotonic() >= end:
            break
    return _Slice(False)
