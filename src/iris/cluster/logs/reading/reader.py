"""Reads the records of one attempt's log from disk. Reading can start at any place, and gaps stand for missing bytes.

A reader returns whole, unchanged records. Each byte of a source appears exactly once and in order: in a record, or
covered by a gap. Where the disk has no record, because the oldest records were dropped or a file is damaged, the reader
inserts a gap. The reader knows the size of such a gap from the names of the segments, and at the end of the log from
the writer or from the file `end`. All functions of this module block on the disk.
"""

from __future__ import annotations

import contextlib
import enum
from bisect import bisect_right
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from iris.cluster.logs.checksum import crc32
from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.gap_reasons import DAMAGED, LOST_WITH_WORKER, NOT_ON_DISK, GapReasons
from iris.cluster.logs.reading.segment_file import LAST_SOURCE, MAGIC_WORD, SegmentFile, measure_gap
from iris.cluster.logs.records import BEGINNING, CHECKED_AT, HEADER, SOURCES, Offsets, encode_gap
from iris.cluster.logs.segments import RecordBoundary, list_segments, read_end, read_written, segment_size
from iris.errors import UnavailableError


class Chunk(NamedTuple):
    """A sequence of whole records from one segment.

    Attributes:
        records: The records, unchanged from the disk; empty if all records that were read lie before the wanted
            offsets.
        begins: Where the records begin; None except at the beginning of a segment and after a damaged part.
        lost: Whether the records are gaps that the reader has inserted.
    """

    records: bytes
    begins: RecordBoundary | None = None
    lost: bool = False


class _Step(enum.Enum):
    """The outcome of one step of `LogReader.read_chunk` if the step has found neither a chunk nor the end of the
    log.
    """

    AGAIN = enum.auto()
    ENTERED = enum.auto()


class _Surroundings(NamedTuple):
    """The segments of a log, seen from the position of a reader.

    Attributes:
        segments: All segments of the log that the directory has now.
        tip: The end of the last whole record that the writer has written. None if another process has written the log.
        current: The segment that contains the reader's position; None if the position lies before the oldest segment.
        following: The segment after the reader's position; None if there is no such segment.
    """

    segments: tuple[RecordBoundary, ...]
    tip: RecordBoundary | None
    current: RecordBoundary | None
    following: RecordBoundary | None


class LogReader:
    """Reads a log from a given place on, also while the log is being written.

    Args:
        directory: The directory of the log. A missing directory is an empty log.
        offsets: Where to begin, by source. Records before these offsets are left out; a record that straddles its
            offset is returned whole.
        writer: The log's writer if this process writes the log or has written it. None if another process has written
            the log, which then ends where its files end.
        position: The position in the log at which the offsets lie, if the caller knows this position.
        wanted: If `position` is given, records before these offsets are left out.

    Attributes:
        offsets: Up to which offset each source was returned, gaps included.
        missing: How many bytes the returned gaps cover.
        written: How many bytes each source has written, known at the end of a final log.
        truncated: Whether the worker was killed, so that the last output may be missing; known at the end of a final
            log.
        exhausted: Always False for this class. Only a `FilteredReader` stops after a number of lines.
        position: Where the next record begins, in bytes of records since the beginning of the log.
        last_ms: The time of the last record that was read, in milliseconds since the epoch.
    """

    def __init__(
        self,
        directory: Path,
        offsets: Offsets = BEGINNING,
        *,
        writer: LogWriter | None = None,
        position: int | None = None,
        wanted: Offsets | None = None,
    ) -> None:
        self.offsets = wanted or offsets
        self.missing = 0
        self.written: Offsets | None = None
        self.truncated = False
        self.exhausted = False
        self.position = position or 0
        self.last_ms = 0
        self._directory = directory
        self._writer = writer
        self._reasons = GapReasons(directory, writer)
        # The segments that the last listing of the directory has found. Not used if `writer` is given, because the
        # writer knows its segments.
        self._segments: tuple[RecordBoundary, ...] | None = None
        self._sought = position is not None
        # For each source, the offset at which the next record begins. It is less than the offset in `self.offsets`
        # while records are left out.
        self._at = list(offsets)
        self._opened: SegmentFile | None = None
        self._listed_final = False
        # The last segment of the log, and the position at which it ended when the reader last looked. The value is not
        # used while the reader reads this segment.
        self._last_end: tuple[RecordBoundary, int] | None = None
        # The position in the log at which the next chunk begins. None if the next chunk follows the last chunk without
        # a gap.
        self._begins: RecordBoundary | None = None
        self._reason = DAMAGED  # Why records are missing before the next segment, as text for people.

    @property
    def passed(self) -> Offsets:
        """The offset up to which each source was read. Bytes that were read but not returned count, too."""
        return self._at[0], self._at[1], self._at[2]

    def read(self, max_bytes: int, *, final: bool) -> bytes:
        """Return whole records, or b"" if nothing more can be read now.

        Args:
            max_bytes: About how many bytes to return; at least one record is returned.
            final: Whether the writer had finished before this call. In this case, b"" means the end of the log.

        Raises:
            UnavailableError: The log cannot be read now, for example because this process has too many open files. Or,
                since the reader started, the controller has moved the log to another location, or the complete log was
                removed.
        """
        while (chunk := self.read_chunk(max_bytes, final=final)) is not None:
            if chunk.records:
                return chunk.records
        return b""

    def read_chunk(self, max_bytes: int, *, final: bool) -> Chunk | None:
        """Return whole records, and the place at which they begin; None if nothing more can be read now. Used by
        `read`.

        A chunk is read in these steps:
        1. Note what can be read now. The tip is noted before the segments, so that the segments reach up to the tip.
        2. Find the segment of the position, or the oldest one if that segment was dropped. A segment that is open is
           read to its end, even if it was dropped meanwhile.
        3. Return a gap if the segment begins after the bytes that were returned.
        4. Read and check records, up to the next segment, the tip, or the end of the file.
        5. Bytes that do not form a record count as damage. Continue with the next segment, whose name states how much
           is missing. In the last segment, continue with the tip, or with the end of the log.
        """
        while True:
            step = self._next_step(max_bytes, final)
            if not isinstance(step, _Step):
                return step

    @property
    def is_searching(self) -> bool:
        """Always False for this class. Only a `FilteredReader` searches for the beginning of a tail."""
        return False

    def bytes_left(self) -> int:
        """Return about how many bytes of records can still be read now."""
        segments = self._list(final=False)
        self._seek(segments)
        if self._writer is not None:
            return max(0, self._writer.tip.position - self.position)
        if not segments:
            return 0
        return max(0, self._end_of(segments[-1]) - self.position)

    def _end_of(self, last: RecordBoundary) -> int:
        """Return the position at which the last segment ends now. Streams call this method several times for each
        message. Therefore the file is not looked up by its name each time.
        """
        try:
            if self._opened is not None and self._opened.start == last:
                return self._opened.end
            if self._last_end is None or self._last_end[0] != last:
                self._last_end = last, last.position + segment_size(self._directory, last)
        except OSError:
            return last.position
        return self._last_end[1]

    def mark(self) -> bytes:
        """Return no bytes. The records themselves show how far this reader has read, so it needs no empty records as
        marks.
        """
        return b""

    def close(self) -> None:
        """Close the open segment. A later read opens the segment again. If a thread is reading the segment during the
        call, the thread finishes its read.
        """
        self._opened = None

    def __enter__(self) -> LogReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _next_step(self, max_bytes: int, final: bool) -> Chunk | Literal[_Step.AGAIN, _Step.ENTERED] | None:
        around = self._look_around(final)
        opened, following = self._opened, around.following
        current = around.current
        if current is None:
            if following is None:
                return self._end(final, NOT_ON_DISK)
            if opened is None:
                self._continue_at(following, self._reasons.of_dropped())
                return _Step.AGAIN
            # The writer has dropped the open segment from the listing. The reader reads the open segment to its end
            # anyway.
            current = opened.start
        if opened is None or opened.start != current:
            step = self._enter_segment(current, around, final)
            if step is not _Step.ENTERED:
                return step
        assert self._opened is not None, "the segment was entered"
        return self._read_opened(self._opened, around, max_bytes, final)

    def _look_around(self, final: bool) -> _Surroundings:
        tip = None if self._writer is None else self._writer.tip
        segments = self._list(final)
        self._seek(segments)
        number = bisect_right(segments, self.position, key=attrgetter("position")) - 1
        return _Surroundings(
            segments,
            tip,
            segments[number] if number >= 0 else None,
            segments[number + 1] if number + 1 < len(segments) else None,
        )

    def _enter_segment(
        self, current: RecordBoundary, around: _Surroundings, final: bool
    ) -> Chunk | Literal[_Step.AGAIN, _Step.ENTERED] | None:
        """Open a segment. If the segment is missing, or lies entirely before the wanted offsets, continue after the
        segment.
        """
        following, tip = around.following, around.tip
        if following is not None and self._is_unwanted(current, following):
            self._continue_at(following, self._reason)
            return _Step.AGAIN
        opened = self._open(current)
        if opened is not None:
            return self._enter(opened) or _Step.ENTERED
        if self._list(final) is not around.segments:
            # The segment was dropped after the segments were listed. Therefore the reader tries again with the new
            # list.
            return _Step.AGAIN
        reason = self._reasons.of_segment()
        if following is not None:
            self._continue_at(following, reason)
            return _Step.AGAIN
        if tip is None or self.position >= tip.position:
            return self._end(final, reason)
        # The segment's file was removed while the segment was being written, so report the gap at once.
        return self._skip_to(tip, reason) or _Step.AGAIN

    def _read_opened(
        self, opened: SegmentFile, around: _Surroundings, max_bytes: int, final: bool
    ) -> Chunk | Literal[_Step.AGAIN] | None:
        """Read records of the open segment, or continue after a damaged part."""
        following, tip = around.following, around.tip
        if following is not None and (tip is None or following.position <= tip.position):
            stop = following.position
        else:
            stop = tip.position if tip is not None else opened.end
        if self.position >= stop:
            return self._end(final, NOT_ON_DISK)
        read, records = self._check_records(opened.read(self.position, max_bytes, stop))
        if read:
            begins, self._begins = self._begins, None
            return Chunk(records, begins)
        if following is not None:
            self._continue_at(following, DAMAGED if around.current is not None else self._reasons.of_dropped())
            return _Step.AGAIN
        if tip is not None:
            return self._skip_to(tip, DAMAGED) or _Step.AGAIN
        return self._end(final, DAMAGED)

    def _list(self, final: bool) -> tuple[RecordBoundary, ...]:
        if self._writer is not None:
            return self._writer.segments
        if self._segments is None or (final and not self._listed_final):
            self._segments = list_segments(self._directory)
            self._listed_final = final
        return self._segments

    def _seek(self, segments: tuple[RecordBoundary, ...]) -> None:
        """Skip the segments that lie entirely before the wanted offsets."""
        if self._sought or not segments:
            return
        self._sought = True
        for segment in segments:
            if any(begin > wanted for begin, wanted in zip(segment.offsets, self.offsets, strict=True)):
                break
            self.position = segment.position

    def _is_unwanted(self, segment: RecordBoundary, following: RecordBoundary) -> bool:
        """Return whether all bytes of a segment lie before the wanted offsets."""
        return self.position == segment.position and all(
            end <= wanted or end == begin
            for begin, end, wanted in zip(segment.offsets, following.offsets, self.offsets, strict=True)
        )

    def _continue_at(self, segment: RecordBoundary, reason: str) -> None:
        """Skip the part of the log before a segment. When the reader enters the segment, it returns a gap for the
        skipped part.
        """
        self.position, self._reason = segment.position, reason

    def _open(self, start: RecordBoundary) -> SegmentFile | None:
        self._opened = None
        try:
            self._opened = opened = SegmentFile(self._directory, start)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return opened

    def _enter(self, opened: SegmentFile) -> Chunk | None:
        """Begin to read a segment, and return a gap for the bytes that are missing before the segment."""
        start = opened.start
        if self.position != start.position:
            return None
        self._at = list(start.offsets)
        self._begins = start
        if any(given < there for given, there in zip(self.offsets, start.offsets, strict=True)):
            # The time of a gap is only an estimate, so an error must not keep the reader from the segment.
            with contextlib.suppress(UnavailableError):
                self.last_ms = opened.first_ms(self.last_ms)
        reason, self._reason = self._reason, DAMAGED
        return self._lose(start.offsets, reason)

    def _skip_to(self, tip: RecordBoundary, reason: str) -> Chunk | None:
        """Move to the end of the log's written part, and return a gap for the skipped bytes."""
        self.position, self._at, self._begins = tip.position, list(tip.offsets), tip
        return self._lose(tip.offsets, reason)

    def _lose(self, offsets: Offsets, *reasons: str) -> Chunk | None:
        """Return gaps for all bytes between the last returned byte and `offsets`. The caller gives either one reason
        for all gaps, or one reason for each source.
        """
        gaps = []
        for source_id, (given, there) in enumerate(zip(self.offsets, offsets, strict=True)):
            if given < there:
                reason = reasons[source_id % len(reasons)]
                gaps.append(encode_gap(source_id, self.last_ms, given, there - given, reason))
                self.missing += there - given
        self.offsets = _highest(self.offsets, offsets)
        return Chunk(b"".join(gaps), lost=True) if gaps else None

    def _end(self, final: bool, reason: str) -> Chunk | None:
        """Return a gap for the bytes that are missing at the end of a final log; None if no bytes are missing or the
        log may grow.
        """
        if not final:
            # The log may grow. Therefore the next read must list the segments in the directory again.
            self._segments = self._last_end = None
            return None
        end = read_end(self._directory)
        if end is not None and end.removed:
            reason = end.removed
        if self._writer is not None:
            self.written = self._writer.offsets
            reasons = [self._writer.reason(source_id) or reason for source_id in range(len(SOURCES))]
        elif end is not None:
            self.truncated = end.truncated
            self.written = end.bytes_written
            reasons = [reason]
        else:
            self.truncated = True
            self.written = _highest(self.offsets, read_written(self._directory))
            reasons = [reason if reason is DAMAGED else LOST_WITH_WORKER]
        return self._lose(self.written, *reasons)

    def _check_records(self, data: bytes) -> tuple[int, bytes]:
        """Check the whole records at the beginning of `data`. A reader spends nearly all of its time in this function.

        Returns:
            The length of the valid records, 0 if there is no valid record, and the wanted records among the valid
            records.
        """
        at, wanted = self._at, self.offsets
        skipping = any(there < given for there, given in zip(at, wanted, strict=True))
        kept: list[bytes] = []
        view, size, last_ms = memoryview(data), len(data), self.last_ms
        unpack, checksum_of, header, checked_at = HEADER.unpack_from, crc32, HEADER.size, CHECKED_AT
        start, last = 0, size - header
        while start <= last:
            word, checksum, timestamp_ms, offset, kind = unpack(data, start)
            # A wrong magic number makes the length far too large, so the next check refuses the record.
            length = word ^ MAGIC_WORD
            end = start + header + length
            if end > size or checksum_of(view[start + checked_at : end]) != checksum:
                break
            if kind > LAST_SOURCE:
                source_id, length = measure_gap(kind, data[end - length : end])
                if source_id < 0:
                    break
            else:
                source_id = kind
            if at[source_id] != offset:
                # A record with an unexpected offset counts as damaged. A failed write may leave a valid record with a
                # wrong offset.
                break
            if kind > LAST_SOURCE:
                self.missing += max(0, min(length, offset + length - wanted[source_id]))
            at[source_id] = offset + length
            if skipping and at[source_id] > wanted[source_id]:
                kept.append(data[start:end])
            start, last_ms = end, timestamp_ms
        self.last_ms = last_ms
        self.position += start
        self.offsets = _highest(wanted, self.passed)
        return start, b"".join(kept) if skipping else data if start == size else data[:start]


def _highest(one: Offsets, other: Offsets) -> Offsets:
    return max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2])
