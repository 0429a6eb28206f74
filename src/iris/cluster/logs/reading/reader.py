"""Reads one attempt's log from disk: records as they lie there, from any place on, and what is missing said in place.

What a reader gives out are whole records, and of each source every byte once, in order: given, or spoken of by a gap.
Where the disk has no record, because the oldest were dropped or something is damaged, the reader puts a gap in; how
much is missing it knows from the names of the segments, and at the end from the writer or from what it left.

Everything here blocks on the disk.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from zlib import crc32

from iris.cluster.logs.records import (
    BEGINNING,
    CHECKED_AT,
    GAP,
    HEADER,
    LENGTH_BITS,
    LENGTH_MASK,
    MAGIC,
    SOURCES,
    Offsets,
    encode_gap,
    parse_gap,
)
from iris.cluster.logs.segments import AWAY, Place, list_segments, read_end, read_written
from iris.cluster.logs.writer import LogWriter
from iris.errors import UnavailableError

DAMAGED = "damaged on disk"
_NOT_THERE = "not on disk"
_LOST_WITH_WORKER = "its worker was lost before it had handed this over"
_MAGIC_WORD = MAGIC << LENGTH_BITS
_LAST_SOURCE = len(SOURCES) - 1
_GAP_SIZE = 8  # the least that a gap's payload holds
_LONGEST_GAP = 1 << 60  # bytes; so that no sum of a few is too large for a record


class Chunk(NamedTuple):
    """Some whole records, of one segment.

    Attributes:
        records: As they lie on the disk; none where all that was read lies below what is wanted.
        begins: Where they begin, at the beginning of a segment, and where reading goes on behind damage.
        lost: They are gaps that the reader put in.
    """

    records: bytes
    begins: Place | None = None
    lost: bool = False


class _Segment:
    """A segment's open file.

    It is closed when nobody holds it any more, not by a call: a reader may be closed while a thread reads for it, and a
    number that was closed under that thread may already be another file's.
    """

    def __init__(self, directory: Path, place: Place) -> None:
        self.fd = -1
        self.place = place
        self.fd = os.open(directory / place.segment_name, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class LogReader:
    """Reads a log from a place on, also while it is being written.

    Args:
        directory: The log's. No such directory is an empty log.
        offsets: From where on, by source; records that lie below are left out, one that straddles comes whole.
        writer: Of a log that is being written, or was by this process. Without it, the log ends with its files.
        position: Where in the log these offsets are, if that is known.
        wanted: Then, what lies before these offsets is left out.

    Attributes:
        offsets: Up to where each source was given out, gaps included.
        missing: How many bytes the gaps spoke of that were given out.
        written: How much each source has written, known at the end of a final log.
        truncated: At the end of a final log: its writer was killed, so the last moments may be missing.
        exhausted: Nothing more will be given, whatever comes; never of this reader.
        position: Where the next record begins, in bytes of records since the log's beginning.
        last_ms: The time of the last record.
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
        self._directory = directory
        self._writer = writer
        self._segments: tuple[Place, ...] | None = None  # as they were listed; of a writer, always its own
        self._sought = position is not None
        self._at = list(offsets)  # of the next record; below `self.offsets` where records are to be left out
        self._opened: _Segment | None = None
        self._listed_final = False
        self._begins: Place | None = None  # where the next chunk begins, when that is to be said
        self._reason = DAMAGED  # why what is missing before the next segment is missing
        self.last_ms = 0

    @property
    def passed(self) -> Offsets:
        """Up to where each source was read, given out or not."""
        return self._at[0], self._at[1], self._at[2]

    def read(self, max_bytes: int, *, final: bool) -> bytes:
        """Whole records, about so many bytes, but one at least; b"" when there is nothing more now.

        Args:
            max_bytes: Of records.
            final: The writer is done. To be asked before this call: then b"" is the end of the log.

        Raises:
            OSError: A segment cannot be opened, for a reason that may pass.
            UnavailableError: The log was put elsewhere meanwhile.
        """
        while (chunk := self.read_chunk(max_bytes, final=final)) is not None:
            if chunk.records:
                return chunk.records
        return b""

    def read_chunk(self, max_bytes: int, *, final: bool) -> Chunk | None:
        """Does what `read` does, in small steps, and says where the records begin, for those who count lines.

        1. Take what is there now: the tip first, so that the segments reach up to it.
        2. Find the segment of our position, or, when that was dropped, the oldest. One that was opened is read to its
           end, whether it was dropped since or not.
        3. Where it begins beyond what was given out, say what is missing.
        4. Read and check, up to the next segment's beginning, the tip, or the end of the file.
        5. What is no record there is damage: go on with the next segment, which says how much is missing; in the last
           one with the tip, or with what the log's end says.
        """
        while True:
            tip = None if self._writer is None else self._writer.tip
            segments = self._list(final)
            self._seek(segments)
            number = bisect_right(segments, self.position, key=attrgetter("position")) - 1
            following = segments[number + 1] if number + 1 < len(segments) else None
            opened = self._opened
            if number >= 0:
                place = segments[number]
            elif opened is not None and following is not None:
                place = opened.place  # dropped while we read it
            elif following is not None:
                self._go_on(following, self._dropped())
                continue
            else:
                return self._end(final, _NOT_THERE)
            if opened is None or opened.place != place:
                if following is not None and self._is_unwanted(place, following):
                    self._go_on(following, self._reason)
                    continue
                opened = self._open(place)
                if opened is None:
                    if self._list(final) is not segments:
                        continue  # dropped meanwhile
                    reason = self._why_gone()
                    if following is not None:
                        self._go_on(following, reason)
                        continue
                    if tip is None or self.position >= tip.position:
                        return self._end(final, reason)
                    lost = self._skip_to(tip, reason)  # somebody has removed it while it is written: at once
                    if lost is not None:
                        return lost
                    continue
                lost = self._enter(opened)
                if lost is not None:
                    return lost
            if following is not None and (tip is None or following.position <= tip.position):
                stop = following.position
            else:
                stop = tip.position if tip is not None else place.position + os.fstat(opened.fd).st_size
            if self.position >= stop:
                return self._end(final, _NOT_THERE)
            read, records = self._read_at(opened, max_bytes, stop)
            if read:
                begins, self._begins = self._begins, None
                return Chunk(records, begins)
            if following is not None:
                self._go_on(following, DAMAGED if number >= 0 else self._dropped())
            elif tip is not None:
                lost = self._skip_to(tip, DAMAGED)
                if lost is not None:
                    return lost
            else:
                return self._end(final, DAMAGED)

    @property
    def is_searching(self) -> bool:
        """Never: it gives what there is. See `FilteredReader`."""
        return False

    def behind(self) -> int:
        """How many bytes of records there are still to read now, about."""
        segments = self._list(final=False)
        self._seek(segments)
        if self._writer is not None:
            return max(0, self._writer.tip.position - self.position)
        if not segments:
            return 0
        try:
            size = (self._directory / segments[-1].segment_name).stat().st_size
        except OSError:
            size = 0
        return max(0, segments[-1].position + size - self.position)

    def mark(self) -> bytes:
        """Nothing: where a reader is can be seen in the records."""
        return b""

    def close(self) -> None:
        """Closes what is open; also while a thread reads, which then comes to its end. Reading opens it again."""
        self._opened = None

    def __enter__(self) -> LogReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _list(self, final: bool) -> tuple[Place, ...]:
        if self._writer is not None:
            return self._writer.segments
        if self._segments is None or (final and not self._listed_final):
            self._segments = list_segments(self._directory)
            self._listed_final = final
        return self._segments

    def _seek(self, segments: tuple[Place, ...]) -> None:
        """Goes to the last segment before which nothing is wanted."""
        if self._sought or not segments:
            return
        self._sought = True
        for segment in segments:
            if any(begin > wanted for begin, wanted in zip(segment.offsets, self.offsets, strict=True)):
                break
            self.position = segment.position

    def _is_unwanted(self, segment: Place, following: Place) -> bool:
        """Whether what a segment has of each source is nothing, or lies below what is wanted."""
        return self.position == segment.position and all(
            end <= wanted or end == begin
            for begin, end, wanted in zip(segment.offsets, following.offsets, self.offsets, strict=True)
        )

    def _go_on(self, segment: Place, reason: str) -> None:
        """Leaves out what lies before a segment; when it is entered, it is said what was missed by that."""
        self.position, self._reason = segment.position, reason

    def _open(self, place: Place) -> _Segment | None:
        self._opened = None
        try:
            self._opened = opened = _Segment(self._directory, place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return opened

    def _why_gone(self) -> str:
        """Why a segment is not there that was listed."""
        if (self._directory / AWAY).exists():
            raise UnavailableError("the log was put elsewhere while it was read")
        if self._writer is not None and self._writer.removed:
            return self._writer.removed
        end = read_end(self._directory)
        return DAMAGED if end is None else end.removed or end.lost or DAMAGED

    def _enter(self, opened: _Segment) -> Chunk | None:
        """Enters a segment; what is missing before it."""
        place = opened.place
        if self.position != place.position:
            return None  # in the middle, at a place that is known
        self._at = list(place.offsets)
        self._begins = place
        if any(given < there for given, there in zip(self.offsets, place.offsets, strict=True)):
            self.last_ms = _first_ms(opened.fd, self.last_ms)
        reason, self._reason = self._reason, DAMAGED
        return self._lose(place.offsets, reason)

    def _skip_to(self, tip: Place, reason: str) -> Chunk | None:
        """Goes to the end of what is written; what is missing before it."""
        self.position, self._at, self._begins = tip.position, list(tip.offsets), tip
        return self._lose(tip.offsets, reason)

    def _lose(self, offsets: Offsets, *reasons: str) -> Chunk | None:
        """Gaps from what was given out up to `offsets`; one reason, or one for each source."""
        gaps = []
        for source_id, (given, there) in enumerate(zip(self.offsets, offsets, strict=True)):
            if given < there:
                reason = reasons[source_id % len(reasons)]
                gaps.append(encode_gap(source_id, self.last_ms, given, there - given, reason))
                self.missing += there - given
        self.offsets = _highest(self.offsets, offsets)
        return Chunk(b"".join(gaps), lost=True) if gaps else None

    def _end(self, final: bool, reason: str) -> Chunk | None:
        """There is nothing more to read; of a final log, what is missing at the end, and the reason to be given."""
        if not final:
            self._segments = None  # to be listed again
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
            reasons = [reason if reason is DAMAGED else _LOST_WITH_WORKER]
        return self._lose(self.written, *reasons)

    def _dropped(self) -> str:
        """Why the oldest are missing."""
        if self._writer is not None:
            limit = self._writer.max_bytes
        else:
            end = read_end(self._directory)
            if end is not None and (end.removed or end.lost):
                return end.removed or end.lost
            limit = 0 if end is None else end.max_bytes
        size = f" of {limit} bytes ({_readable(limit)})" if limit else ""
        return f"the oldest were dropped: the log reached its limit{size}"

    def _read_at(self, opened: _Segment, max_bytes: int, stop: int) -> tuple[int, bytes]:
        """Reads on: how far, 0 where there is no whole record, and the records of it that are wanted."""
        at, room = self.position - opened.place.position, stop - self.position
        try:
            chunk = os.pread(opened.fd, min(max(max_bytes, HEADER.size), room), at)
            if len(chunk) >= HEADER.size:
                first = HEADER.size + (HEADER.unpack_from(chunk)[0] & LENGTH_MASK)
                if len(chunk) < first <= room:
                    chunk = os.pread(opened.fd, first, at)
        except OSError:
            return 0, b""  # the disk itself cannot read it
        return self._walk(chunk)

    def _walk(self, chunk: bytes) -> tuple[int, bytes]:
        """Checks the whole records at the beginning of a chunk. Here all the time of a reader goes."""
        at, wanted = self._at, self.offsets
        skipping = any(there < given for there, given in zip(at, wanted, strict=True))
        kept: list[bytes] = []
        view, size, last_ms = memoryview(chunk), len(chunk), self.last_ms
        unpack, checksum_of, header, checked_at = HEADER.unpack_from, crc32, HEADER.size, CHECKED_AT
        start, last = 0, size - header
        while start <= last:
            word, checksum, timestamp_ms, offset, kind = unpack(chunk, start)
            length = word ^ _MAGIC_WORD  # far too long where the magic is wrong
            end = start + header + length
            if end > size or checksum_of(view[start + checked_at : end]) != checksum:
                break
            if kind > _LAST_SOURCE:
                source_id, length = _measure_gap(kind, chunk[end - length : end])
                if source_id < 0:
                    break
            else:
                source_id = kind
            if at[source_id] != offset:
                break  # whole, but not of this place: what was left of a write that failed
            if kind > _LAST_SOURCE:
                self.missing += max(0, min(length, offset + length - wanted[source_id]))
            at[source_id] = offset + length
            if skipping and at[source_id] > wanted[source_id]:
                kept.append(chunk[start:end])
            start, last_ms = end, timestamp_ms
        self.last_ms = last_ms
        self.position += start
        self.offsets = _highest(wanted, self.passed)
        return start, b"".join(kept) if skipping else chunk if start == size else chunk[:start]


def _first_ms(fd: int, otherwise_ms: int) -> int:
    """The time of the first record of a segment, if that is whole: what is missing before it was written by then."""
    try:
        header = os.pread(fd, HEADER.size, 0)
        if len(header) < HEADER.size:
            return otherwise_ms
        word, checksum, timestamp_ms, _, _ = HEADER.unpack(header)
        length = word ^ _MAGIC_WORD
        payload = os.pread(fd, length, HEADER.size) if length <= LENGTH_MASK else b""
    except OSError:
        return otherwise_ms
    is_whole = len(payload) == length and crc32(payload, crc32(header[CHECKED_AT:])) == checksum
    return int(timestamp_ms) if is_whole else otherwise_ms


def _measure_gap(kind: int, payload: bytes) -> tuple[int, int]:
    """Which source's a gap is, and how long; -1 where it is none."""
    source_id = kind ^ GAP
    if source_id > _LAST_SOURCE or len(payload) < _GAP_SIZE:
        return -1, 0
    missing = parse_gap(payload)[0]
    return (source_id, missing) if missing < _LONGEST_GAP else (-1, 0)


def _highest(one: Offsets, other: Offsets) -> Offsets:
    return max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2])


def _readable(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
