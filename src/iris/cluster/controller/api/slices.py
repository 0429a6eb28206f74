"""Makes long answers in slices of half a millisecond, so that the event loop can handle other events in between.

Each answer is made by a generator, which yields wherever it may be interrupted. The loop handles other events after
each slice, even if many readers wait for answers. Therefore a heartbeat waits for one or two slices at most.

A submission needs the event loop about ten times. If a slice could run each time, the submission would take ten slices
longer. Therefore no slice runs while the controller does urgent work, for example saves a submission. This rule has a
time limit, because urgent work may never end: a reader waits a tenth of a second at most, and a web page a second. The
time in which a reader waits for its turn counts. Otherwise each reader would wait a tenth of a second during its turn,
and hundreds of readers would wait for each other.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from iris.cluster.controller.api.stream_turns import LOOK_S, StreamTurns, never
from iris.rpc.serving.fair_lane import FairLane, asked_for_turn_s
from iris.rpc.serving.heavy_calls import reading_lane
from iris.rpc.serving.steps import Steps

T = TypeVar("T")

SLICE_S = 0.0005
# For this many seconds after a reader has asked for an answer, urgent work goes before the slices of the answer.
_READER_PATIENCE_S = 0.1
# For this many seconds after work in the background has started, urgent work goes before the slices of this work. Work
# in the background updates what web pages show.
BACKGROUND_PATIENCE_S = 1.0
# The pause in seconds after each slice of work in the background. Without pauses, calls that need the event loop many
# times, for example submissions, would have a slice in between each time.
_BACKGROUND_PAUSE_S = 0.003


class RunsSteps(Protocol):
    """Runs work that is divided into steps. `Slices` and `BackgroundSlices` are such objects."""

    async def run(self, work: Steps[T]) -> T:
        """Run a generator, and return its result."""
        ...


def uncounted(seconds: float) -> None:
    """Ignore the length of a slice."""


class Slices:
    """Makes large answers in short slices, one slice after the other, so that one large answer does not delay other
    work.

    Args:
        slice_s: The length of a slice in seconds. A slice ends with the step that exceeds this time.
        is_urgent: A function that returns whether the controller does urgent work, which goes before slices and before
            the turns of streams.
        clock: A function that returns the time in seconds.
        sleep: A function that waits for a number of seconds.

    Attributes:
        lane: The fair queue in which callers wait for their turn.
        clock: A function that returns the time in seconds.
        stream_turns: The object that lets streams send their messages one after the other, if one change causes
            messages on many streams.
    """

    def __init__(
        self,
        slice_s: float = SLICE_S,
        is_urgent: Callable[[], bool] = never,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.lane: FairLane = reading_lane(clock)
        self.stream_turns = StreamTurns(is_urgent=is_urgent)
        self._slice_s = slice_s
        self._is_urgent = is_urgent
        self.clock = clock
        self._sleep = sleep
        self._loop_is_ours = asyncio.Lock()
        self._background_turn = asyncio.Lock()

    async def run(self, work: Steps[T], tally: Callable[[float], None] = uncounted) -> T:
        """Run a generator in slices, and return its result. Call this method only during a turn of `lane`, or for short
        work. `tally` gets the length of each slice, in seconds.
        """
        asked_s = asked_for_turn_s()
        begin_s = self.clock() if asked_s is None else asked_s
        return await self.run_until_impatient(work, begin_s + _READER_PATIENCE_S, tally=tally)

    def in_background(self) -> BackgroundSlices:
        """Return an object that makes what web pages show, in slices with pauses."""
        return BackgroundSlices(self, self._background_turn)

    async def run_until_impatient(
        self,
        work: Steps[T],
        patient_until_s: float,
        pauses_until_s: float = -math.inf,
        tally: Callable[[float], None] = uncounted,
    ) -> T:
        """Run a generator in slices, and return its result.

        Args:
            work: The generator, which yields after each step of the work.
            patient_until_s: The time of `clock` until which urgent work goes before the slices.
            pauses_until_s: The time of `clock` until which a pause follows each slice.
            tally: A function that gets the length of each slice, in seconds.
        """
        try:
            while True:
                while self._must_wait(patient_until_s):
                    await self._sleep(LOOK_S)
                async with self._loop_is_ours:
                    if self._must_wait(patient_until_s):
                        continue  # The urgent work has begun while this method waited for the lock.
                    begin = self.clock()
                    end = begin + self._slice_s
                    try:
                        next(work)
                        while self.clock() < end:
                            next(work)
                    except StopIteration as done:
                        result: T = done.value
                        return result
                    finally:
                        tally(self.clock() - begin)
                    # During this sleep, the event loop handles other events. The lock is still held, so these events
                    # come before the next slice.
                    await asyncio.sleep(0)
                if self.clock() < pauses_until_s:
                    await self._sleep(_BACKGROUND_PAUSE_S)
        finally:
            work.close()

    def _must_wait(self, patient_until_s: float) -> bool:
        """Return whether urgent work must go before the next slice."""
        return self._is_urgent() and self.clock() < patient_until_s

    async def run_for(self, caller: str, work: Steps[T]) -> T:
        """Run a generator in slices when it is the caller's turn, and return its result.

        Raises:
            ResourceExhaustedError: Too many calls are already waiting for their turn.
        """
        async with self.lane.turn(caller):
            return await self.run(work)


class BackgroundSlices:
    """Makes what web pages show, in slices with pauses. All such objects together take at most a seventh of the event
    loop's time, because one call of `run` runs at a time.

    A piece of work is one or more calls of `run` after `begin_work`. The first call starts a time of
    `BACKGROUND_PATIENCE_S` seconds. During this time, all calls of the piece give way to urgent work. A call that takes
    longer than `BACKGROUND_PATIENCE_S` seconds continues without pauses.

    Args:
        slices: The object that makes the slices.
        turn: The lock that is held while a call of `run` runs.

    Attributes:
        busy_s: The length of all slices together, in seconds.
    """

    def __init__(self, slices: Slices, turn: asyncio.Lock) -> None:
        self.busy_s = 0.0
        self._slices = slices
        self._turn = turn
        # Until this time, the present piece of work gives way to urgent work. None before the first call of `run`.
        self._patient_until_s: float | None = None

    def begin_work(self) -> None:
        """Begin a piece of work. Otherwise, the next calls of `run` belong to the earlier piece."""
        self._patient_until_s = None

    async def run(self, work: Steps[T]) -> T:
        """Run a generator in slices, and return its result."""
        until_s = self._slices.clock() + BACKGROUND_PATIENCE_S
        if self._patient_until_s is None:
            self._patient_until_s = until_s
        patient_until_s = self._patient_until_s
        async with self._turn:
            return await self._slices.run_until_impatient(work, patient_until_s, until_s, self._add)

    def _add(self, seconds: float) -> None:
        self.busy_s += seconds
