"""Writes one attempt's log: what its pipes gave, as records, into segments.

Everything here blocks on the disk. Nothing is synced: a log survives the worker's death, not the machine's.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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

_SEGMENT_BYTES = 16 << 20
_SMALLEST_SEGMENT_BYTES = 64 << 10
_SEGMENTS = 8  # at least about so many make up the limit: one of them is dropped at a time
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loss:
    """What a source wrote and the disk did not take, until it can be declared."""

    missing: int = 0
    timestamp_ms: int = 0
    reason: str = ""


class LogWriter:
    """Writes one attempt's log. Each append can be read by others as soon as it returns.

    Not safe to use from several threads. Readers may be in other threads and take no lock: what they look at is
    immutable and replaced as a whole, `tip` after the bytes before it were written, `segments` before a byte of a new
    one is.

    Args:
        directory: Made here, for the segments; what it lies in exists.
        max_bytes: What is kept of records, about; the oldest segment is dropped where it becomes more.

    Attributes:
        tip: The end of the last whole record. Its offsets do not count what is still to be declared as lost.
        segments: Where the segments that are there begin, in order.
        index: What reading by line numbers needs to start in mid-log.
        missing: Bytes of the sources that were lost or dropped.
        max_bytes: The limit.
        end: What the closed log says of itself; None before.
        removed: Why segments are not where they were written, once `check_place` has found that; empty before.
        lost: Bytes of the sources that are missing because of the disk, and not because of `max_bytes`.

    Raises:
        FileExistsError: There is a log already: an attempt is written once.
    """

    def __init__(self, directory: Path, *, max_bytes: int = DEFAULT_MAX_LOG_BYTES) -> None:
        try:
            directory.mkdir()
        except FileExistsError:
            raise
        except OSError:
            pass  # a full disk, for example: the first segment is tried with each record until it can be made
        self.removed = ""
        self.lost = 0
        self.tip = ORIGIN
        self.segments: tuple[RecordBoundary, ...] = ()
        self.index = LogIndex()
        self.missing = 0
        self.max_bytes = max_bytes
        self.end: LogEnd | None = None
        self._directory = directory
        self._segment_bytes = min(_SEGMENT_BYTES, max(_SMALLEST_SEGMENT_BYTES, max_bytes // _SEGMENTS))
        # A record is never longer than a segment is to be: else one long read would push out all that is kept.
        self._record_bytes = min(MAX_PAYLOAD, self._segment_bytes - HEADER.size)
        self._fd = -1  # of the last segment
        self._closed = self._is_ended = False
        self._losses = [_Loss() for _ in SOURCES]
        self._is_losing = False
        self._why_lost = ""
        # Of each segment, how much the gaps in it speak of: that is missing already when the segment is dropped.
        self._lost_in: dict[int, int] = {}
        self._subscribers: dict[Callable[[], None], None] = {}

    @property
    def offsets(self) -> Offsets:
        """How much each source has written, lost bytes included."""
        stdout, stderr, build = (
            recorded + loss.missing for recorded, loss in zip(self.tip.offsets, self._losses, strict=True)
        )
        return stdout, stderr, build

    @property
    def position(self) -> int:
        """The end of the last whole record, in bytes of records since the log's beginning."""
        return self.tip.position

    @property
    def unfinished(self) -> tuple[int, ...]:
        """Where in its source each source's unfinished line begins; -1 where it has none."""
        lengths = map(self.index.tail_length, range(len(SOURCES)))
        return tuple(end - length if length else -1 for end, length in zip(self.tip.offsets, lengths, strict=True))

    @property
    def lines(self) -> int:
        """How many lines have ended by now: the completed ones, and the pieces of long ones."""
        return self.tip.line

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Has `callback` called after each append that wrote something, and at the close.

        It is called where the writer is, before `append` returns: it only notes that there is something to do.
        """
        self._subscribers[callback] = None

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """Ends a subscription; one that is not there has ended."""
        self._subscribers.pop(callback, None)

    def append(self, source: Source, data: bytes, timestamp_ms: int) -> None:
        """Adds what one read from a pipe gave; no data adds nothing.

        What the disk does not take is counted, and declared by a gap record before what comes next. Nothing of it is
        raised: the task goes on.

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
        """Whether it is closed, and its end is on the disk."""
        return self._is_ended

    def close(self) -> None:
        """Declares what is still to be declared, and the end. Where the disk does not take the end, another call tries
        again; after that it does nothing."""
        if not self._closed:
            self.check_place()
            self._closed = True
            offsets = self.offsets
            if self._is_losing:
                try:
                    end = self._write(self._gaps())
                    self._gaps_written()
                    self._publish(end, offsets)
                except OSError:
                    pass  # the end tells of it, and `reason`
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

    def check_place(self) -> bool:
        """Find out whether the log is still where it was written, and go on in a new segment where it is not.

        Somebody may have removed or moved the directory. What was written until then is missing, and readers are told
        so from now on: the new segment says where it begins. The disk may not take it now; then each record tries.

        Returns:
            Whether it was found just now that the log is elsewhere.
        """
        if self._closed or self._fd < 0 or self._is_in_place():
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

    def _is_in_place(self) -> bool:
        """Whether the file that is written is the one that readers find by its name."""
        try:
            there, ours = os.stat(self._directory / self.segments[-1].segment_name), os.fstat(self._fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # it cannot be told now
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    @property
    def warning(self) -> str:
        """What is missing because of the disk, in words; empty: nothing."""
        if not self.lost:
            return ""
        return f"{self.lost:,} bytes of its log are missing: {self.removed or self._why_lost}"

    def reason(self, source_id: int) -> str:
        """Why the bytes between the source's offset at the tip and its end are missing; "" where none are."""
        return self._losses[source_id].reason

    def _notify(self) -> None:
        for callback in tuple(self._subscribers):
            callback()

    def _append(self, source_id: int, payload: bytes, timestamp_ms: int) -> bool:
        offsets = self.offsets if self._is_losing else self.tip.offsets
        header = encode_header(source_id, timestamp_ms, offsets[source_id], payload)
        try:
            if self._is_losing:  # what is lost and what comes next, both or none: no gap stands there without an end
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
        """Writes whole records, all or none, and says where they end."""
        size = sum(map(len, frames))
        if self._fd < 0 or (self._used() + size > self._segment_bytes and self._used() > 0):
            self._begin_segment()
        at = self._used()
        try:
            # At our own offset, not in append mode: should the truncation below fail as well, the next record
            # overwrites what is left of this one.
            written = os.pwritev(self._fd, frames, at)
            if written < size:
                rest = memoryview(b"".join(frames))
                while written < size:
                    written += os.pwrite(self._fd, rest[written:], at + written)
        except OSError:
            try:
                os.ftruncate(self._fd, at)
            except OSError:
                pass  # the first error is the one to report; no reader looks beyond the tip
            raise
        return self.tip.position + size

    def _used(self) -> int:
        return self.tip.position - self.segments[-1].position

    def _begin_segment(self) -> None:
        self._close_segment()
        self.index.begin_segment(self.tip.offsets)
        place = RecordBoundary(self.tip.position, self.index.line, self.tip.offsets)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        path = self._directory / place.segment_name
        try:
            self._fd = os.open(path, flags, 0o666)
        except FileNotFoundError:  # removed, or never made since the disk was full
            self._directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, flags, 0o666)
        self.segments = (*self.segments, place)

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _publish(self, position: int, offsets: Offsets) -> None:
        self.tip = RecordBoundary(position, self.index.line, offsets)
        self.index.mark(position, offsets)
        while position - self.segments[0].position > self.max_bytes and len(self.segments) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest, *rest = self.segments
        self.missing += sum(rest[0].offsets) - sum(oldest.offsets) - self._lost_in.pop(oldest.position, 0)
        self.segments = tuple(rest)
        self.index.drop_before(rest[0].position)
        try:
            (self._directory / oldest.segment_name).unlink()
        except FileNotFoundError:
            pass  # as it should be
        except OSError as error:
            _log.warning("cannot remove the oldest of the log %s: %s", self._directory, error)

    def _lose(self, source_id: int, size: int, timestamp_ms: int, error: OSError) -> None:
        if not self._is_losing:
            _log.error("cannot write the log %s: %s", self._directory, error)
        self._is_losing = True
        self.missing += size
        self.lost += size
        loss = self._losses[source_id]
        if not loss.missing:
            what = "the disk was full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "it could not be written"
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
