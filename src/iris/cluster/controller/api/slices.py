"""Long work for readers, in slices of a few milliseconds: between two of them the loop does everything else it has to.

Work is a generator that yields wherever it may be interrupted. All of a server's work takes turns, so that at most one
slice runs between two looks at what else there is, however many readers ask: a heartbeat waits for a slice or two.
"""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

from iris.rpc.serving.fair_lane import FairLane
from iris.rpc.serving.heavy_calls import reading_lane
from iris.rpc.serving.steps import Steps

T = TypeVar("T")

SLICE_S = 0.004


class Slices:
    """The share of the loop that readers have.

    Args:
        slice_s: How long a slice takes, seconds; one step more where a step takes longer.

    Attributes:
        lane: Turns at work, for the callers that ask for it.
    """

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self.lane: FairLane = reading_lane()
        self._slice_s = slice_s
        self._loop_is_ours = asyncio.Lock()

    async def run(self, work: Steps[T]) -> T:
        """Do some work, and return what it gives back. The caller has a turn of the lane already, or its work is
        short."""
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
                    await asyncio.sleep(0)  # within the lock: the next slice of any work comes after the loop's turn
        finally:
            work.close()

    async def run_for(self, caller: str, work: Steps[T]) -> T:
        """Do some work when it is the caller's turn.

        Raises:
            ResourceExhaustedError: Too many turns are waited for already.
        """
        async with self.lane.turn(caller):
            return await self.run(work)
