"""Reads the log lines that exist when a reader starts. A reader of logs has two stages, and this is the first stage.

One thread reads the attempts of each task one after another, as fast as the caller iterates. The lines of several tasks
are merged by time.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from iris.client.logs.read_outage import NotYetError, ReadOutage
from iris.client.logs.read_state import Chunk, Items, ReadState, is_final
from iris.cluster.logs.cursor import Position, to_message
from iris.cluster.logs.entries.line_reader import LineReader, RawReader
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.cluster.logs.records import SOURCES
from iris.cluster.types import is_task_finished
from iris.errors import DeadlineExceededError, UnavailableError, WorkerUnreachableError
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import TokenRenewedError
from iris.rpc.http.client.stream_handle import StreamHandle

# When several logs are merged, one page of each log is in memory. All pages together have about `_PAGES_BYTES`.
_PAGES_BYTES = 32 << 20
_LARGEST_PAGE_BYTES = 4 << 20
_SMALLEST_PAGE_BYTES = 64 << 10


class ExistingLines:
    """Reads the existing log lines of all tasks of a reader.

    Args:
        state: The state of the reader.
    """

    def __init__(self, state: ReadState) -> None:
        self._state = state
        self._options = state.options
        # The handles of all open streams.
        self._handles: dict[StreamHandle, None] = {}

        # The ids of workers that did not answer the first stage of this reader. The second stage, which follows the
        # logs, tries these workers again.
        self._silent: set[str] = set()

    def abort(self) -> None:
        """End the open streams, from any thread."""
        for handle in list(self._handles):
            handle.abort()

    def read(self) -> Iterator[Items]:
        """Yield the existing items of all tasks."""
        tasks = self._state.tasks
        if len(tasks) == 1:
            (index,) = tasks
            with closing(self._task_items(index, page_bytes=0)) as batches:
                for _, items in batches:
                    yield items
        else:
            yield from self._merged()

    def read_last(self, count: int) -> Iterator[Items]:
        """Yield the last `count` lines of all tasks together, and move each reader to the end of the existing lines."""
        per_task: list[list[LogEntry]] = []
        for index, task in self._state.tasks.items():
            lines: list[LogEntry] = []
            newest: LineReader | RawReader | None = None
            attempts = [a for a in task.attempts if self._options.attempt_id in (None, a.attempt_id)]
            for attempt in reversed(attempts):
                if len(lines) < count or newest is None:
                    found, reader = self._tail_of(index, attempt, count - len(lines))
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
            yield items

    def _merged(self) -> Iterator[Items]:
        """Yield the items of several tasks, sorted by time.

        Only the next items of the tasks are compared. Therefore the items of one task keep their order, even if the
        clock of the task's machine was set back.
        """
        tasks = self._state.tasks
        page_bytes = min(_LARGEST_PAGE_BYTES, max(_SMALLEST_PAGE_BYTES, _PAGES_BYTES // len(tasks)))
        heads = []
        for index in tasks:
            batches = self._task_items(index, page_bytes=page_bytes)
            for timestamp_ms, items in batches:
                heads.append((timestamp_ms, index, items, batches))
                break
        heapq.heapify(heads)
        while heads:
            _, index, items, batches = heads[0]
            self._state.deliver(index, items)
            yield items
            following = next(batches, None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following[0], index, following[1], batches))

    def _task_items(self, index: int, *, page_bytes: int) -> Generator[tuple[int, Items]]:
        """Yield the items of all attempts of one task, as pairs of a time and a batch of items."""
        state = self._state
        progress = state.progress({index: state.positions()[index]})
        state.apply(progress.update([state.tasks[index]]))
        while opened := progress.to_open():
            ((_, attempt, position),) = opened
            reader = state.reader(index, position.attempt_id)
            end = None
            with closing(self._chunks(index, attempt, page_bytes)) as chunks:
                for chunk in chunks:
                    yield from reader.read(chunk.records)
                    end = chunk.end if chunk.HasField("end") else None
            if end is not None:
                state.skip_filtered(index, reader, end)
            if self._options.follow and (end is None or not end.complete):
                if end is not None:
                    state.existing_was_read(index)
                return  # The second stage of the reader reads the rest of the log.
            if end is not None:
                if state.partial or is_final(end):
                    yield from reader.flush(ended=is_final(end))
                state.attempt_ended(index, progress.attempt(index), end)
            state.apply(progress.attempt_ended(index))

    def _chunks(self, index: int, attempt: cluster_pb2.TaskAttempt, page_bytes: int) -> Generator[Chunk]:
        """Yield the existing chunks of one attempt. If the log cannot be read, retry, or leave the log to the second
        stage.
        """
        state, routes = self._state, self._state.routes
        outage = ReadOutage(self._options, f"task {index}, attempt {attempt.attempt_id}")
        while True:
            request = state.request([to_message(index, state.positions()[index])], follow=False)
            request.max_bytes = page_bytes
            worker = routes.worker_of(index, attempt)
            if self._options.follow and attempt.worker_id in self._silent:
                return  # The second stage of the reader waits for this worker.
            got_any = False
            try:
                with self._stream(request, worker) as messages:
                    for chunk in _chunks_of(messages, outage):
                        if chunk.error and worker is not None and not is_task_finished(attempt.state):
                            return  # The worker has not received the attempt yet, so there are no lines to read.
                        if chunk.error:
                            raise routes.refusal(index, attempt, chunk.error, worker)
                        outage.data_arrived()
                        got_any = True
                        yield chunk
                        if chunk.HasField("end"):
                            return
                if not got_any:
                    raise WorkerUnreachableError("the stream ended before the end of the log")
            except (UnavailableError, DeadlineExceededError) as error:
                if self._is_left_to_follow(attempt, error):
                    return
                if worker is not None and outage.tries:
                    state.cluster.lost_worker(worker[1])
                if routes.is_out_of_reach(attempt, outage.since_s):
                    yield state.give_up_attempt(index, attempt, error)
                    return
                state.cluster.pause(outage.pause_s(error))

    def _is_left_to_follow(self, attempt: cluster_pb2.TaskAttempt, error: Exception) -> bool:
        """Return whether the second stage of the reader must read an attempt that the first stage cannot read now. The
        first stage then continues with the other tasks."""
        has_second_stage = self._options.follow and time.monotonic() < self._options.follow_until
        if not has_second_stage and not self._state.is_closed:
            return False
        if not isinstance(error, NotYetError | TokenRenewedError):
            self._silent.add(attempt.worker_id)
        return True

    def _tail_of(
        self, index: int, attempt: cluster_pb2.TaskAttempt, count: int
    ) -> tuple[list[LogEntry], LineReader | RawReader]:
        """Return the last lines of an attempt, and a reader that continues after these lines."""
        state = self._state
        outage = ReadOutage(self._options, f"task {index}, attempt {attempt.attempt_id}")
        while True:
            reader = state.new_reader(index, Position(attempt.attempt_id))
            request = state.request([to_message(index, reader.received)], follow=False)
            # The server counts the partial line of each source as a line. Therefore the request asks for one more line
            # for each source.
            request.filter.tail = max(count, 1) if state.partial else count + len(SOURCES)
            worker = state.routes.worker_of(index, attempt)
            try:
                lines = self._read_tail(index, attempt, request, worker, reader, outage)
                return lines[len(lines) - count :] if count else [], reader
            except (UnavailableError, DeadlineExceededError) as error:
                if state.is_closed:
                    return [], reader
                if worker is not None and outage.tries:
                    state.cluster.lost_worker(worker[1])
                if state.routes.is_out_of_reach(attempt, outage.since_s):
                    state.ends[index] = state.give_up_attempt(index, attempt, error).end
                    return [], reader
                state.cluster.pause(outage.pause_s(error))

    def _read_tail(
        self,
        index: int,
        attempt: cluster_pb2.TaskAttempt,
        request: cluster_pb2.StreamTaskLogsRequest,
        worker: tuple[str, str] | None,
        reader: LineReader | RawReader,
        outage: ReadOutage,
    ) -> list[Any]:
        """Return all lines that the answer to one request contains.

        Raises:
            UnavailableError, DeadlineExceededError: The server does not have the log, or the stream broke.
        """
        state = self._state
        lines: list[Any] = []
        with self._stream(request, worker) as messages:
            for chunk in _chunks_of(messages, outage):
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
        raise WorkerUnreachableError("the stream ended before the end of the log")

    @contextmanager
    def _stream(
        self, request: cluster_pb2.StreamTaskLogsRequest, worker: tuple[str, str] | None
    ) -> Iterator[Iterator[cluster_pb2.StreamTaskLogsResponse]]:
        """Open a stream that `abort` can end from any thread. Several streams may be open at once."""
        handle = StreamHandle()
        self._handles[handle] = None
        if self._state.is_closed:
            handle.abort()
        try:
            with closing(self._state.cluster.stream_task_logs(request, worker, handle)) as messages:
                yield messages
        finally:
            del self._handles[handle]


def _chunks_of(messages: Iterator[cluster_pb2.StreamTaskLogsResponse], outage: ReadOutage) -> Iterator[Chunk]:
    def chunks(message: cluster_pb2.StreamTaskLogsResponse) -> Sequence[Chunk]:
        outage.server_answered()
        return message.chunks

    return itertools.chain.from_iterable(map(chunks, messages))
