"""Finds points at which a reader of lines can start shortly before a position.

The writer of a log has points in memory. For the logs of other writers, this module makes points from the names of the
segments, and stores the points that readers have passed. Without the stored points, each part would be searched for
from the beginning of its segment, which has up to 16 MiB.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from operator import attrgetter
from pathlib import Path

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_index import LineScanner, StoredIndex
from iris.cluster.logs.reading.line_numbers import LogIdentity, identify_log
from iris.cluster.logs.reading.numbered_lines import START, Point

# The least distance between two neighbouring start points of a log, in bytes.
_SPACING = 512 << 10
# The largest number of bytes of partial lines that a start point may contain. A start point with longer partial lines
# is not stored, because it would take too much memory.
_MOST_TAIL_BYTES = 4 << 10
# The largest number of start points that are stored for one log.
_MOST_POINTS = 1024
_MOST_LOGS = 32


class StartPoints:
    """Stores points of one log that readers have passed, and at which other readers can start. Several threads may use
    an instance.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._points: list[Point] = []  # The stored start points of the log, in the order of their positions.

    def before(self, position: int) -> Point | None:
        """Return the last stored point before a position; None if there is no such point."""
        with self._lock:
            number = bisect_left(self._points, position, key=attrgetter("position"))
            return self._points[number - 1] if number else None

    def add(self, point: Point) -> None:
        """Store a point, unless another point is near or the point is too large."""
        if sum(map(len, point.tails)) > _MOST_TAIL_BYTES:
            return
        with self._lock:
            number = bisect_left(self._points, point.position, key=attrgetter("position"))
            neighbours = self._points[max(0, number - 1) : number + 1]
            if any(abs(point.position - neighbour.position) < _SPACING for neighbour in neighbours):
                return
            if len(self._points) >= _MOST_POINTS:
                del self._points[::2]
                number = bisect_left(self._points, point.position, key=attrgetter("position"))
            self._points.insert(number, point)


class _Cache:
    """A cache of the stored points of the logs that were read last. A point is a place at which a reader can start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: OrderedDict[Path, tuple[LogIdentity, StartPoints]] = OrderedDict()

    def points(self, directory: Path) -> StartPoints:
        """Return the stored points of a log. If the files of the log were replaced since the last call, no points are
        stored.
        """
        identity = identify_log(directory)
        if identity is None:
            return StartPoints()
        with self._lock:
            known = self._logs.pop(directory, None)
            if known is None or known[0] != identity:
                known = identity, StartPoints()
            self._logs[directory] = known
            while len(self._logs) > _MOST_LOGS:
                self._logs.popitem(last=False)
            return known[1]


_cache = _Cache()


class LogStarts:
    """Finds points of one log at which a reader can start, and stores the points that readers pass.

    Args:
        directory: The directory of the log.
        writer: The log's writer if this process writes the log or has written it; None if another process has written
            it.
    """

    def __init__(self, directory: Path, writer: LogWriter | None) -> None:
        self._directory = directory
        self._writer = writer
        self._stored = None if writer is not None else _cache.points(directory)

    def before(self, position: int) -> Point:
        """Return a point at which a reader can start before a position, or the start of the log.

        The returned point never lies at the given position itself, because a line may begin before the position and
        continue after it. A reader that starts exactly at the position would leave out the first piece of this line.
        """
        if position <= 0:
            return START
        if self._writer is not None:
            return self._writer.index.points.before(position - 1, 0)
        assert self._stored is not None
        index = StoredIndex(self._directory)
        passed = self._stored.before(position)
        if passed is not None and passed.position >= index.segment_before(position):
            return passed
        point = index.before(position)
        self._stored.add(point)
        return point

    def passed(self, walk: LineScanner) -> None:
        """Store the position of a reader as a point if later readers can use the point."""
        if self._stored is not None and walk.reader.position:
            self._stored.add(walk.point())
