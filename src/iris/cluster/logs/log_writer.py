"""Writes the log of one attempt: the output of the attempt's pipes, as records in segments.

All functions of this module block on the disk. Nothing is synced to the disk, so a log survives the death of the
worker, but not a crash of the machine.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.logs.reading.line_numbers import LineNumbers
from iris.cluster.logs.reading.numbered_lines import LogIndex
from iris.cluster.logs.records import (
    HEADER,
    MAX_PAYLOAD,
    SOURCE_ID,
    SOURCES,
    Offsets,
    encode_gap,
    encode_header,
)
from iris.cluster.logs.records import Source as Source
from iris.cluster.logs.segments import ORIGIN, LogEnd, RecordBoundary, write_end
from iris.config import DEFAULT_MAX_LOG_BYTES
from iris.counts import counted, word_for

_SEGMENT_BYTES = 16 << 20
_SMALLEST_SEGMENT_BYTES = 64 << 10
# A log at its size limit has about this many segments. Dropping the oldest segment therefore drops only a part of the
# log.
_SEGMENTS = 8
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loss:
    """The bytes of one source that were lost because the disk did not accept the bytes. The next gap record will cover
    the lost bytes."""

    missing: int = 0
    timestamp_ms: int = 0
    reason: str = ""


class LogWriter:
    """Writes the log of one attempt. Other processes and threads can read each record as soon as `append` returns.

    Only one thread may use a writer. Readers in other threads need no lock, because all objects that they use are
    immutable and are replaced as a whole: `tip` after the bytes before it were written, and `segments` before the first
    byte of a new segment is written.

    Args:
        directory: The directory of the segments, which the writer creates. Its parent must exist.
        max_bytes: About how many bytes of records are kept. If the log grows larger, its oldest segment is dropped.

    Attributes:
        tip: The end of the last whole record. Bytes that were lost since the last record do not count.
        segments: The positions in the log at which the existing segments begin, in order.
        index: The places in the log at which a reader of lines can start.
        numbers: The numbers of the lines that readers have counted so far.
        missing: How many bytes of the sources were lost or dropped.
        max_bytes: About how many bytes of records are kept.
        end: The summary of the log; None before the log is closed.
        removed: Why segments are missing from the directory, if `check_directory` has found that segments are missing.
            Otherwise empty.
        lost: How many bytes of the sources are missing because of a disk error, or because the directory of the log was
            removed or moved. Bytes that were dropped because of `max_bytes` do not count.

    Raises:
        FileExistsError: The log exists already. An attempt is written only once.
    """

    def __init__(self, directory: Path, *, max_bytes: int = DEFAULT_MAX_LOG_BYTES) -> None:
        try:
            directory.mkdir()
        except FileExistsError:
            raise
        except OSError:
            pass  # If the disk is full now, the writer tries again to create the first segment at each later record.
        self.removed = ""
        self.lost = 0
        self.tip = ORIGIN
        self.segments: tuple[RecordBoundary, ...] = ()
        self.index = LogIndex()
        self.numbers = LineNumbers()
        self.missing = 0
        self.max_bytes = max_bytes
        self.end: LogEnd | None = None
        self._directory = directory
        self._segment_bytes = min(_SEGMENT_BYTES, max(_SMALLEST_SEGMENT_BYTES, max_bytes // _SEGMENTS))
        # A record is at most as long as a segment. Otherwise one long record would push all earlier records out of the
        # log.
        self._record_bytes = min(MAX_PAYLOAD, self._segment_bytes - HEADER.size)
        self._fd = -1  # The file descriptor of the last segment of the log.
        self._closed = self._is_ended = False
        self._losses = [_Loss() for _ in SOURCES]
        self._is_losing = False
        self._why_lost = ""
        # For each segment, how many bytes its gap records cover. When the segment is dropped, these bytes already count
        # as missing.
        self._lost_in: dict[int, int] = {}
        self._subscribers: dict[Callable[[], None], None] = {}

    @property
    def offsets(self) -> Offsets:
        """The number of bytes that each source has written. Lost bytes count, too."""
        stdout, stderr, build = (
            recorded + loss.missing for recorded, loss in zip(self.tip.offsets, self._losses, strict=True)
        )
        return stdout, stderr, build

    @property
    def position(self) -> int:
        """The position after the last whole record, in bytes of records since the beginning of the log."""
        return self.tip.position

    @property
    def unfinished(self) -> tuple[int, ...]:
        """The offset at which the partial line of each source begins; -1 for a source without a partial line."""
        lengths = map(self.index.tail_length, range(len(SOURCES)))
        return tuple(end - length if length else -1 for end, length in zip(self.tip.offsets, lengths, strict=True))

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each append that has written bytes to the log, after the log's directory was found
        missing, and after the log is closed. The callback runs before `append` returns, so the callback must be quick
        and leave its work for later.
        """
        self._subscribers[callback] = None

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """Stop calling `callback` after appends. An unknown callback is ignored."""
        self._subscribers.pop(callback, None)

    def append(self, source: Source, data: bytes, timestamp_ms: int) -> None:
        """Append the bytes of one read from a pipe.

        Bytes that the disk does not accept are counted, and a gap record covers them before the next record. The caller
        gets no error, because the task must be able to continue.

        Raises:
            ValueError: The log is closed.
        """
        if self._closed:
            raise ValueError(f"the log {self._directory} is closed")
        source_id = SOURCE_ID[source]
        written = False
        step = self._record_bytes
        for start in range(0, len(data), step):
            written |= self._append(source_id, data[start : start + step], timestamp_ms)
        if written:
            self._notify()

    @property
    def is_ended(self) -> bool:
        """Whether the log is closed and the file `end` is on disk."""
        return self._is_ended

    def close(self) -> None:
        """Close the log: write the last gap records, and the file `end`. If the disk does not accept the file `end`, a
        later call of `close` tries again. After a success, further calls do nothing.
        """
        if not self._closed:
            self.check_directory()
            self._closed = True
            offsets = self.offsets
            if self._is_losing:
                try:
                    end = self._write(self._gaps())
                    self._gaps_written()
                    self._publish(end, offsets)
                except OSError:
                    # The gap records are missing, but readers learn of the missing bytes from the file `end` and from
                    # `reason`.
                    pass
            self._close_segment()
            self.end = LogEnd(offsets, self.missing, self.max_bytes, lost=self.removed)
            self._write_end()
            self._notify()
        elif not self._is_ended:
            self._write_end()

    def _write_end(self) -> None:
        assert self.end is not None, "a log that is closed"
        try:
            if not self._directory.exists():
                self._directory.mkdir(parents=True)
            write_end(self._directory, self.end)
            self._is_ended = True
        except OSError as error:
            _log.error("cannot write the end of the log %s: %s", self._directory, error)

    def check_directory(self) -> bool:
        """Check whether the log's directory still contains the log. Otherwise continue the log in a new segment.

        A user may have removed or moved the directory. In this case, all earlier records are missing. Readers notice
        the loss, because the name of the new segment states where the segment begins. If the disk cannot create the
        segment now, the writer tries again at each record.

        Returns:
            True if this call has found that the log was removed or moved.
        """
        if self._closed or self._fd < 0 or self._is_in_directory():
            return False
        self.removed = f"the log was removed, or moved, while the task ran: {self._directory}"
        _log.error("%s", self.removed)
        for segment, following in zip(self.segments, [*self.segments[1:], self.tip], strict=True):
            if not (self._directory / segment.segment_name).exists():
                size = sum(following.offsets) - sum(segment.offsets)
                newly = size - self._lost_in.get(segment.position, 0)
                self._lost_in[segment.position] = size
                self.missing += newly
                self.lost += newly
        self._close_segment()
        try:
            self._begin_segment()
        except OSError as error:
            _log.error("cannot write the log %s: %s", self._directory, error)
        self._notify()
        return True

    def _is_in_directory(self) -> bool:
        """Return whether the open segment is the file that readers find by the segment's name."""
        try:
            there, ours = os.stat(self._directory / self.segments[-1].segment_name), os.fstat(self._fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # The disk cannot report the state of the file now, so assume that the file is in place.
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    @property
    def warning(self) -> str:
        """A text for people about the output that counts as `lost`; empty if no output was lost."""
        if not self.lost:
            return ""
        verb = word_for(self.lost, "is", "are")
        return f"{counted(self.lost, 'byte')} of its log {verb} missing: {self.removed or self._why_lost}"

    def reason(self, source_id: int) -> str:
        """Return the reason why the last bytes of a source were not written; "" if all bytes were written."""
        return self._losses[source_id].reason

    def _notify(self) -> None:
        for callback in tuple(self._subscribers):
            callback()

    def _append(self, source_id: int, payload: bytes, timestamp_ms: int) -> bool:
        offsets = self.offsets if self._is_losing else self.tip.offsets
        header = encode_header(source_id, timestamp_ms, offsets[source_id], payload)
        try:
            # A gap and the record after it are written together or not at all, so that no log ends with a gap.
            if self._is_losing:
                end = self._write((*self._gaps(), header, payload))
                self._gaps_written()
            else:
                end = self._write((header, payload))
        except OSError as error:
            self._lose(source_id, len(payload), timestamp_ms, error)
            return False
        self.index.add(source_id, timestamp_ms, payload)
        self._publish(end, _moved(offsets, source_id, len(payload)))
        return True

    def _write(self, frames: tuple[bytes, ...]) -> int:
        """Write either all of the given records or none. Return the position in the log after the records."""
        size = sum(map(len, frames))
        if self._fd < 0 or (self._used() + size > self._segment_bytes and self._used() > 0):
            self._begin_segment()
        at = self._used()
        try:
            # The records are written at a known offset, and not in append mode. If both a write and the truncation
            # after it fail, the next record overwrites the remains of the failed write.
            written = os.pwritev(self._fd, frames, at)
            if written < size:
                rest = memoryview(b"".join(frames))
                while written < size:
                    written += os.pwrite(self._fd, rest[written:], at + written)
        except OSError:
            try:
                os.ftruncate(self._fd, at)
            except OSError:
                # The caller reports the first error. A failed truncation does no harm, because no reader reads beyond
                # the tip.
                pass
            raise
        return self.tip.position + size

    def _used(self) -> int:
        return self.tip.position - self.segments[-1].position

    def _begin_segment(self) -> None:
        self._close_segment()
        self.index.begin_segment(self.tip.offsets)
        place = RecordBoundary(self.tip.position, self.tip.position, self.tip.offsets)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        path = self._directory / place.segment_name
        try:
            self._fd = os.open(path, flags, 0o666)
        # The log's directory may be missing, because a user removed it, or because the disk was full when the log was
        # created. Therefore the directory is created again.
        except FileNotFoundError:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, flags, 0o666)
        self.segments = (*self.segments, place)

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _publish(self, position: int, offsets: Offsets) -> None:
        self.tip = RecordBoundary(position, position, offsets)
        self.index.mark(position, offsets)
        while position - self.segments[0].position > self.max_bytes and len(self.segments) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest, *rest = self.segments
        self.missing += sum(rest[0].offsets) - sum(oldest.offsets) - self._lost_in.pop(oldest.position, 0)
        self.segments = tuple(rest)
        self.index.drop_before(rest[0].position)
        self.numbers.drop_before(rest[0].position)
        try:
            (self._directory / oldest.segment_name).unlink()
        except FileNotFoundError:
            pass  # If another process has already removed the file, there is nothing left to do.
        except OSError as error:
            _log.warning("cannot remove the oldest segment of the log %s: %s", self._directory, error)

    def _lose(self, source_id: int, size: int, timestamp_ms: int, error: OSError) -> None:
        if not self._is_losing:
            _log.error("cannot write the log %s: %s", self._directory, error)
        self._is_losing = True
        self.missing += size
        self.lost += size
        loss = self._losses[source_id]
        if not loss.missing:
            what = (
                "the disk was full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "the log could not be written"
            )
            loss.reason = self._why_lost = f"{what}: {os.strerror(error.errno or 0)}"
        loss.missing += size
        loss.timestamp_ms = timestamp_ms

    def _gaps(self) -> tuple[bytes, ...]:
        return tuple(
            encode_gap(source_id, loss.timestamp_ms, self.tip.offsets[source_id], loss.missing, loss.reason)
            for source_id, loss in enumerate(self._losses)
            if loss.missing
        )

    def _gaps_written(self) -> None:
        segment = self.segments[-1].position
        for source_id, loss in enumerate(self._losses):
            if loss.missing:
                self._lost_in[segment] = self._lost_in.get(segment, 0) + loss.missing
                self.index.add_gap(source_id)
        self._losses = [_Loss() for _ in SOURCES]
        self._is_losing = False


def _moved(offsets: Offsets, source_id: int, size: int) -> Offsets:
    stdout, stderr, build = offsets
    if source_id == 0:
        return stdout + size, stderr, build
    return (stdout, stderr + size, build) if source_id == 1 else (stdout, stderr, build + size)
