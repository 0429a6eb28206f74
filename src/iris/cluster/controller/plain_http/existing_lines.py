"""Reads the log lines that exist when a log reader starts. Afterwards, future_lines.py can follow the logs.

The log reader asks for one page of a log at a time, and keeps no stream open between two pages. Therefore the
controller stores only one page for a client that does not read its answer. To merge the lines of several tasks by time,
the controller stores one small page of each task.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from iris.cluster.controller.logs.relay import LogRelay
from iris.cluster.controller.plain_http.items import Item, Notice
from iris.cluster.controller.plain_http.reader_state import ReaderState
from iris.cluster.logs.cursor import Position
from iris.cluster.logs.entries.line_reader import LineReader
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.cluster.logs.outage import FIRST_PAUSE_S, Failure, Outage, RetryRules
from iris.cluster.logs.progress import Progress
from iris.cluster.logs.records import SOURCES
from iris.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError, WorkerUnreachableError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import StreamTaskLogsResponse
from iris.system.backoff import Backoff

# Without `follow`, a server that does not answer is called again for only this number of seconds, because a person may
# wait for the answer.
_PATIENCE_S = 15.0
_LONGEST_PAUSE_S = 2.0
# When several logs are merged, one page of each log is in memory. All pages together have about `_PAGES_BYTES`.
_PAGES_BYTES = 8 << 20
_LARGEST_PAGE_BYTES = 256 << 10
_SMALLEST_PAGE_BYTES = 4 << 10
_MAX_TAIL_BYTES = 4 << 20

Chunk = StreamTaskLogsResponse.Chunk
# An item that a reader returns: either log entries with the time at which they were written, or a message about the
# logs.
Timed = tuple[int, Sequence[LogEntry]] | Notice


class ExistingLines:
    """Reads the existing log lines of all tasks of a reader.

    Args:
        state: The state of the reader.
    """

    def __init__(self, state: ReaderState) -> None:
        self._state = state
        self._tail_notices: list[Notice] = []
        # The ids of workers that did not answer. With `follow`, these workers are not called again here, because
        # `FutureLines` calls them again.
        self._silent: set[str] = set()
        self._page_bytes = max(_SMALLEST_PAGE_BYTES, min(_LARGEST_PAGE_BYTES, _PAGES_BYTES // max(1, len(state.tasks))))

    async def read(self) -> AsyncGenerator[Item]:
        """Yield the existing lines of all tasks, sorted by time.

        Only the next lines of the tasks are compared. Therefore the lines of one task keep their order, even if the
        clock of the task's machine was set back.
        """
        heads: list[tuple[int, int, Sequence[LogEntry], AsyncGenerator[Timed]]] = []
        notices: list[Notice] = []
        sources = [self._task_lines(index) for index in self._state.tasks]
        try:
            for index, lines in zip(self._state.tasks, sources, strict=True):
                head = await _next_lines(lines, notices)
                if head is not None:
                    heads.append((*head[:1], index, head[1], lines))
            heapq.heapify(heads)
            while heads:
                for notice in notices:
                    yield notice
                notices.clear()
                _, index, entries, lines = heads[0]
                yield self._state.deliver(index, entries)
                following = await _next_lines(lines, notices)
                if following is None:
                    heapq.heappop(heads)
                else:
                    heapq.heapreplace(heads, (following[0], index, following[1], lines))
            for notice in notices:
                yield notice
        finally:
            for lines in sources:
                await lines.aclose()

    async def read_last(self, count: int) -> AsyncGenerator[Item]:
        """Yield the last `count` lines of all tasks together, and move the reader of each task to the end of the
        existing lines.

        Raises:
            ResourceExhaustedError: The lines are too large to be held in memory.
        """
        state = self._state
        newest_lines: list[LogEntry] = []
        for index, task in state.tasks.items():
            attempts = [a for a in task.attempts if state.query.attempt_id in (None, a.attempt_id)]
            lines: list[LogEntry] = []
            newest: LineReader | None = None
            for attempt in reversed(attempts):
                if len(lines) < count or newest is None:
                    found, reader = await self._tail_of(index, attempt, count - len(lines), is_newest=newest is None)
                    lines = found + lines
                    newest = newest or reader
            if newest is not None:
                state.set_reader(index, newest)
            # Merging does not change the order of the lines of one task, even if the clock of the task's machine was
            # set back.
            merged = list(heapq.merge(newest_lines, lines, key=lambda line: line.timestamp_ms))
            newest_lines = merged[max(0, len(merged) - count) :] if count else []
            _check_tail(newest_lines)
        state.start_positions({line.task_index: line.position(before=True) for line in reversed(newest_lines)})
        for notice in self._tail_notices:
            yield notice
        for _, group in itertools.groupby(newest_lines, key=lambda line: id(line.origin)):
            entries = list(group)
            yield state.deliver(entries[0].task_index, entries)

    async def _task_lines(self, index: int) -> AsyncGenerator[Timed]:
        """Yield the existing lines of all attempts of one task, and messages about the attempts."""
        state = self._state
        progress = Progress(
            {index: state.received()[index]}, follow=False, one_attempt=state.query.attempt_id is not None
        )
        for outcome in progress.update([state.tasks[index]]):
            for notice in state.apply(outcome):
                yield notice
        while opened := progress.to_open():
            ((_, attempt, position),) = opened
            reader = state.reader(index, position.attempt_id)
            end = None
            async with aclosing(self._chunks(index, attempt)) as chunks:
                async for chunk in chunks:
                    if isinstance(chunk, Notice):
                        yield chunk
                        continue
                    for lines in reader.read(chunk.records):
                        yield lines
                    end = chunk.end if chunk.HasField("end") else None
            if end is not None:
                state.skip_filtered(index, end)
            if state.query.follow and (end is None or not end.complete):
                return  # The rest of this log is read later, when the reader follows the log.
            if end is not None:
                is_final = end.complete or bool(end.missing_reason)
                if state.partial or is_final:
                    for lines in reader.flush(ended=is_final):
                        yield lines
                for notice in state.attempt_ended(index, progress.attempt(index), end):
                    yield notice
            for outcome in progress.attempt_ended(index):
                for notice in state.apply(outcome):
                    yield notice

    async def _chunks(self, index: int, attempt: cluster_pb2.TaskAttempt) -> AsyncGenerator[Chunk | Notice]:
        """Yield the existing chunks of the log of one attempt. If the log cannot be read now, try again, or with
        `follow` leave the log to `FutureLines`.
        """
        state = self._state
        outage = Outage(RetryRules(_PATIENCE_S), Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S))
        while True:
            if state.query.follow and attempt.worker_id in self._silent:
                return
            position = state.reader(index, attempt.attempt_id).received
            try:
                for chunk in await self._page(index, position, state.filter, self._page_bytes):
                    outage.data_arrived()
                    yield chunk
                    if chunk.HasField("end"):
                        return
            except (UnavailableError, DeadlineExceededError) as error:
                if state.query.follow:
                    self._silent.add(attempt.worker_id)
                    return
                pause_s = _pause_after(outage, error)
                if outage.tries == 1:
                    yield Notice(f"task {index}, attempt {attempt.attempt_id}: {error}; trying again")
                await asyncio.sleep(pause_s)

    async def _page(
        self, index: int, position: Position, chosen: cluster_pb2.Worker.FetchLogsFilter, max_bytes: int
    ) -> list[Chunk]:
        """Return a page with the next chunks of the log of one attempt. If the page reaches the end of the log, the
        field `end` of the last chunk is set.

        Raises:
            UnavailableError: No server has the log at the moment.
        """
        state = self._state
        request = state.request(chosen, follow=False, max_bytes=max_bytes)
        relay = LogRelay(state.sources, state.caller, state.record, request, {index: position})
        chunks: list[Chunk] = []
        try:
            async with aclosing(relay.run()) as messages:
                async for message in messages:
                    for chunk in message.chunks:
                        if chunk.error:
                            raise WorkerUnreachableError(chunk.error)
                        chunks.append(chunk)
        finally:
            await relay.close()
        if not chunks:
            raise WorkerUnreachableError("the stream ended before the end of the log")
        return chunks

    async def _tail_of(
        self, index: int, attempt: cluster_pb2.TaskAttempt, count: int, *, is_newest: bool
    ) -> tuple[list[LogEntry], LineReader]:
        """Return the last lines of an attempt, and a reader that continues after these lines."""
        state = self._state
        chosen = cluster_pb2.Worker.FetchLogsFilter()
        chosen.CopyFrom(state.filter)
        # The server counts the partial line of each source as a line. Therefore the request asks for one more line for
        # each source.
        chosen.tail = max(count, 1) if state.partial else count + len(SOURCES)
        outage = Outage(RetryRules(_PATIENCE_S), Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S))
        while True:
            reader = state.new_reader(index, Position(attempt.attempt_id))
            try:
                chunks = await self._page(index, reader.received, chosen, 2 * _MAX_TAIL_BYTES)
                lines = self._lines_of_tail(index, attempt, reader, chunks, is_newest=is_newest)
            except (UnavailableError, DeadlineExceededError) as error:
                await asyncio.sleep(_pause_after(outage, error))
                continue
            return lines[len(lines) - count :] if count else [], reader

    def _lines_of_tail(
        self,
        index: int,
        attempt: cluster_pb2.TaskAttempt,
        reader: LineReader,
        chunks: Sequence[Chunk],
        *,
        is_newest: bool,
    ) -> list[LogEntry]:
        """Return the lines in `chunks`, which are the answer to a request for the last lines of an attempt.

        Raises:
            ResourceExhaustedError: The lines are too large to be held in memory.
        """
        state = self._state
        lines: list[LogEntry] = []
        for chunk in chunks:
            reader.jumps = True
            for _, entries in reader.read(chunk.records):
                lines += entries
            _check_tail(lines)
            if not chunk.HasField("end"):
                continue
            if chunk.end.complete:
                for _, entries in reader.flush(ended=True):
                    lines += entries
            elif state.partial and not state.query.follow:
                for _, entries in reader.flush():
                    lines += entries
            if is_newest:
                self._tail_notices += state.attempt_ended(index, attempt, chunk.end)
            reader.skip_to(chunk.end.offsets)
            reader.jumps = bool(state.filter.ByteSize())
            return lines
        raise _too_large()


async def _next_lines(lines: AsyncGenerator[Timed], notices: list[Notice]) -> tuple[int, Sequence[LogEntry]] | None:
    """Return the next lines of a task, and add the messages before these lines to `notices`. Return None if there are
    no more lines.
    """
    async for timed in lines:
        if not isinstance(timed, Notice):
            return timed
        notices.append(timed)
    return None


def _pause_after(outage: Outage, error: Exception) -> float:
    """Return the seconds until the next try, or raise `error` if the reader gives up."""
    now = time.monotonic()
    pause_s = outage.failed(Failure.UNREACHABLE, now, now)
    if pause_s is None:
        raise error
    return pause_s


def _check_tail(lines: Sequence[LogEntry]) -> None:
    if sum(len(line.data) for line in lines) > _MAX_TAIL_BYTES:
        raise _too_large()


def _too_large() -> ResourceExhaustedError:
    return ResourceExhaustedError(
        f"the last lines are larger than {_MAX_TAIL_BYTES >> 20} MiB, which is the limit of tail: ask for fewer lines"
        " (tail=…) or for the lines after a time (since=…)",
        reason=ErrorReason.TOO_LARGE,
    )
