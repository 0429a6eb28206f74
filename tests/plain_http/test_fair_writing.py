"""Readers of long logs write in short turns, and other work goes on between two turns."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator

import pytest

from iris.cluster.controller.plain_http.fair_writing import LINES_PER_TURN, lines_per_turn, write_items, writing_lane
from iris.cluster.controller.plain_http.formats import JsonLinesFormat
from iris.cluster.controller.plain_http.items import Batch, Item, Notice
from iris.cluster.logs.cursor import Position
from iris.cluster.logs.entries.line_reader import LineReader
from iris.cluster.logs.records import encode
from iris.rpc.serving.fair_lane import FairLane

pytestmark = pytest.mark.anyio

LINES = 4 * LINES_PER_TURN + 1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class NotedFormat(JsonLinesFormat):
    """Writes NDJSON, and notes the reader and the number of lines of each write."""

    def __init__(self, reader: str, steps: list[tuple[str, int]]) -> None:
        self._reader = reader
        self._steps = steps

    def write(self, item: Item) -> bytes:
        self._steps.append((self._reader, len(item.entries) if isinstance(item, Batch) else 0))
        return super().write(item)


class Log:
    """The items of a reader: one large batch of lines, and a message.

    Attributes:
        is_closed: Whether the reader has closed the log.
    """

    def __init__(self) -> None:
        self.is_closed = False

    async def items(self) -> AsyncGenerator[Item]:
        data = b"".join(b"%d\n" % number for number in range(LINES))
        try:
            for _, entries in LineReader("job", 0, Position(), whole=True).read(encode(0, 1000, 0, data)):
                yield Batch(entries)
            yield Notice("the end")
        finally:
            self.is_closed = True


async def read(lane: FairLane, caller: str, number: int, steps: list[tuple[str, int]]) -> bytes:
    written = NotedFormat(f"{caller}-{number}", steps)
    return b"".join([data async for _, data in write_items(Log().items(), written, lane, caller, LINES_PER_TURN)])


async def test_event_loop_handles_other_events_between_two_turns_of_any_readers() -> None:
    lane, steps = writing_lane(), list[tuple[str, int]]()
    done = asyncio.Event()

    async def other_calls() -> None:
        while not done.is_set():
            steps.append(("loop", 0))
            await asyncio.sleep(0)

    others = asyncio.create_task(other_calls())
    answers = await asyncio.gather(*(read(lane, f"user {number % 3}", number, steps) for number in range(8)))
    done.set()
    await others
    assert {answer.count(b"\n") for answer in answers} == {LINES + 1}
    assert len(set(answers)) == 1
    assert max(lines for _, lines in steps) == LINES_PER_TURN
    of_lines = [name for name, lines in steps if lines or name == "loop"]
    assert not [pair for pair in itertools.pairwise(of_lines) if "loop" not in pair]


async def test_reader_waits_for_at_most_two_turns_of_a_caller_with_many_readers() -> None:
    lane, steps = writing_lane(), list[tuple[str, int]]()
    greedy = [asyncio.create_task(read(lane, "greedy", number, steps)) for number in range(20)]
    for _ in range(20):
        await asyncio.sleep(0)
    early = len(steps)
    assert 0 < early < 20
    await read(lane, "modest", 0, steps)
    turns = [name.partition("-")[0] for name, lines in steps if lines]
    # The modest reader asks for its next turn when the turn after its own has begun, so it may wait for one more.
    places = [place for place, caller in enumerate(turns) if caller == "modest"]
    assert len(places) == LINES // LINES_PER_TURN + 1
    assert places[0] <= early + 2
    assert max(after - before for before, after in itertools.pairwise(places)) <= 3
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    assert (lane.num_running, lane.num_waiting) == (0, 0)


async def test_log_route_closes_the_log_of_a_reader_that_disconnects() -> None:
    lane, log = writing_lane(), Log()
    written = write_items(log.items(), JsonLinesFormat(), lane, "leaver", LINES_PER_TURN)
    await anext(written)
    await written.aclose()
    assert log.is_closed
    assert (lane.num_running, lane.num_waiting) == (0, 0)


async def test_log_writing_turn_has_fewer_lines_if_cursors_cover_many_tasks() -> None:
    tasks = (1, 1000, 10_000)
    assert [lines_per_turn(count, has_cursors=True) for count in tasks] == [LINES_PER_TURN, LINES_PER_TURN // 21, 2]
    assert lines_per_turn(10_000, has_cursors=False) == LINES_PER_TURN
