"""Defines how records become lines: where a line ends, which number a line has, and where a reader of lines can start.

A newline completes a line of its source. Lines are ordered and numbered by the time of their completion, over all
sources. The time of a line is the time of the record that contains its newline. In the following cases, bytes without a
newline are shown as a *piece*, which counts as a line:
* At the end of a record, if the partial line has `MAX_PARTIAL_LINE` bytes. If it has more than `BAR_BYTES` and contains
  a `\\r`, the piece ends at the last `\\r`, so that a progress bar does not become one endless line.
* Before a gap of the source.
* At the end of a segment in which the source has written without completing any line.
* At the end of the log, in the order of `SOURCES`.

The length of a partial line is counted from the beginning of its segment. Therefore a reader that starts at a segment
finds the same pieces and line numbers as a reader that starts at the beginning of the log.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from operator import attrgetter

from iris.cluster.logs.records import BEGINNING, SOURCES, Offsets

# A partial line of at least this many bytes is returned as a piece, although its end has not arrived. This limits the
# memory of readers. The limit is at least MAX_PAYLOAD, so the bytes after the last newline of a record never reach the
# limit.
MAX_PARTIAL_LINE = 1 << 20
BAR_BYTES = 4 << 10

# Two neighbouring points of an index are at least `_POINT_SPACING` bytes of log apart. A point also stores partial
# lines. Therefore the distance is also at least `_POINT_SPACING_PER_TAIL_BYTE` times the size of these partial lines,
# so that an index takes at most about 1/64 of the log's size.
_POINT_SPACING = 1 << 20
_POINT_SPACING_PER_TAIL_BYTE = 64

# A partial line at the end of a log: the index of its source, its time in ms, and its bytes.
Leftover = tuple[int, int, bytes]


@dataclass(frozen=True, slots=True)
class Point:
    """A place between two records at which a reader of lines can start. The object also contains the state that the
    reader needs.

    Attributes:
        position: How many bytes of records come before this place.
        offsets: How many bytes of each source come before this place.
        line: The number of lines that end before this place, if the lines were counted. Otherwise the same value as
            `position`, as in `RecordBoundary`.
        newest_ms: The latest time of the records before this place. The last record may be earlier, because clocks may
            be set back.
        tails: For each source, the bytes of its partial line before this place.
        tail_ms: The time of each source's last record.
        carried: How many bytes of each partial line lie in earlier segments.
        ended: For each source, True if one of its lines has ended in this segment, or if the source begins in this
            segment.
    """

    position: int = 0
    offsets: Offsets = BEGINNING
    line: int = 0
    newest_ms: int = 0
    tails: tuple[bytes, ...] = (b"",) * len(SOURCES)
    tail_ms: tuple[int, ...] = (0,) * len(SOURCES)
    carried: tuple[int, ...] = (0,) * len(SOURCES)
    ended: tuple[bool, ...] = (True,) * len(SOURCES)

    @property
    def line_starts(self) -> list[int]:
        """The offset in each source at which the next line begins."""
        return [offset - len(tail) for offset, tail in zip(self.offsets, self.tails, strict=True)]


START = Point()


class LineSplitter:
    """Splits the records of a log into lines, one record after another, and counts the lines.

    Args:
        point: The place in the log at which the reader begins.
        counts: Whether to count newlines. Counting looks at each byte, which takes longer than all other steps of
            capturing output.

    Attributes:
        line: The number of lines that have ended so far. Each piece of a line counts. Without `counts`, the number has
            no meaning.
    """

    def __init__(self, point: Point = START, *, counts: bool = True) -> None:
        self.line = point.line
        self._counts = counts
        self._newest_ms = point.newest_ms
        self._tails = [bytearray(tail) for tail in point.tails]
        self._tail_ms = list(point.tail_ms)
        self._carried = list(point.carried)
        self._ended = list(point.ended)

    def skip(self, source_id: int, timestamp_ms: int, payload: bytes) -> None:
        """Count the lines of a record without returning them. Counting is several times faster than `take`."""
        cut = self._pass(source_id, timestamp_ms, payload, payload.rfind(b"\n") + 1)
        if cut:
            del self._tails[source_id][:cut]

    def take(self, source_id: int, timestamp_ms: int, payload: bytes) -> tuple[bytes, bytes]:
        """Split a record. Return two values: the lines that the record completes, with their newlines, and a piece of
        the partial line. The piece is empty unless the partial line has become too long.
        """
        newline = payload.rfind(b"\n") + 1
        tail = self._tails[source_id]
        if not newline:
            whole = b""
        elif tail:
            whole = bytes(tail) + payload[:newline]
        else:
            whole = payload[:newline]
        cut = self._pass(source_id, timestamp_ms, payload, newline)
        if not cut:
            return whole, b""
        piece = bytes(tail[:cut])
        del tail[:cut]
        return whole, piece

    def _pass(self, source_id: int, timestamp_ms: int, payload: bytes, newline: int) -> int:
        """Count the lines of a record. If the record leaves a partial line that is too long to be held in memory,
        return how many bytes of this partial line must be returned as a piece. Otherwise return 0."""
        tail = self._tails[source_id]
        self._tail_ms[source_id] = timestamp_ms
        if timestamp_ms > self._newest_ms:
            self._newest_ms = timestamp_ms
        if newline:
            if self._counts:
                self.line += payload.count(b"\n")
            self._carried[source_id] = 0
            self._ended[source_id] = True
            before = 0
            tail[:] = payload[newline:]
        else:
            before = len(tail)
            tail += payload
        length = len(tail)
        if length <= BAR_BYTES:
            return 0
        carried = self._carried[source_id]
        if length - carried <= BAR_BYTES:
            return 0
        if length - carried >= MAX_PARTIAL_LINE:
            cut = length
        else:
            # Only the new bytes are searched for "\r", because earlier calls have searched the bytes of earlier
            # records. The last byte is not searched, because it may be the first half of "\r\n".
            searched = before - 1 if before - carried > BAR_BYTES else 0
            cut = max(0, tail.rfind(b"\r", max(carried + 1, searched), length - 1))
        if cut:
            self.line += 1
            self.begin_line(source_id)
        return cut

    def gap(self, source_id: int, *, counted: bool = True) -> bytes:
        """Continue after a gap, and return the partial line before the gap.

        Args:
            source_id: The index in `SOURCES` of the source in which the gap lies.
            counted: Whether the partial line that the gap cuts off counts as a line and gets a number.
        """
        piece = bytes(self._tails[source_id])
        self.line += bool(piece and counted)
        self._tails[source_id].clear()
        self.begin_line(source_id)
        return piece

    def begin_segment(self, offsets: Offsets) -> list[Leftover]:
        """Continue with the next segment, and return the partial lines that become pieces at its beginning. A second
        call of this method for the same segment has no effect.

        Args:
            offsets: The offset in each source at which the next segment begins.
        """
        pieces = []
        for source_id, tail in enumerate(self._tails):
            if len(tail) > self._carried[source_id] and not self._ended[source_id]:
                pieces.append((source_id, self._tail_ms[source_id], bytes(tail)))
                tail.clear()
            self._carried[source_id] = len(tail)
            self._ended[source_id] = offsets[source_id] == 0
        self.line += len(pieces)
        return pieces

    def leftovers(self) -> list[Leftover]:
        """Return the partial lines at the end of a log, in the order in which they are shown."""
        return [
            (source_id, self._tail_ms[source_id], bytes(tail)) for source_id, tail in enumerate(self._tails) if tail
        ]

    def tail_length(self, source_id: int) -> int:
        """Return the length of a source's partial line in bytes."""
        return len(self._tails[source_id])

    @property
    def tails_length(self) -> int:
        """The length of the partial lines of all sources in bytes."""
        return sum(map(len, self._tails))

    def point(self, position: int, offsets: Offsets) -> Point:
        """Return a point for the present position of this splitter. Another reader can start at this point.

        Args:
            position: The number of bytes of records before the present position.
            offsets: The number of bytes of each source before the present position.
        """
        return Point(
            position,
            offsets,
            self.line,
            self._newest_ms,
            tuple(map(bytes, self._tails)),
            tuple(self._tail_ms),
            tuple(self._carried),
            tuple(self._ended),
        )

    def begin_line(self, source_id: int) -> None:
        """Record that a line of a source ends here, so that the next byte of the source begins a new line."""
        self._carried[source_id] = 0
        self._ended[source_id] = True


class LogIndex:
    """A list of points in a log at which a reader can start. With an index, a reader of the last lines or of the newest
    lines need not read the earlier part of the log.

    The writer keeps the index in memory. The writer does not count lines, so the `line` of each point is its position
    (see `RecordBoundary`). Readers in other threads use the index without a lock. That is safe because a `Point` never
    changes, the list of points only grows by atomic appends or is replaced, and a point is added only after the bytes
    before it were written. If a reader reads the list just before a point is added, the reader starts at an older point
    and finds the same lines.
    """

    def __init__(self) -> None:
        self._points = [START]
        self._splitter = LineSplitter(counts=False)

    def tail_length(self, source_id: int) -> int:
        """Return the length of a source's partial line in bytes."""
        return self._splitter.tail_length(source_id)

    def add(self, source_id: int, timestamp_ms: int, payload: bytes) -> None:
        """Add the lines of a record to the index."""
        self._splitter.skip(source_id, timestamp_ms, payload)

    def add_gap(self, source_id: int) -> None:
        """Add a gap to the index."""
        self._splitter.gap(source_id)

    def begin_segment(self, offsets: Offsets) -> None:
        """Record that a new segment begins at the given offsets."""
        self._splitter.begin_segment(offsets)

    def mark(self, position: int, offsets: Offsets) -> None:
        """Store a point for the present end of the log if the last stored point is far enough away. All records before
        this end must have been added.
        """
        distance = position - self._points[-1].position
        if distance >= _POINT_SPACING and distance >= _POINT_SPACING_PER_TAIL_BYTE * self._splitter.tails_length:
            self._splitter.line = position
            self._points.append(self._splitter.point(position, offsets))

    def drop_before(self, position: int) -> None:
        """Remove the points before a position, except the start of the log. A reader that begins at the start gets a
        gap.
        """
        self._points = without_points_before(self._points, position)

    @property
    def points(self) -> Points:
        """The points that the index has now."""
        return Points(self._points, len(self._points))


def without_points_before(points: list[Point], position: int) -> list[Point]:
    """Return the points from a position on, after the start of the log."""
    return [START, *points[bisect_right(points, position - 1, key=attrgetter("position")) :]]


class Points:
    """The points that an index contained at one moment. Points that are added later are not included.

    Args:
        points: A list of start points, to which points may be added but not removed.
        count: How many points of the list belong to this object.
    """

    def __init__(self, points: list[Point], count: int) -> None:
        self._points = points
        self._count = count

    def before(self, line: int, start_ms: int) -> Point:
        """Return the last point from which a reader finds all wanted lines.

        Args:
            line: The number of the first wanted line.
            start_ms: Lines up to this time are unwanted; 0 means that no line is unwanted because of its time.
        """
        points, count = self._points, self._count
        number = bisect_right(points, line, hi=count, key=attrgetter("line"))
        if start_ms > 0:
            number = max(number, bisect_right(points, start_ms, hi=count, key=attrgetter("newest_ms")))
        return points[number - 1]

    def back(self, steps: int) -> Point:
        """Return the point that is `steps` points before the end of the list, or the first point of a shorter list."""
        return self._points[max(0, self._count - steps)]
