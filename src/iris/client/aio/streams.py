"""Defines `AsyncLogStream`, the asynchronous iterator over the lines of one or several tasks. A stream has two stages:
it first returns the existing lines, and then, with `follow`, the future lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from iris.client.aio.logs.future_lines import AsyncFutureLines
from iris.client.logs.existing_lines import ExistingLines
from iris.client.logs.read_options import ReadOptions
from iris.client.logs.read_state import Items, LineLimit, ReadState
from iris.cluster.client.aio.connection import AsyncClusterConnection
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2


class AsyncLogStream(AsyncIterator[LogEntry]):
    """An iterator over the lines of one or several tasks.

    The stream sends nothing before its first line is requested. To end the stream early, cancel the task that reads it,
    close the stream, or drop all references to the stream:

        async with job.logs(follow=True) as lines:
            async for line in lines:
                print(line.task_index, line.message)

    Each line is returned once, when the line is finished. A line that the task never finishes is returned when its
    attempt ends. `flush` and `partial=True` return partial lines earlier. Only one task may iterate over the stream.
    Other tasks of the same event loop may call `flush` and `close`.
    """

    def __init__(self, reader: AsyncTaskLogReader) -> None:
        self._reader = reader
        self._batches = reader.batches()
        self._lines = _each(self._batches)

    @property
    def ends(self) -> Mapping[int, cluster_pb2.LogEnd]:
        """The end of the log of each task's last attempt, by task index: the state and exit code of the attempt, the
        size of its log, and whether bytes are missing. A task is added when its log was read to the end."""
        return self._reader.ends

    def raw(self) -> AsyncIterator[bytes]:
        """Return an iterator over the exact bytes that the tasks wrote. Reading bytes is several times faster than
        reading lines.

        The bytes of several tasks or sources come in the order of their capture. A line of one task may therefore be
        interrupted by bytes of another task.

        Raises:
            InvalidArgumentError: The first line has already been read.
        """
        if self._reader.is_started:
            raise InvalidArgumentError("raw() must be called before the first line is read")
        if self._reader.counts_lines:
            self._reader.return_partial_lines()
            return self._reader.bytes_of(self._lines)
        self._reader.return_bytes()
        chunks: AsyncIterator[Any] = self._lines
        return chunks

    def batches(self) -> AsyncIterator[Sequence[LogEntry]]:
        """Return an iterator over batches of lines that arrived together, instead of single lines.

        All lines of a batch have the same task, attempt, source and time. A partial line or a gap is a separate
        batch. An empty batch means that the stream is about to wait, so that the caller can show all lines so far.
        """
        return self._batches

    def flush(self) -> None:
        """Make the stream yield the partial lines that have arrived so far, as its next entries.

        Any task of the event loop may call this method. An entry with a partial line has `partial` set. The rest of the
        line becomes another entry later. A reader that starts at the cursor of such an entry neither repeats nor loses
        a byte.
        """
        self._reader.request_partial_lines()

    async def close(self) -> None:
        """End the stream. Any task of the event loop may call this method. A task that is waiting for a line stops
        waiting.
        """
        self._reader.close()
        # A generator cannot be closed while another asyncio task iterates over it. The error is ignored, because that
        # task then ends the generator.
        with suppress(RuntimeError):
            await self._lines.aclose()
            await self._batches.aclose()

    async def aclose(self) -> None:
        """End the stream, as `close` does. `contextlib.aclosing` calls this method."""
        await self.close()

    def __aiter__(self) -> AsyncIterator[LogEntry]:
        return self._lines

    async def __anext__(self) -> LogEntry:
        return await anext(self._lines)

    async def __aenter__(self) -> AsyncLogStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncTaskLogReader:
    """Reads the logs of tasks: first the lines that exist, and then, with `follow`, the future lines.

    Args:
        connection: The object that makes the calls of the client.
        job_id: The id of the job.
        task_indices: The tasks to read. None: all tasks of the job.
        options: The options of the log reader.
    """

    def __init__(
        self,
        connection: AsyncClusterConnection,
        job_id: str,
        task_indices: Sequence[int] | None,
        options: ReadOptions,
    ) -> None:
        self._connection = connection
        self._job_id = job_id
        self._task_indices = task_indices
        self._options = options
        self._state: ReadState | None = None
        self._future: AsyncFutureLines | None = None
        self._returns_bytes = False
        self._returns_partial_lines = options.partial
        self._are_partial_lines_requested = False
        # The timeout of the wait for the next batch. `close` ends the wait by letting this timeout expire.
        self._reading: asyncio.Timeout | None = None
        self._is_started = False
        self._is_closed = False

    @property
    def ends(self) -> Mapping[int, cluster_pb2.LogEnd]:
        """The end of the log of each task's last attempt, by task index."""
        return {} if self._state is None else self._state.ends

    @property
    def is_started(self) -> bool:
        """Whether the first batch was requested."""
        return self._is_started

    @property
    def counts_lines(self) -> bool:
        """Whether the number of lines is limited."""
        return self._options.counts_lines

    def return_bytes(self) -> None:
        """Make `batches` yield bytes instead of entries. Call this method before the first batch is read."""
        self._returns_bytes = True

    def return_partial_lines(self) -> None:
        """Make `batches` yield partial lines while tasks write them. Call this method before the first batch."""
        self._returns_partial_lines = True

    async def batches(self) -> AsyncGenerator[Any]:
        """Yield batches of entries, or of bytes, until the stream ends. Before each wait, yield an empty batch.

        Raises:
            NotFoundError: There is no such job, task or attempt.
            InvalidArgumentError: The cursor belongs to another job, task or attempt.
            ControllerUnreachableError: The controller has not answered for `options.patience_s`.
        """
        self._is_started = True
        limit = LineLimit(self._options)
        async with aclosing(self._with_requested_lines()) as batches:
            while not self._is_closed:
                items = await self._unless_closed(batches)
                if items is None:
                    return
                yield limit.cut(items)
                if limit.is_reached:
                    return

    async def bytes_of(self, entries: AsyncIterator[LogEntry]) -> AsyncGenerator[bytes]:
        """Yield the bytes of entries. If an entry is a gap, notify the user instead."""
        async for entry in entries:
            assert self._state is not None, "the entries come from this state"
            data = self._state.bytes_of(entry)
            if data is not None:
                yield data

    def request_partial_lines(self) -> None:
        """Make `batches` yield the partial lines that have arrived, before any further batch."""
        self._are_partial_lines_requested = True
        if self._future is not None:
            self._future.wake()

    def close(self) -> None:
        """End the reader. A task that waits for the next batch stops waiting."""
        self._is_closed = True
        if self._reading is not None:
            # If the wait for a batch has just ended, its timeout cannot be changed any more. The error is ignored.
            with suppress(RuntimeError):
                self._reading.reschedule(0)

    async def _unless_closed(self, batches: AsyncGenerator[Items]) -> Items | None:
        """Return the next batch. Return None at the end of the logs, or if the reader is closed during the wait."""
        self._reading = asyncio.timeout(None)
        try:
            async with self._reading:
                return await anext(batches, None)
        except TimeoutError:
            if not self._is_closed:
                raise
            return None
        finally:
            self._reading = None

    async def _with_requested_lines(self) -> AsyncGenerator[Items]:
        """Yield the batches of existing lines and of future lines. Also yield the partial lines each time the user
        requests them."""
        state = await self._connection.perform(
            ReadState.start(self._connection.reachable, self._job_id, self._task_indices, self._options)
        )
        state.reads_lines = not self._returns_bytes
        state.partial = self._returns_partial_lines
        state.renew_readers()
        self._state = state
        async with aclosing(self._both_stages(state)) as batches:
            async for items in batches:
                yield items
                if self._are_partial_lines_requested:
                    self._are_partial_lines_requested = False
                    for partial in state.requested_partial_lines():
                        yield partial

    async def _both_stages(self, state: ReadState) -> AsyncGenerator[Items]:
        existing = ExistingLines(state)
        async with aclosing(self._connection.items(existing.read())) as batches:
            async for _, items in batches:
                yield items
        if self._options.follow:
            # While the reader follows logs, it chooses the server of each log without a probe. Therefore it probes all
            # workers first.
            await self._connection.perform(state.routes.find(state.tasks.values()))
            self._future = AsyncFutureLines(self._connection, state)
            async with aclosing(self._future.run()) as future:
                async for items in future:
                    yield items
            if self._future.lacks_existing_lines():
                async with aclosing(self._connection.items(existing.read_rest())) as batches:
                    async for _, items in batches:
                        yield items


async def _each(batches: AsyncGenerator[Sequence[LogEntry]]) -> AsyncGenerator[LogEntry]:
    async with aclosing(batches):
        async for entries in batches:
            for entry in entries:
                yield entry
