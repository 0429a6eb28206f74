"""Defines a log that is open for one reader of a stream, and the limits that all streams of a server share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.gap_reasons import WORKER_KILLED
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.reading.scan_threads import LogScans
from iris.cluster.logs.records import Offsets
from iris.rpc import cluster_pb2
from iris.system.event_loop import open_file_limit

# A silent stream sends an empty message, a beat, after this many seconds, because common proxies close a stream that is
# silent for 20 to 60 s.
BEAT_S = 10.0
MESSAGE_BYTES = 1 << 20
# A stream begins with small messages and doubles their size, so that some messages arrive on a connection that breaks
# often.
FIRST_MESSAGE_BYTES = 4 << 10
# The memory for messages that readers have not received yet, over all streams of a server.
_BUFFERED_BYTES = 256 << 20
_PAUSE_S = 0.002
_PAUSE_PER_STREAM_S = 0.0003
# The seconds after which a partial line is shown. Readers are promised 200 ms, which include the transfer.
_PARTIAL_LINE_S = 0.1


class RecordReader(Protocol):
    """Reads the records of one log in order. `LogReader` and `FilteredReader` implement this protocol."""

    def read(self, max_bytes: int, *, final: bool) -> bytes: ...

    def bytes_left(self) -> int: ...

    @property
    def is_searching(self) -> bool: ...

    @property
    def exhausted(self) -> bool: ...

    @property
    def position(self) -> int: ...

    @property
    def offsets(self) -> Offsets: ...

    @property
    def missing(self) -> int: ...

    @property
    def written(self) -> Offsets | None: ...

    @property
    def truncated(self) -> bool: ...

    def mark(self) -> bytes: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class OpenLog:
    """The log of one attempt, opened for one reader of a stream.

    Attributes:
        task_index: The index of the task.
        attempt_id: The id of the attempt.
        reader: The object that reads the records of the log.
        is_final: A function that returns whether the attempt has ended and its whole log is on disk.
        end: A function that returns the attempt's state for the closing message.
        writer: The log's writer, which announces new records, if this process writes the log or has written it. None if
            another process has written it.
        goal: The position, in bytes of records, at which a stream without `follow` ends. Without this limit, such a
            stream might never end, because a task can write faster than a reader reads.
        keeps_file_open: Whether the log's file stays open between two reads.
        until_announced: A function that waits until readers may get the output of the attempt's process. The worker's
            announcement.py explains the rule.
    """

    task_index: int
    attempt_id: int
    reader: RecordReader
    is_final: Callable[[], bool]
    end: Callable[[], cluster_pb2.LogEnd]
    writer: LogWriter | None = None
    goal: int | None = None
    keeps_file_open: bool = False
    until_announced: Callable[[], Awaitable[None]] | None = None
    _partial_lines: tuple[int, ...] = ()
    _show_partial_at_s: float | None = None

    def schedule_partial_line(self) -> None:
        """Set the time at which the reader must show a partial line. The stream calls this method after it has sent all
        written records.
        """
        if self.writer is None:
            return
        now = self.writer.unfinished
        if self._show_partial_at_s is None or not _has_same_line(self._partial_lines, now):
            self._partial_lines = now
            self._show_partial_at_s = time.monotonic() + _PARTIAL_LINE_S if max(now) >= 0 else None

    def must_show_partial_line(self) -> bool:
        """Return whether the reader must show a partial line now. True is returned once for each partial line."""
        if self._show_partial_at_s is None or self.writer is None or time.monotonic() < self._show_partial_at_s:
            return False
        self._show_partial_at_s = None
        return _has_same_line(self._partial_lines, self.writer.unfinished)

    @property
    def show_partial_at_s(self) -> float | None:
        """The time on the monotonic clock at which a partial line may be shown; None without a partial line."""
        return self._show_partial_at_s

    def finished(self, *, complete: bool) -> cluster_pb2.LogEnd:
        """Return the message that tells the reader about the end of the log.

        Args:
            complete: Whether the reader has got the whole log of an ended attempt.
        """
        end = self.end()
        end.complete = complete
        end.offsets.extend(self.reader.offsets)
        if self.writer is not None:
            end.bytes_written.extend(self.writer.offsets)
            end.bytes_missing = max(self.writer.missing, self.reader.missing)
            return end
        end.bytes_written.extend(self.reader.written or self.reader.offsets)
        end.bytes_missing = self.reader.missing
        if self.reader.truncated:
            end.missing_reason = WORKER_KILLED
        return end


@dataclass(slots=True)
class StreamBudget:
    """The resources that all log streams of one server may use together.

    Attributes:
        beat_s: A stream that is silent for this many seconds sends an empty message.
        count: The number of streams that are open now.
        max_open_files: How many log files may stay open between two reads. Further logs are reopened for each read.
        open_files: How many log files stay open now.
        scans: The threads that read large parts of logs.
    """

    beat_s: float = BEAT_S
    count: int = 0
    max_open_files: int = field(default_factory=lambda: open_file_limit() // 4)
    open_files: int = 0
    scans: LogScans = field(default_factory=LogScans)

    @contextmanager
    def count_stream(self) -> Iterator[None]:
        """Count a stream as open for the duration of the context."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    def keep_file_open(self, log: OpenLog) -> None:
        """Keep a log's file open after a read, or close the file when too many files are open."""
        if not log.keeps_file_open and self.open_files < self.max_open_files:
            log.keeps_file_open = True
            self.open_files += 1
        elif not log.keeps_file_open:
            log.reader.close()

    def close_file(self, log: OpenLog) -> None:
        """Close a log's file."""
        self.open_files -= log.keeps_file_open
        log.keeps_file_open = False
        log.reader.close()

    @property
    def message_bytes(self) -> int:
        """The largest size of a message of one stream, in bytes. A single long record may be larger."""
        return max(FIRST_MESSAGE_BYTES, min(MESSAGE_BYTES, _BUFFERED_BYTES // max(1, self.count)))

    @property
    def pause_s(self) -> float:
        """The seconds that a stream pauses after a message."""
        return _PAUSE_S + _PAUSE_PER_STREAM_S * self.count


def open_reader(
    directory: Path,
    offsets: Offsets,
    writer: LogWriter | None,
    filter_message: cluster_pb2.Worker.FetchLogsFilter,
) -> RecordReader:
    """Return a reader for a log, which applies a filter if one is given.

    Args:
        directory: The directory of the log.
        offsets: Where the reader begins, by source.
        writer: The log's writer if this process writes the log or has written it; None if another process has written
            it.
        filter_message: The filter; an empty message selects everything.

    Raises:
        InvalidArgumentError: The filter is invalid.
        ResourceExhaustedError: The pattern of the filter has too many characters.
    """
    if not filter_message.ByteSize():
        return LogReader(directory, offsets, writer=writer)
    # The filter module is imported here, because it loads the library re2, and few readers use a filter.
    from iris.cluster.logs.reading.filters import FilteredReader, parse_filter

    log_filter = parse_filter(filter_message)
    if log_filter.is_open:
        return LogReader(directory, offsets, writer=writer)
    return FilteredReader(directory, offsets, writer=writer, log_filter=log_filter)


def _has_same_line(before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    return any(start >= 0 and start == then for start, then in zip(now, before, strict=False))
