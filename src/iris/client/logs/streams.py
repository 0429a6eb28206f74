"""Defines `LogStream`, the iterator over the lines of one or several tasks.

A stream has two stages. Each stage starts at exact offsets, never at a time:
1. `existing_lines.py` reads the lines that exist now, merged by time if several tasks are read.
2. With `follow`, `following/future_lines.py` reads the future lines until all tasks have ended.

After a lost connection, both stages of a stream continue with the first byte that has not arrived yet.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, Self

from iris.client.logs.existing_lines import Batch, ExistingLines
from iris.client.logs.following.future_lines import FutureLines
from iris.client.logs.read_options import ReadOptions
from iris.client.logs.read_state import Items, LineLimit, ReadState
from iris.cluster.client.operations.steps import ItemOperation
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2


class LogStream(Iterator[LogEntry]):
    """An iterator over the lines of one or several tasks.

    To end the stream early, close the stream or drop all references to the stream:

        with job.logs(follow=True) as lines:
            for line in lines:
                print(line.task_index, line.message)

    Each line is returned once, when the line is finished. A line that the task never finishes is returned when its
    attempt ends. `flush` and `partial=True` return partial lines earlier. Only one thread may iterate over the stream.
    `flush` and `close` may be called from any thread.
    """

    def __init__(self, reader: TaskLogReader) -> None:
        self._reader = reader
        self._batches = reader.batches()
        self._items = _Lines.over(reader, self._batches)

    @property
    def ends(self) -> Mapping[int, cluster_pb2.LogEnd]:
        """The end of the log of each task's last attempt, by task index: the state and exit code of the attempt, the
        size of its log, and whether bytes are missing. A task is added when its log was read to the end."""
        return self._reader.ends

    def raw(self) -> Iterator[bytes]:
        """Return an iterator over the exact bytes that the tasks wrote. Reading bytes is several times faster than
        reading lines.

        The bytes of several tasks or sources come in the order of their capture. A line of one task may therefore be
        interrupted by bytes of another task.

        Raises:
            InvalidArgumentError: The first line has already been read.
        """
        if inspect.getgeneratorstate(self._batches) is not inspect.GEN_CREATED:
            raise InvalidArgumentError("raw() must be called before the first line is read")
        if self._reader.counts_lines:
            self._reader.return_partial_lines()
            return self._reader.bytes_of(self._items)
        self._reader.return_bytes()
        chunks: Iterator[Any] = self._items
        return chunks

    def batches(self) -> Iterator[Sequence[LogEntry]]:
        """Return an iterator over batches of lines that arrived together, instead of single lines.

        All lines of a batch have the same task, attempt, source and time. A partial line or a gap is a separate
        batch. An empty batch means that the stream is about to wait, so that the caller can show all lines so far.
        """
        return self._batches

    def flush(self) -> None:
        """Make the stream yield the partial lines that have arrived so far, as its next entries.

        Any thread may call this method. An entry with a partial line has `partial` set. The rest of the line becomes
        another entry later. A reader that starts at the cursor of such an entry neither repeats nor loses a byte.
        """
        self._reader.request_partial_lines()

    def close(self) -> None:
        """End the stream. Any thread may call this method. A thread that is waiting for a line stops waiting."""
        self._items.close()

    def __iter__(self) -> Iterator[LogEntry]:
        return self._items

    def __next__(self) -> LogEntry:
        return next(self._items)

    def __enter__(self) -> LogStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TaskLogReader:
    """Reads the logs of tasks in two stages.

    Args:
        cluster: The client of the cluster.
        job_id: The id of the job.
        task_indices: The tasks to read. None: all tasks of the job.
        options: The options of the log reader.

    Raises:
        NotFoundError: There is no such job, task or attempt.
        InvalidArgumentError: The cursor belongs to another job, task or attempt.
        ControllerUnreachableError: The controller has not answered for `options.patience_s`.
    """

    def __init__(
        self, cluster: RemoteClusterClient, job_id: str, task_indices: Sequence[int] | None, options: ReadOptions
    ) -> None:
        self._cluster = cluster
        self._state = cluster.connection.perform(
            ReadState.start(cluster.connection.reachable, job_id, task_indices, options)
        )
        self._options = options
        self._existing = ExistingLines(self._state)
        self._existing_runner = cluster.connection.runner()
        self._future: FutureLines | None = None
        self._are_partial_lines_requested = False

    @property
    def ends(self) -> Mapping[int, cluster_pb2.LogEnd]:
        """The end of the log of each task's last attempt, by task index."""
        return self._state.ends

    @property
    def counts_lines(self) -> bool:
        """Whether the number of lines is limited."""
        return self._options.counts_lines

    def return_bytes(self) -> None:
        """Make `batches` yield bytes instead of entries. Call this method before the first batch is read."""
        self._state.reads_lines = False
        self._state.renew_readers()

    def return_partial_lines(self) -> None:
        """Make `batches` yield partial lines while tasks write them. Call this method before the first batch."""
        self._state.partial = True
        self._state.renew_readers()

    def batches(self) -> Generator[Any]:
        """Yield batches of entries, or of bytes, until the stream ends. Before each wait, yield an empty batch."""
        limit = LineLimit(self._options)
        with closing(self._with_requested_lines(self._both_stages())) as batches:
            for items in batches:
                yield limit.cut(items)
                if limit.is_reached or self._state.is_closed:
                    return

    def bytes_of(self, entries: Iterable[LogEntry]) -> Iterator[bytes]:
        """Yield the bytes of entries. If an entry is a gap, notify the user instead."""
        for entry in entries:
            data = self._state.bytes_of(entry)
            if data is not None:
                yield data

    def request_partial_lines(self) -> None:
        """Make `batches` yield the partial lines that have arrived, before any further batch. Any thread may call this
        method."""
        self._are_partial_lines_requested = True
        if self._future is not None:
            self._future.wake()

    def close(self) -> None:
        """End the reader, from any thread."""
        self._state.is_closed = True
        self._existing_runner.abort()
        if self._future is not None:
            self._future.end()

    def _with_requested_lines(self, batches: Generator[Items]) -> Generator[Items]:
        """Yield the given batches. Also yield the partial lines each time the user requests them."""
        with closing(batches):
            for items in batches:
                yield items
                if self._are_partial_lines_requested:
                    self._are_partial_lines_requested = False
                    yield from self._state.requested_partial_lines()

    def _both_stages(self) -> Generator[Items]:
        yield from self._items(self._existing.read())
        if self._options.follow and not self._state.is_closed:
            self._future = FutureLines(self._cluster, self._state)
            yield from self._future.run()
            if self._future.lacks_existing_lines():
                yield from self._items(self._existing.read_rest())

    def _items(self, operation: ItemOperation[Batch, None]) -> Generator[Items]:
        with closing(self._existing_runner.items(operation)) as batches:
            for _, items in batches:
                yield items


class _Lines(itertools.chain[LogEntry]):
    """An iterator over the lines of a stream. Iterating over an `itertools.chain` is fast, because no Python code runs
    for each line.
    """

    _reader: TaskLogReader
    _batches: Generator[Sequence[LogEntry]]

    @classmethod
    def over(cls, reader: TaskLogReader, batches: Generator[Sequence[LogEntry]]) -> Self:
        """Return the lines of a reader's batches."""
        lines = cls.from_iterable(batches)
        assert isinstance(lines, cls)
        lines._reader, lines._batches = reader, batches
        return lines

    def close(self) -> None:
        """End the stream, from any thread."""
        self._reader.close()
        # A generator cannot be closed while another thread iterates over it. The error is ignored, because that thread
        # then ends the generator.
        with suppress(ValueError):
            self._batches.close()
