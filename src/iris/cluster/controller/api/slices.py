"""Makes long answers in slices of about a millisecond, so that the event loop can handle other events in between.

Each answer is made by a generator, which yields wherever it may be interrupted. The loop handles other events after
each slice, even if many readers wait for answers. Therefore a heartbeat waits for one or two slices at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from iris.cluster.controller.api.stream_turns import StreamTurns, never
from iris.rpc.serving.fair_lane import FairLane
from iris.rpc.serving.heavy_calls import reading_lane
from iris.rpc.serving.steps import Steps

T = TypeVar("T")

SLICE_S = 0.001


class Slices:
    """Makes large answers in short slices, one slice after the other, so that one large answer does not delay other
    work.

    Args:
        slice_s: The length of a slice in seconds. A slice ends with the step that exceeds this time.
        is_urgent: A function that returns whether the controller does urgent work, which goes before the turns of
            streams.

    Attributes:
        lane: The fair queue in which callers wait for their turn.
        stream_turns: The object that lets streams send their messages one after the other, if one change causes
            messages on many streams.
    """

    def __init__(self, slice_s: float = SLICE_S, is_urgent: Callable[[], bool] = never) -> None:
        self.lane: FairLane = reading_lane()
        self.stream_turns = StreamTurns(is_urgent=is_urgent)
        self._slice_s = slice_s
        self._loop_is_ours = asyncio.Lock()

    async def run(self, work: Steps[T]) -> T:
        """Run a generator in slices, and return its result. Call this method only during a turn of `lane`, or for short
        work.
        """
        try:
            while True:
                async with self._loop_is_ours:
                    end = time.perf_counter() + self._slice_s
                    try:
                        next(work)
                        while time.perf_counter() < end:
                            next(work)
                    except StopIteration as done:
                        result: T = done.value
                        return result
                    # The loop handles other events during this sleep. The lock is still held, so no other slice can run
                    # before these events.
                    await asyncio.sleep(0)
        finally:
            work.close()

    async def run_for(self, caller: str, work: Steps[T]) -> T:
        """Run a generator in slices when it is the caller's turn, and return its result.

        Raises:
            ResourceExhaustedError: Too many calls are already waiting for their turn.
        """
        async with self.lane.turn(caller):
            return await self.run(work)
