"""Turns at expensive work are shared between callers, whoever asks how often."""

from __future__ import annotations

import asyncio

import pytest

from iris.errors import ResourceExhaustedError
from iris.rpc.serving.fair_lane import FairLane


async def detect_copy() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Callers:
    """Callers whose turns last until the test ends them."""

    def __init__(self, lane: FairLane) -> None:
        self.lane = lane
        self.began: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, name: str) -> None:
        """`name`: the caller, a dash, and anything."""
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._work(name))

    async def _work(self, name: str) -> None:
        async with self.lane.turn(name.partition("-")[0]):
            self.began.append(name)
            await self.ends[name].wait()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        await detect_copy()

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


def test_fair_lane_serves_other_callers_before_further_calls_of_a_busy_caller() -> None:
    async def run() -> None:
        callers = Callers(FairLane("lists", at_once=1, per_caller=1))
        for number in range(50):
            callers.ask(f"greedy-{number}")
        await detect_copy()
        callers.ask("modest-0")
        await detect_copy()
        assert callers.began == ["greedy-0"]
        await callers.end("greedy-0")
        await callers.end(callers.began[-1])
        assert set(callers.began) == {"greedy-0", "greedy-1", "modest-0"}
        await callers.close()
        assert (callers.lane.num_running, callers.lane.num_waiting) == (0, 0)

    asyncio.run(run())


def test_fair_lane_per_caller_limit_leaves_turns_free_for_others() -> None:
    async def run() -> None:
        callers = Callers(FairLane("lists", at_once=3, per_caller=2))
        for number in range(5):
            callers.ask(f"a-{number}")
        await detect_copy()
        assert callers.began == ["a-0", "a-1"]
        callers.ask("b-0")
        await detect_copy()
        assert callers.began == ["a-0", "a-1", "b-0"]
        await callers.end("b-0")
        assert len(callers.began) == 3, "the free turn is not a third one of the same caller"
        await callers.close()

    asyncio.run(run())


def test_fair_lane_caller_that_stops_waiting_leaves_the_queue() -> None:
    async def run() -> None:
        callers = Callers(FairLane("lists", at_once=1, per_caller=1))
        callers.ask("a-0")
        await detect_copy()
        for number in range(1, 4):
            callers.ask(f"a-{number}")
        await detect_copy()
        callers.tasks["a-1"].cancel()
        await detect_copy()
        assert callers.lane.num_waiting == 2
        await callers.end("a-0")
        assert callers.began == ["a-0", "a-2"]
        await callers.close()
        assert (callers.lane.num_running, callers.lane.num_waiting) == (0, 0)

    asyncio.run(run())


@pytest.mark.parametrize("first", ["cancel", "end"])
def test_fair_lane_caller_cancelled_at_its_turn_frees_the_turn(first: str) -> None:
    async def run() -> None:
        callers = Callers(FairLane("lists", at_once=1, per_caller=1))
        callers.ask("a-0")
        await detect_copy()
        callers.ask("a-1")
        callers.ask("b-0")
        await detect_copy()
        steps = [callers.tasks["a-1"].cancel, callers.ends["a-0"].set]
        for step in steps if first == "cancel" else reversed(steps):
            step()
        await detect_copy()
        assert callers.began == ["a-0", "b-0"]
        await callers.end("b-0")
        assert (callers.lane.num_running, callers.lane.num_waiting) == (0, 0)

    asyncio.run(run())


def test_fair_lane_with_full_queues_refuses_with_the_number_of_waiting_calls() -> None:
    async def run() -> None:
        callers = Callers(FairLane("lists", at_once=1, per_caller=1, waiting_per_caller=3, waiting=4))
        for number in range(4):
            callers.ask(f"a-{number}")
        await detect_copy()
        with pytest.raises(ResourceExhaustedError, match="3 calls of 'a' wait for lists already"):
            async with callers.lane.turn("a"):
                pass
        callers.ask("b-0")
        await detect_copy()
        with pytest.raises(ResourceExhaustedError, match="4 calls wait for lists already"):
            async with callers.lane.turn("c"):
                pass
        await callers.end("a-0")
        async with asyncio.timeout(10):
            callers.ask("a-4")  # there is room again
            await detect_copy()
            assert not callers.tasks["a-4"].done()
        await callers.close()

    asyncio.run(run())
