"""Keeps the spans of calls and of log uploads in memory until they are sent. The number of kept spans is limited."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence

from iris.cluster.controller.logs.receive import UploadedLog
from iris.cluster.controller.tracing.span_tally import Drop, SpanTally
from iris.cluster.controller.tracing.spans import Span

MAX_PENDING = 10_000


class PendingSpans:
    """The spans that wait to be sent, the oldest first. If there are too many spans, new spans are counted and dropped.

    Args:
        tally: The object that counts the dropped spans.
        most: The largest number of spans that may wait.
    """

    def __init__(self, tally: SpanTally, most: int = MAX_PENDING) -> None:
        self._tally = tally
        self._most = most
        self._waiting: deque[Span | UploadedLog] = deque()
        self._added = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, span: Span | UploadedLog) -> None:
        """Add a span. The method must be called on the event loop."""
        if len(self._waiting) >= self._most:
            self._tally.drop(Drop.OVERFLOW, f"{self._most:,} spans of calls and log uploads already waited to be sent")
            return
        self._waiting.append(span)
        self._added.set()

    async def wait(self) -> None:
        """Wait until a span waits to be sent."""
        await self._added.wait()

    def first(self, count: int) -> Sequence[Span | UploadedLog]:
        """Return the oldest `count` spans. The spans stay in memory until `remove` is called."""
        return list(itertools.islice(self._waiting, count))

    def remove(self, count: int) -> None:
        """Remove the oldest `count` spans."""
        for _ in range(count):
            self._waiting.popleft()
        if not self._waiting:
            self._added.clear()
