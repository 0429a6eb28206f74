"""Formats log lines in small steps on the event loop, and shares the steps fairly between the callers that read logs.

Formatting a line costs a few microseconds, and logs have millions of lines. Therefore an answer formats at most
`lines_per_turn` lines in one turn of a fair queue (`FairLane`), and the event loop handles other events before the next
turn of any answer. Another call to the controller waits for one or two turns, for a few milliseconds at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from iris.cluster.controller.plain_http.formats import LogFormat
from iris.cluster.controller.plain_http.items import Batch, Item
from iris.rpc.serving.fair_lane import FairLane

LINES_PER_TURN = 500
# A cursor has the positions of all tasks that are read. Encoding a cursor of this number of tasks costs about as much
# as formatting a line.
_TASKS_PER_LINE = 50


def lines_per_turn(num_tasks: int, *, has_cursors: bool) -> int:
    """Return how many lines an answer may format in one turn.

    Args:
        num_tasks: The number of tasks that are read.
        has_cursors: Whether the format contains the cursor of each line.
    """
    return max(1, LINES_PER_TURN // (1 + num_tasks // _TASKS_PER_LINE)) if has_cursors else LINES_PER_TURN


def writing_lane() -> FairLane:
    """Return the fair queue in which the answers with logs wait for their turns to format lines. The number of waiting
    turns needs no limit, because an answer waits for one turn at a time, and the number of answers is limited.
    """
    return FairLane("lines of logs", at_once=1, per_caller=1)


async def write_items(
    items: AsyncGenerator[Item], written: LogFormat, lane: FairLane, caller: str, size: int
) -> AsyncGenerator[tuple[Item, bytes]]:
    """Yield each item of an answer with the bytes to send. A large batch of lines is split into several small batches.

    Args:
        items: The items that the log reader produces, such as lines and notices.
        written: The format in which the answer is written.
        lane: The fair queue in which all answers wait for their turns.
        caller: The key of the caller that reads. All callers get equal shares of the turns.
        size: The largest number of lines that are formatted in one turn.
    """
    async with aclosing(items):
        async for item in items:
            if not isinstance(item, Batch):
                yield item, written.write(item)
                continue
            for at in range(0, len(item.entries), size):
                part = Batch(item.entries[at : at + size])
                async with lane.turn(caller):
                    data = written.write(part)
                    # The loop handles other events before this turn ends. Otherwise the next turn would follow
                    # directly.
                    await asyncio.sleep(0)
                yield part, data
