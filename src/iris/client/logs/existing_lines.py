"""Reads the log lines that exist when a reader starts. A reader of logs has two stages: first the lines that exist, and
then the future lines. This module is the first stage.

The attempts of each task are read one after another, as fast as the caller iterates. The lines of several tasks are
merged by time.
"""

from __future__ import annotations

import heapq
import itertools
import time
from typing import Any

from iris.client.logs.read_outage import NotYetError, ReadOutage
from iris.client.logs.read_state import Items, ReadState, is_final
from iris.cluster.client.operations.logs import stream_task_logs
from iris.cluster.client.operations.steps import (
    CloseStream,
    ItemOperation,
    NextMessage,
    Operation,
    Pause,
    StreamNumber,
    Worker,
    next_item,
)
from iris.cluster.logs.cursor import Position, to_message
from iris.cluster.logs.entries.line_reader import LineReader, RawReader
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.cluster.logs.records import SOURCES
from iris.cluster.types import is_task_finished
from iris.errors import DeadlineExceededError, UnavailableError, WorkerUnreachableError
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import TokenRenewedError

# The largest size of all pages in memory together, in bytes. When several logs are merged, one page of each log is in
# memory.
_PAGES_BYTES = 32 << 20
_LARGEST_PAGE_BYTES = 4 << 20
_SMALLEST_PAGE_BYTES = 64 << 10

# A batch: the time at which some log items were captured, in milliseconds since the epoch, and these items.
Batch = tuple[int, Items]


class ExistingLines:
    """Reads the existing log lines of all tasks of a reader.

    Args:
        state: The state of the log reader.
    """

    def __init__(self, state: ReadState) -> None:
        self._state = state
        self._options = state.options

        # The ids of the workers that did not answer while the existing lines were read. Following the logs calls these
        # workers again.
        self._silent: set[str] = set()

    def read(self) -> ItemOperation[Batch, None]:
        """Yield the existing log entries of all tasks, or pieces of bytes if the reader returns bytes. With `tail`,
        yield only the last lines of all tasks together."""
        if self._options.tail is not None:
            yield from self._last(self._options.tail)
        else:
            yield from self._all()

    def read_rest(self) -> ItemOperation[Batch, None]:
        """Yield the existing log entries that the reader has not returned yet. Also wait for servers that did not
        answer before.
        """
        self._silent.clear()
        yield from self._all()

    def _all(self) -> ItemOperation[Batch, None]:
        tasks = self._state.tasks
        if len(tasks) == 1:
            (index,) = tasks
            yield from self._task_items(index, page_bytes=0)
        else:
            yield from self._merged()

    def _last(self, count: int) -> ItemOperation[Batch, None]:
        """Yield the last `count` lines of all tasks together, and move the reader of each task to the end of the
        existing lines."""
        per_task: list[list[LogEntry]] = []
        for index, task in self._state.tasks.items():
            lines: list[LogEntry] = []
            newest: LineReader | RawReader | None = None
            attempts = [a for a in task.attempts if self._options.attempt_id in (None, a.attempt_id)]
            for attempt in reversed(attempts):
                if len(lines) < count or newest is None:
                    found, reader = yield from self._tail_of(index, attempt, count - len(lines))
                    lines = found + lines
                    newest = newest or reader
            if newest is not None:
                self._state.set_reader(index, newest)
            per_task.append(lines)
        # Merging does not change the order of the lines of one task, even if the clock of the task's machine was set
        # back.
        merged = list(heapq.merge(*per_task, key=lambda line: line.timestamp_ms)) if len(per_task) > 1 else per_task[0]
        shown = merged[max(0, len(merged) - count) :] if count else []
        self._state.start_task_positions({line.task_index: line.position(before=True) for line in reversed(shown)})
        for _, group in itertools.groupby(shown, key=lambda line: id(line.origin)):
            items = list(group)
            self._state.deliver(items[0].task_index, items)
            yield items[0].timestamp_ms, items

    def _merged(self) -> ItemOperation[Batch, None]:
        """Yield the log entries of several tasks, sorted by time.

        Only the next entries of all tasks are compared. Therefore the entries of one task keep their order, even if the
        clock of the task's machine was set back.
        """
        tasks = self._state.tasks
        page_bytes = min(_LARGEST_PAGE_BYTES, max(_SMALLEST_PAGE_BYTES, _PAGES_BYTES // len(tasks)))
        heads = []
        for index in tasks:
            batches = self._task_items(index, page_bytes=page_bytes)
            first = yield from next_item(batches)
            if first is not None:
                heads.append((first[0], index, first[1], batches))
        heapq.heapify(heads)
        while heads:
            timestamp_ms, index, items, batches = heads[0]
            self._state.deliver(index, items)
            yield timestamp_ms, items
            following = yield from next_item(batches)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following[0], index, following[1], batches))

    def _task_items(self, index: int, *, page_bytes: int) -> ItemOperation[Batch, None]:
        """Yield the log entries of all attempts of one task."""
        state = self._state
        progress = state.progress({index: state.positions()[index]})
        state.apply(progress.update([state.tasks[index]]))
        while opened := progress.to_open():
            ((_, attempt, position),) = opened
            reader = state.reader(index, position.attempt_id)
            end = yield from self._attempt_items(index, attempt, reader, page_bytes)
            if end is not None:
                state.skip_filtered(index, reader, end)
            if self._options.follow and (end is None or not end.complete):
                if end is not None:
                    state.existing_was_read(index)
                return  # The rest of this log is read later, when the reader follows the log.
            if end is not None:
                if state.partial or is_final(end):
                    yield from reader.flush(ended=is_final(end))
                state.attempt_ended(index, progress.attempt(index), end)
            state.apply(progress.attempt_ended(index))

    def _attempt_items(
        self, index: int, attempt: cluster_pb2.TaskAttempt, reader: LineReader | RawReader, page_bytes: int
    ) -> ItemOperation[Batch, cluster_pb2.LogEnd | None]:
        """Yield the existing log entries of one attempt, and return the end of its log.

        If the log cannot be read, this method tries again or returns None. After None, `following/future_lines.py`
        reads the log.
        """
        state, routes = self._state, self._state.routes
        outage = ReadOutage(self._options, f"task {index}, attempt {attempt.attempt_id}")
        while True:
            request = state.request([to_message(index, state.positions()[index])], follow=False)
            request.max_bytes = page_bytes
            worker = yield from routes.worker_of(index, attempt)
            if self._options.follow and attempt.worker_id in self._silent:
                # The existing lines are read without this silent worker. The reader calls the worker again when it
                # follows the logs.
                return None
            stream = yield from self._open(request, worker)
            failure: Exception | None = None
            try:
                is_over, end = yield from self._stream_items(index, attempt, reader, stream, worker, outage)
            except (UnavailableError, DeadlineExceededError) as error:
                failure = error
            yield CloseStream(stream)
            if failure is None:
                if is_over:
                    return end
                continue  # The log has more pages. A new stream reads the next page.
            if self._is_left_to_follow(attempt, failure):
                return None
            if worker is not None and outage.tries:
                routes.lost_worker(worker[1])
            if (yield from routes.is_out_of_reach(attempt, outage.since_s)):
                return state.give_up_attempt(index, attempt, failure).end
            yield Pause(outage.pause_s(failure))

    def _stream_items(
        self,
        index: int,
        attempt: cluster_pb2.TaskAttempt,
        reader: LineReader | RawReader,
        stream: StreamNumber,
        worker: Worker | None,
        outage: ReadOutage,
    ) -> ItemOperation[Batch, tuple[bool, cluster_pb2.LogEnd | None]]:
        """Yield the log entries that arrive on one stream. Return two values: whether this stream was the last page of
        the log, and the end of the log.

        Raises:
            UnavailableError, DeadlineExceededError: The server does not have the log, or the stream broke.
        """
        got_any = False
        while True:
            message: cluster_pb2.StreamTaskLogsResponse | None = yield NextMessage(stream)
            if message is None:
                if got_any:
                    return False, None
                raise WorkerUnreachableError("the stream ended before the end of the log")
            outage.server_answered()
            for chunk in message.chunks:
                if chunk.error and worker is not None and not is_task_finished(attempt.state):
                    return True, None  # The log has no lines, because the worker has not received the attempt yet.
                if chunk.error:
                    raise self._state.routes.refusal(index, attempt, chunk.error, worker)
                outage.data_arrived()
                got_any = True
                yield from reader.read(chunk.records)
                if chunk.HasField("end"):
                    return True, chunk.end

    def _is_left_to_follow(self, attempt: cluster_pb2.TaskAttempt, error: Exception) -> bool:
        """Return whether `following/future_lines.py` must read the log of an attempt, because the log cannot be
        read now. The existing lines of the other tasks are then read first.
        """
        has_second_stage = self._options.follow and time.monotonic() < self._options.follow_until
        if not has_second_stage and not self._state.is_closed:
            return False
        if not isinstance(error, NotYetError | TokenRenewedError):
            self._silent.add(attempt.worker_id)
        return True

    def _tail_of(
        self, index: int, attempt: cluster_pb2.TaskAttempt, count: int
    ) -> Operation[tuple[list[LogEntry], LineReader | RawReader]]:
        """Return the last lines of an attempt, and a reader that continues after these lines."""
        state = self._state
        outage = ReadOutage(self._options, f"task {index}, attempt {attempt.attempt_id}")
        while True:
            reader = state.new_reader(index, Position(attempt.attempt_id))
            request = state.request([to_message(index, reader.received)], follow=False)
            # The server counts the partial line of each source as a line. Therefore the request asks for one more line
            # for each source.
            request.filter.tail = max(count, 1) if state.partial else count + len(SOURCES)
            worker = yield from state.routes.worker_of(index, attempt)
            stream = yield from self._open(request, worker)
            failure: Exception | None = None
            try:
                lines = yield from self._read_tail(index, attempt, stream, worker, reader, outage)
            except (UnavailableError, DeadlineExceededError) as error:
                failure = error
            yield CloseStream(stream)
            if failure is None:
                return lines[len(lines) - count :] if count else [], reader
            if state.is_closed:
                return [], reader
            if worker is not None and outage.tries:
                state.routes.lost_worker(worker[1])
            if (yield from state.routes.is_out_of_reach(attempt, outage.since_s)):
                state.ends[index] = state.give_up_attempt(index, attempt, failure).end
                return [], reader
            yield Pause(outage.pause_s(failure))

    def _read_tail(
        self,
        index: int,
        attempt: cluster_pb2.TaskAttempt,
        stream: StreamNumber,
        worker: Worker | None,
        reader: LineReader | RawReader,
        outage: ReadOutage,
    ) -> Operation[list[Any]]:
        """Return all lines that arrive on one stream.

        Raises:
            UnavailableError, DeadlineExceededError: The server does not have the log, or the stream broke.
        """
        state = self._state
        lines: list[Any] = []
        while True:
            message: cluster_pb2.StreamTaskLogsResponse | None = yield NextMessage(stream)
            if message is None:
                raise WorkerUnreachableError("the stream ended before the end of the log")
            outage.server_answered()
            for chunk in message.chunks:
                if chunk.error:
                    raise state.routes.refusal(index, attempt, chunk.error, worker)
                reader.jumps = True
                lines += (line for _, items in reader.read(chunk.records) for line in items)
                if not chunk.HasField("end"):
                    continue
                if not chunk.end.complete:
                    state.existing_was_read(index)
                else:
                    lines += (line for _, items in reader.flush(ended=True) for line in items)
                    state.note_end(index, attempt, chunk.end)
                    if attempt.attempt_id == len(state.tasks[index].attempts) - 1:
                        state.ends[index] = chunk.end
                reader.skip_to(chunk.end.offsets)
                reader.jumps = not self._options.has_no_filter
                return lines

    def _open(self, request: cluster_pb2.StreamTaskLogsRequest, worker: Worker | None) -> Operation[StreamNumber]:
        stream: StreamNumber = yield stream_task_logs(request, worker)
        return stream
