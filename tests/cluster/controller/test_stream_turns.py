"""Streams with the same news continue one after the other, and everything else has its turn in between."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from iris.cluster.controller.api.stream_turns import MOST_URGENT_S, StreamTurns

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """Streams that each need 0.4 s for a message, by the clock of the test."""

    def __init__(self, busy_s: float = 1.0) -> None:
        self.log: list[str] = []
        self.now_s = 0.0
        self.is_urgent = False
        self.turns = StreamTurns(
            busy_s, 2.0, is_urgent=lambda: self.is_urgent, clock=lambda: self.now_s, sleep=self._sleep
        )

    async def _sleep(self, seconds: float) -> None:
        self.log.append(f"pause of {seconds:g} s")
        if seconds < 1.0:  # not the pause of 2 s
            self.now_s += seconds
        await asyncio.sleep(0)

    async def send(self, name: str) -> None:
        await self.turns.turn()
        self.now_s += 0.4
        self.log.append(name)


async def test_event_loop_handles_other_events_between_the_turns_of_two_streams() -> None:
    world = World()
    sending = asyncio.gather(*(world.send(f"stream {number}") for number in range(20)))
    while not sending.done():
        world.log.append("loop")
        await asyncio.sleep(0)
    steps = [entry for entry in world.log if not entry.startswith("pause")]
    assert [step for step in steps if step != "loop"] == [f"stream {number}" for number in range(20)]
    assert not [pair for pair in itertools.pairwise(steps) if "loop" not in pair], "two streams without the loop"


async def test_stream_continues_at_once_if_no_other_stream_waits() -> None:
    world = World()
    sending = world.send("alone")
    with pytest.raises(StopIteration):
        sending.send(None)
    assert world.log == ["alone"]


async def test_streams_pause_after_they_have_kept_the_event_loop_busy() -> None:
    world = World()
    await asyncio.gather(*(world.send(name) for name in "abcde"))
    assert world.log[:6] == ["a", "b", "c", "d", "pause of 2 s", "e"]


async def test_stream_gets_a_turn_even_if_each_message_takes_longer_than_the_limit() -> None:
    world = World(busy_s=0.0)
    await asyncio.gather(*(world.send(name) for name in "abc"))
    assert world.log[:4] == ["a", "b", "pause of 2 s", "c"]


async def test_cancelled_stream_gets_no_turn_and_the_next_stream_does() -> None:
    world = World()
    sending = [asyncio.create_task(world.send(name)) for name in "abc"]
    await asyncio.sleep(0)
    sending[1].cancel()
    await asyncio.gather(*sending, return_exceptions=True)
    assert [entry for entry in world.log if len(entry) == 1] == ["a", "c"]


@pytest.mark.parametrize("steps", [0, 3])
async def test_waiting_streams_continue_if_the_task_that_gives_turns_is_cancelled(steps: int) -> None:
    world = World()
    before = asyncio.all_tasks()
    sending = [asyncio.create_task(world.send(name)) for name in "abcde"]
    await asyncio.sleep(0)
    (giving,) = asyncio.all_tasks() - before - set(sending)
    for _ in range(steps):
        await asyncio.sleep(0)
    giving.cancel()
    await asyncio.gather(*sending)
    await world.send("later")
    assert [entry for entry in world.log if not entry.startswith("pause")] == ["a", "b", "c", "d", "e", "later"]


async def test_waiting_streams_continue_if_giving_turns_fails(caplog: pytest.LogCaptureFixture) -> None:
    world = World(busy_s=0.0)

    async def fail(seconds: float) -> None:
        raise OSError("no pause")

    world.turns = StreamTurns(0.0, 2.0, clock=lambda: world.now_s, sleep=fail)
    await asyncio.gather(*(world.send(name) for name in "abc"))
    assert world.log == ["a", "b", "c"]
    assert "streams get no turns" in caplog.text


async def test_stream_that_comes_after_all_others_gets_a_turn() -> None:
    world = World()
    await world.send("first")
    for _ in range(5):
        await asyncio.sleep(0)
    await world.send("second")
    assert [entry for entry in world.log if not entry.startswith("pause")] == ["first", "second"]


async def test_streams_wait_for_the_end_of_urgent_work() -> None:
    world = World()
    world.is_urgent = True
    sending = asyncio.gather(*(world.send(name) for name in "ab"))
    for _ in range(50):
        await asyncio.sleep(0)
    assert {"a", "b"}.isdisjoint(world.log)
    world.is_urgent = False
    await sending
    assert [entry for entry in world.log if not entry.startswith("pause")] == ["a", "b"]


async def test_urgent_work_that_begins_between_two_streams_goes_first() -> None:
    world = World()

    async def send(name: str) -> None:
        await world.turns.turn()
        world.log.append(name)
        world.is_urgent = name == "b"

    sending = asyncio.gather(*(send(name) for name in "abc"))
    for _ in range(50):
        await asyncio.sleep(0)
    assert [entry for entry in world.log if not entry.startswith("pause")] == ["a", "b"]
    world.is_urgent = False
    await sending
    assert [entry for entry in world.log if not entry.startswith("pause")] == ["a", "b", "c"]


async def test_streams_continue_although_urgent_work_does_not_end() -> None:
    world = World()
    world.is_urgent = True
    sent_at_s: dict[str, float] = {}

    async def send(name: str) -> None:
        await world.turns.turn()
        sent_at_s[name] = world.now_s

    await asyncio.gather(*(send(name) for name in "abc"))
    assert set(sent_at_s) == set("abc")
    assert all(MOST_URGENT_S <= at_s < MOST_URGENT_S + 0.01 for at_s in sent_at_s.values()), sent_at_s
