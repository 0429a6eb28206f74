"""Threads that read large parts of logs, and share their time fairly between callers.

Reading one page may take gigabytes of the log before a line is found. Such a read is divided into slices, and after
each slice the thread works for the next caller. When a reader has disconnected, its read ends.
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

# After this many seconds, a read leaves its thread to the read of another caller. A read consists of steps of about
# 1 MiB. If its caller has disconnected, the read ends after the current step.
_SLICE_S = 0.05
_THREADS = 4
_OF_CALLER = 2
# The most waiting reads of one caller. A caller needs one read for each of its open streams, because a stream reads one
# part at a time.
_WAITING_OF_CALLER = 2048
_WAITING = 20_000


@dataclass(slots=True)
class _Slice(Generic[T]):
    """The outcome of one slice of a read. It says whether the whole read is done, and holds the result of a read that
    is done."""

    done: bool
    result: T | None = None


class _Stop:
    """A flag that stops a read. The event loop sets the flag when the caller has disconnected, and the reading thread
    checks the flag.
    """

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False


class LogScans:
    """The threads with which one server reads logs.

    Args:
        threads: The number of threads that read logs.
        per_caller: How many threads one caller may use at the same time.
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
        """Run a long read slice by slice in a thread, and return its result.

        Args:
            caller: The name that identifies the caller.
            work: A generator that yields wherever it may be interrupted. The generator is closed at the end, even if
                the caller has disconnected.

        Raises:
            ResourceExhaustedError: The caller has too many waiting calls.
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
        """Run a short read, of a few megabytes at most, in a thread, and return its result.

        Raises:
            ResourceExhaustedError: The caller has too many waiting calls.
        """
        async with self.lane.turn(caller):
            result: T = await self._in_thread(_Stop(), function, *args, **options)
            return result

    async def _in_thread(self, stop: _Stop, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function in a thread. Return only after the function has returned, even if the caller has
        disconnected.
        """
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(self._threads, lambda: function(*args, **options))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            stop.is_set = True
            # No other code may use the reader while the thread is using it, so wait even if this task is cancelled
            # repeatedly.
            while not reading.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([reading])
            if not reading.cancelled():
                reading.exception()  # Reading the exception keeps asyncio from logging an error that no caller awaits.
            raise

    def close(self) -> None:
        """Shut the threads down after their current work."""
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
