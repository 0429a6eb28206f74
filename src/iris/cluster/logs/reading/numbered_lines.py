"""Lines out of records: where one ends, which number it has, and where reading may start in mid-log.

A line is completed by its newline, per source, and lines are in the order in which they were completed. Its time is
that of the record that completed it. What has no newline is shown as a *piece*, and counts as a line, where it must
not wait for one:

* at the end of a record, when the unfinished line has `MAX_PARTIAL_LINE` bytes, or more than `BAR_BYTES` with a
  `\\r` in them: then up to the last `\\r`, so that a progress bar does not become one endless line;
* before a gap of its source;
* at the end of a segment through the whole of which its source wrote without ending a line;
* at the end of the log, in the order of `SOURCES`.

How long it is counts from the beginning of the segment, so all of this can be said from there on: who begins to read
at a segment comes to the same pieces and the same numbers as who has read all that is before it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from operator import attrgetter

from iris.cluster.logs.records import BEGINNING, SOURCES, Offsets

# Bytes of an unfinished line that a reader (and the writer) keeps at most, before the record that makes it this long.
# Not below MAX_PAYLOAD: then a record that has a newline never leaves such a piece behind it.
MAX_PARTIAL_LINE = 1 << 20
BAR_BYTES = 4 << 10

# Where reading may start: this far apart in bytes, and that many times the unfinished lines that have to be remembered
# with the place. So an index takes at most about 1/64 of the log's size, whatever the task writes.
_POINT_SPACING = 1 << 20
_POINT_SPACING_PER_TAIL_BYTE = 64

Leftover = tuple[int, int, bytes]  # source, time in ms, an unfinished line of it


@dataclass(frozen=True, slots=True)
class Point:
    """A place between two records, and all that is needed to read lines from there on.

    Attributes:
        position: Bytes of records before it.
        offsets: How much of each source lies before it.
        line: How many lines end before it.
        newest_ms: The latest time of all records before it; clocks may go back, so not always the last record's.
        tails: Each source's unfinished line.
        tail_ms: The time of each source's last record.
        carried: How much of each unfinished line lies in earlier segments.
        ended: Whether a line of the source has ended in this segment, or the source begins in it.
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
        """Where in each source the next line begins."""
        return [offset - len(tail) for offset, tail in zip(self.offsets, self.tails, strict=True)]


START = Point()


class LineSplitter:
    """Walks over records and keeps what lines need: how many there were, and each source's unfinished one.

    Attributes:
        line: How many lines have ended, pieces included.
    """

    def __init__(self, point: Point = START) -> None:
        self.line = point.line
        self._newest_ms = point.newest_ms
        self._tails = [bytearray(tail) for tail in point.tails]
        self._tail_ms = list(point.tail_ms)
        self._carried = list(point.carried)
        self._ended = list(point.ended)

    def skip(self, source_id: int, timestamp_ms: int, payload: bytes) -> None:
        """Passes a record of which no line is wanted: several times faster than `take`."""
        cut = self._pass(source_id, timestamp_ms, payload, payload.rfind(b"\n") + 1)
        if cut:
            del self._tails[source_id][:cut]

    def take(self, source_id: int, timestamp_ms: int, payload: bytes) -> tuple[bytes, bytes]:
        """Passes a record: the lines that it completes, newlines included, and a piece of a longer line."""
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
        """Counts, and says how much of the unfinished line is to be cut off as a piece."""
        tail = self._tails[source_id]
        self._tail_ms[source_id] = timestamp_ms
        if timestamp_ms > self._newest_ms:
            self._newest_ms = timestamp_ms
        if newline:
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
            # What was this long before has been searched. The last byte may be half of a line's end: \r\n.
            searched = before - 1 if before - carried > BAR_BYTES else 0
            cut = max(0, tail.rfind(b"\r", max(carried + 1, searched), length - 1))
        if cut:
            self.line += 1
            self.begin_line(source_id)
        return cut

    def gap(self, source_id: int, *, counted: bool = True) -> bytes:
        """Passes a gap: what was unfinished before it, which is `counted` as a line, or not."""
        piece = bytes(self._tails[source_id])
        self.line += bool(piece and counted)
        self._tails[source_id].clear()
        self.begin_line(source_id)
        return piece

    def begin_segment(self, offsets: Offsets) -> list[Leftover]:
        """Passes from one segment into the next, before which lie `offsets`; again without effect. What it cuts."""
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
        """The unfinished lines, in the order in which a final log shows them."""
        return [
            (source_id, self._tail_ms[source_id], bytes(tail)) for source_id, tail in enumerate(self._tails) if tail
        ]

    def tail_length(self, source_id: int) -> int:
        """How long a source's unfinished line is, in bytes."""
        return len(self._tails[source_id])

    def point(self, position: int, offsets: Offsets) -> Point:
        """This place, to come back to; the records before it have been passed."""
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
        """Takes note that a line has ended here."""
        self._carried[source_id] = 0
        self._ended[source_id] = True


class LogIndex:
    """Where reading may start in mid-log, so that a page deep in a long log costs no more than the first.

    Kept by the writer, in memory. Readers in other threads use it meanwhile and take no lock: a `Point` never changes,
    the list only grows, by an append that is atomic, or is replaced, and a point is there only after the bytes that it
    speaks of. A reader that just misses a new point starts at an older one and comes to the same lines.
    """

    def __init__(self) -> None:
        self._points = [START]
        self._splitter = LineSplitter()

    @property
    def line(self) -> int:
        """How many lines end before the end of what was added."""
        return self._splitter.line

    def tail_length(self, source_id: int) -> int:
        """How long a source's unfinished line is, in bytes."""
        return self._splitter.tail_length(source_id)

    def add(self, source_id: int, timestamp_ms: int, payload: bytes) -> None:
        """Takes note of a record."""
        self._splitter.skip(source_id, timestamp_ms, payload)

    def add_gap(self, source_id: int) -> None:
        """Takes note of a gap."""
        self._splitter.gap(source_id)

    def begin_segment(self, offsets: Offsets) -> None:
        """Takes note of a new segment, before which lie `offsets`."""
        self._splitter.begin_segment(offsets)

    def mark(self, position: int, offsets: Offsets) -> None:
        """Remembers this place, if it is far enough from the last one; what is before it was added."""
        distance = position - self._points[-1].position
        if distance >= _POINT_SPACING:
            tails = sum(map(self._splitter.tail_length, range(len(SOURCES))))
            if distance >= _POINT_SPACING_PER_TAIL_BYTE * tails:
                self._points.append(self._splitter.point(position, offsets))

    def drop_before(self, position: int) -> None:
        """Forgets what is no longer there. The start remains: who begins there hears of the gap."""
        first = bisect_right(self._points, position - 1, key=attrgetter("position"))
        self._points = [START, *self._points[first:]]

    @property
    def points(self) -> Points:
        """The points that there are now."""
        return Points(self._points, len(self._points))


class Points:
    """The points of an index at one moment; those that come later are not seen.

    Args:
        points: A list that only grows.
        count: How many there are of them at that moment.
    """

    def __init__(self, points: list[Point], count: int) -> None:
        self._points = points
        self._count = count

    def before(self, line: int, start_ms: int) -> Point:
        """The last point before which no line is wanted: all are before `line`, or none is later than `start_ms`."""
        points, count = self._points, self._count
        number = bisect_right(points, line, hi=count, key=attrgetter("line"))
        if start_ms > 0:
            number = max(number, bisect_right(points, start_ms, hi=count, key=attrgetter("newest_ms")))
        return points[number - 1]

    def back(self, steps: int) -> Point:
        """The point so many steps before the end, or the start."""
        return self._points[max(0, self._count - steps)]
