"""Reads the logs of a job for one request to the log route, first the existing lines, then the future lines."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import inf

from iris.cluster.controller.api import messages
from iris.cluster.controller.plain_http.existing_lines import ExistingLines
from iris.cluster.controller.plain_http.future_lines import FutureLines
from iris.cluster.controller.plain_http.items import AllRead, Batch, Item, Pause, TaskOver
from iris.cluster.controller.plain_http.reader_state import ReaderState


async def read_logs(state: ReaderState) -> AsyncGenerator[Item]:
    """Yield everything that a reader selects, and finally an `AllRead`.

    Raises:
        UnavailableError: A log cannot be read.
        ResourceExhaustedError: The last lines are too large.
    """
    if state.query.follow:
        # The route sends the head of the answer together with the first item. `Pause` is such an item, so that the
        # client gets the head now, although a task may write nothing for hours.
        yield Pause()
    left: float = state.query.max_lines or inf
    over: set[int] = set()
    async with aclosing(_both_stages(state)) as items:
        async for item in items:
            if isinstance(item, Batch) and left != inf:
                # A long line arrives in several parts, which count as one line. The line is counted when its last part
                # arrives.
                first = item.entries[0]
                if not first.partial or first.origin.ended:
                    item = Batch(item.entries[: int(left)])
                    left -= len(item.entries)
            yield item
            if len(state.ends) > len(over) and isinstance(item, Batch | Pause):
                for index in sorted(state.ends.keys() - over):
                    yield TaskOver(index)
                over.update(state.ends)
            if left <= 0:
                break
    yield await _all_read(state)


async def _both_stages(state: ReaderState) -> AsyncGenerator[Item]:
    existing = ExistingLines(state)
    tail = state.query.tail
    async with aclosing(existing.read() if tail is None else existing.read_last(tail)) as items:
        async for item in items:
            yield item
    if state.query.follow:
        async with aclosing(FutureLines(state).read()) as items:
            async for item in items:
                yield item


async def _all_read(state: ReaderState) -> AllRead:
    while True:
        job = messages.job_status(state.sources.saved.shown(state.record))
        if await state.sources.saved.settled():
            break
    query = state.query
    return AllRead(state.ends, job, is_part=bool(query.tasks) or query.attempt_id is not None, cursor=state.cursor())
