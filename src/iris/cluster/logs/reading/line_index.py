"""Reads a log line by line. Reading can start at any line without reading all earlier lines."""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_numbers import LineNumbers
from iris.cluster.logs.reading.numbered_lines import BAR_BYTES, START, Leftover, LineSplitter, Point, Points
from iris.cluster.logs.reading.reader import Chunk, LogReader
from iris.cluster.logs.records import GAP, HEADER, LENGTH_MASK, SOURCES, Offsets, Record, decode, parse_gap
from iris.cluster.logs.segments import RecordBoundary, list_segments

CHUNK_BYTES = 1 << 20


class LineBlock(NamedTuple):
    """Consecutive lines of one source whose newlines arrived in the same record.

    Attributes:
        number: The number of the first line, counted over all sources.
        source_id: The index of the lines' source in `SOURCES`.
        timestamp_ms: When the lines were completed, in milliseconds since the epoch.
        offset: Where in the source the first line begins.
        data: The lines with their newlines. Bytes after the last newline are a piece of a line.
        counted: Whether the lines have numbers. Lines have no numbers only if the block is the beginning of a line
            whose end is missing, because records were lost after they were written.
    """

    number: int
    source_id: int
    timestamp_ms: int
    offset: int
    data: bytes
    counted: bool = True

    @property
    def end(self) -> int:
        """Where in the source the last line ends."""
        return self.offset + len(self.data)


class Gap(NamedTuple):
    """Missing bytes of one source.

    Attributes:
        number: The number of the line after the gap.
        source_id: The index in `SOURCES` of the source of the missing bytes.
        timestamp_ms: The time of the gap, in milliseconds since the epoch.
        offset: Where in the source the gap begins.
        missing: How many bytes of the source are missing in the gap.
        reason: Why the bytes are missing, for people.
    """

    number: int
    source_id: int
    timestamp_ms: int
    offset: int
    missing: int
    reason: str

    @property
    def end(self) -> int:
        """Where in the source the gap ends."""
        return self.offset + self.missing


class LineScanner:
    """Reads records from a given point of a log to the log's end, and splits the records into lines.

    Args:
        directory: The directory of the log.
        point: The place in the log at which the reader begins.
        writer: The log's writer if this process writes the log or has written it; None if another process has written
            it.
        offsets: The offset in each source at which the wanted bytes begin. No offset may lie before `point`. None means
            the offsets of `point`.
        numbers: The object that stores known line numbers. The scanner adds the numbers that it counts. `point` must
            come from this object. None: line numbers only need to grow along the log. Then each segment begins with the
            line number in the segment's name.

    Attributes:
        reader: The object that reads the records of the log.
    """

    def __init__(
        self,
        directory: Path,
        point: Point,
        writer: LogWriter | None,
        offsets: Offsets | None = None,
        *,
        numbers: LineNumbers | None = None,
    ) -> None:
        self.reader = LogReader(directory, point.offsets, writer=writer, position=point.position, wanted=offsets)
        self._splitter = LineSplitter(point)
        self._ends = list(map(max, point.offsets, self.reader.offsets))
        self._numbers = numbers
        self._expected = point.position  # The position at which the next chunk begins, if no records are missing.

    @classmethod
    def at_offsets(cls, directory: Path, offsets: Offsets, writer: LogWriter | None) -> LineScanner:
        """Return a scanner that begins at the given offsets. Each offset must be the beginning of a line. The scanner
        does not know the numbers of lines until it enters the next segment.
        """
        walk = cls(directory, START, writer, offsets)
        walk.reader = LogReader(directory, offsets, writer=writer)
        return walk

    @property
    def line(self) -> int:
        """The number of lines that end before the position of this scanner in the log."""
        return self._splitter.line

    @property
    def offsets(self) -> Offsets:
        """The offset in each source at which the source's next line begins."""
        stdout, stderr, build = (end - self._splitter.tail_length(number) for number, end in enumerate(self._ends))
        return stdout, stderr, build

    def read(self, max_bytes: int, *, final: bool, start_line: int = 0) -> list[LineBlock | Gap] | None:
        """Read about `max_bytes` of records, and return their lines and gaps; None if nothing more can be read now. If
        all lines come before `start_line`, the method only counts the lines, and returns one empty block in their
        place.
        """
        chunk = self.reader.read_chunk(max_bytes, final=final)
        if chunk is None:
            return None
        first = self._splitter.line
        pieces: list[LineBlock | Gap] = [] if chunk.begins is None else self._begin(chunk.begins)
        before_start = start_line - self._splitter.line
        # If the lines of the chunk certainly end before `start_line`, they are only counted, which is faster. The
        # number of bytes is checked first, because this check is the cheapest.
        if len(chunk.records) < before_start or _most_lines(chunk.records) < before_start:
            items = self._pass_over(chunk, first)
        else:
            items = self._take_apart(chunk, pieces)
        if not chunk.lost:
            self._expected = self.reader.position
            if self._numbers is not None:
                self._numbers.mark(self._splitter, self.reader.position, self.reader.passed)
        return items

    def store_number(self) -> bool:
        """Store the number of the next line, so that a later scanner need not count the lines before it.

        Returns:
            False if the number of the next line is not known, because the scanner has just passed a gap.
        """
        if self._numbers is None or self._expected != self.reader.position:
            return False
        self._numbers.mark(self._splitter, self.reader.position, self.reader.passed, always=True)
        return True

    def point(self) -> Point:
        """Return the present place of this scanner as a point at which another scanner can start. The line number of
        the point is exact only if this scanner has `numbers`.
        """
        return self._splitter.point(self.reader.position, self.reader.passed)

    def leftovers(self) -> list[LineBlock]:
        """Return the partial lines at the end of a final log."""
        return [self._piece(leftover, self.line + count) for count, leftover in enumerate(self._splitter.leftovers())]

    def _take_apart(self, chunk: Chunk, items: list[LineBlock | Gap]) -> list[LineBlock | Gap]:
        splitter, ends, records = self._splitter, self._ends, chunk.records
        unpack, header, at, size = HEADER.unpack_from, HEADER.size, 0, len(records)
        # Reading many short records takes most of its time in this loop. This loop parses the records itself, because
        # `decode` takes twice as long.
        while at < size:
            word, _, timestamp_ms, offset, kind = unpack(records, at)
            start = at + header
            at = start + (word & LENGTH_MASK)
            if kind >= GAP:
                self._pass_gap(Record(kind, timestamp_ms, offset, records[start:at]), items, counted=not chunk.lost)
                continue
            begin = ends[kind]
            ends[kind] = offset + at - start
            number, unfinished = splitter.line, splitter.tail_length(kind)
            whole, piece = splitter.take(kind, timestamp_ms, records[start + begin - offset : at])
            if whole or piece:
                items.append(
                    LineBlock(number, kind, timestamp_ms, begin - unfinished, whole + piece if piece else whole)
                )
        return items

    def _pass_over(self, chunk: Chunk, first: int) -> list[LineBlock | Gap]:
        """Count the lines of a chunk instead of returning them. Return one empty block in place of all lines from the
        number `first` on, and the gaps that follow the last line.
        """
        splitter = self._splitter
        items: list[LineBlock | Gap] = []
        for record in decode(chunk.records):
            if record.kind >= GAP:
                self._pass_gap(record, items, counted=not chunk.lost)
            else:
                splitter.skip(record.kind, record.timestamp_ms, record.payload)
                self._ends[record.kind] = record.offset + len(record.payload)
        passed = [LineBlock(first, 0, 0, 0, b"")] if splitter.line > first else []
        return [*passed, *(item for item in items if isinstance(item, Gap) and item.number == splitter.line)]

    def _pass_gap(self, gap: Record, items: list[LineBlock | Gap], *, counted: bool) -> None:
        source_id = gap.kind & ~GAP
        missing, reason = parse_gap(gap.payload)
        begin, number = self._ends[source_id], self._splitter.line
        start = begin - self._splitter.tail_length(source_id)
        piece = self._splitter.gap(source_id, counted=counted)
        if piece:
            items.append(LineBlock(number, source_id, gap.timestamp_ms, start, piece, counted))
        missing -= begin - gap.offset
        self._ends[source_id] = begin + max(0, missing)
        if missing > 0:
            items.append(Gap(self._splitter.line, source_id, gap.timestamp_ms, begin, missing, reason))

    def _begin(self, place: RecordBoundary) -> list[LineBlock | Gap]:
        number = self._splitter.line
        pieces = self._splitter.begin_segment(place.offsets)
        self._splitter.line = self._number_at(place)
        blocks: list[LineBlock | Gap] = []
        for count, (source_id, timestamp_ms, data) in enumerate(pieces):
            blocks.append(LineBlock(number + count, source_id, timestamp_ms, self._ends[source_id] - len(data), data))
        for source_id, end in enumerate(self._ends):
            if end > place.offsets[source_id]:
                # The scanner began to read in the middle of this segment, directly after the end of a line. Therefore
                # the next byte of this source begins a new line.
                self._splitter.begin_line(source_id)
        return blocks

    def _number_at(self, place: RecordBoundary) -> int:
        """Return the line number of the first line in the segment that the scanner enters."""
        if self._numbers is None:
            return place.line
        # The lines before the segment may be missing and uncounted. In this case, the number jumps to the number in
        # the segment's name.
        counted = self._splitter.line if place.position == self._expected else place.line
        return self._numbers.at_segment(place.position, counted)

    def _piece(self, leftover: Leftover, number: int) -> LineBlock:
        source_id, timestamp_ms, data = leftover
        return LineBlock(number, source_id, timestamp_ms, self.offsets[source_id], data)


def _most_lines(records: bytes) -> int:
    """Return a number that is at least the number of lines that end in the given records."""
    return records.count(b"\n") + len(records) // BAR_BYTES + len(SOURCES)


class StoredIndex:
    """The points at which a reader can start in a log whose writer has ended: the beginning of each segment.

    The name of a segment does not contain the partial lines before the segment. A partial line is found in the segment
    in which the source has written last. If the partial line fills that whole segment, the line was cut at the
    segment's end.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._segments = list_segments(directory)

    def back(self, steps: int) -> Point:
        """Return the point at the beginning of a segment, counted from the end of the log: 1 is the last segment, 2 the
        segment before it. Return the start of the log if it has too few segments.
        """
        return self._point(len(self._segments) - steps)

    def before(self, position: int) -> Point:
        """Return the beginning of the last segment that begins before a position; the start of the log if there is no
        such segment.
        """
        return self._point(self._number_before(position))

    def segment_before(self, position: int) -> int:
        """Return the position of the last segment that begins before a position; 0 if there is no such segment."""
        number = self._number_before(position)
        return self._segments[number].position if number > 0 else 0

    def _number_before(self, position: int) -> int:
        return bisect_left(self._segments, position, key=attrgetter("position")) - 1

    def _point(self, number: int) -> Point:
        if number <= 0:
            return START
        place = self._segments[number]
        tails = [b""] * len(SOURCES)
        tail_ms = [0] * len(SOURCES)
        for before, source_ids in self._written_last(place).items():
            unfinished = self._end_of(before)
            for source_id in source_ids:
                tails[source_id], tail_ms[source_id] = unfinished.tails[source_id], unfinished.tail_ms[source_id]
        return Point(
            place.position,
            place.offsets,
            place.line,
            tails=tuple(tails),
            tail_ms=tuple(tail_ms),
            carried=tuple(map(len, tails)),
            ended=tuple(offset == 0 for offset in place.offsets),
        )

    def _written_last(self, place: RecordBoundary) -> dict[int, list[int]]:
        """For each source, find the segment with the source's last bytes before a place. Return a mapping from the
        index of a segment to the sources found in it.
        """
        last: dict[int, list[int]] = {}
        for source_id, offset in enumerate(place.offsets):
            number = bisect_left(self._segments, offset, key=lambda segment: segment.offsets[source_id]) - 1
            if offset > 0 and number >= 0:
                last.setdefault(number, []).append(source_id)
        return last

    def _end_of(self, number: int) -> Point:
        """Return the point at the end of a segment. The point contains the partial lines with which the segment
        ends.
        """
        place, following = self._segments[number : number + 2]
        splitter = LineSplitter(Point(ended=tuple(offset == 0 for offset in place.offsets)))
        with LogReader(self._directory, place.offsets, position=place.position) as reader:
            while (chunk := reader.read_chunk(CHUNK_BYTES, final=True)) is not None:
                if chunk.begins not in (None, place):
                    break
                for kind, timestamp_ms, _, payload in decode(chunk.records):
                    if kind >= GAP:
                        splitter.gap(kind & ~GAP)
                    else:
                        splitter.skip(kind, timestamp_ms, payload)
        splitter.begin_segment(following.offsets)
        return splitter.point(following.position, following.offsets)


class Extent(NamedTuple):
    """The part of a log that exists at one moment. The log may grow later.

    Attributes:
        points: The places at which a reader can start, not beyond `stop`.
        stop: The end of the log in bytes of records; None if the log ends with its files.
    """

    points: Points | StoredIndex
    stop: int | None


def extent_of(directory: Path, writer: LogWriter | None, *, final: bool) -> Extent:
    """Return the part of a log that exists at this moment. The lines before its points are not counted. If the log is
    final, the part includes a gap at the end of the log.
    """
    if writer is None:
        return Extent(StoredIndex(directory), None)
    # The writer may add points at any time. Therefore the points are read before the end of the log, so that no point
    # lies beyond the end.
    points = writer.index.points
    return Extent(points, None if final else writer.tip.position)
