"""Stores the numbers of lines that readers have counted, so that no part of a log is counted twice.

The writer of a log does not count lines, because counting takes longer than writing. Lines are counted when a reader
requests a page by line number. The numbers of a log that is being written belong to its writer. The numbers of other
logs are in a cache of this process.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from operator import attrgetter
from pathlib import Path

from iris.cluster.logs.reading.numbered_lines import START, LineSplitter, Points, without_points_before
from iris.cluster.logs.records import Offsets
from iris.cluster.logs.segments import list_segments

# A point stores the number of the line at one position of a log. Two neighbouring points are at least `_SPACING` bytes
# of log apart, and also at least `_SPACING_PER_TAIL_BYTE` times the size of the partial lines that the second point
# stores. Therefore the points of a log of 10 GiB take a few megabytes.
_SPACING = 2 << 20
_SPACING_PER_TAIL_BYTE = 1024
# The number of logs whose line numbers are in the cache. The lines of a log that is not in the cache are counted again.
_MOST_LOGS = 16

# Identifies the files of a log: the name, device, inode, size and time of the oldest segment.
LogIdentity = tuple[str, int, int, int, int]


class LineNumbers:
    """Stores line numbers of one log: for some places in the log, called points, how many lines end before the place.
    Several threads may use an instance.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._points = [START]
        # For each segment, by its position in the log: the number of its first line.
        self._at_segments: dict[int, int] = {}

    def at_segment(self, position: int, line: int) -> int:
        """Return the number of the line at which a segment begins.

        Two readers may count different numbers for a segment if the segments before it are dropped while one of them
        reads. All readers use the number that was stored first.

        Args:
            position: The position in the log at which the segment begins.
            line: The number that the caller has counted. It is stored if no number is stored for the segment yet.
        """
        return self._at_segments.setdefault(position, line)

    def mark(self, splitter: LineSplitter, position: int, offsets: Offsets, *, always: bool = False) -> None:
        """Store the place that a reader has reached, with its line number. If the last stored place is near, do
        nothing.

        Args:
            splitter: The object with which the reader counts lines.
            position: The number of bytes of records before the place.
            offsets: The number of bytes of each source before the place.
            always: Whether to store the place even if the last stored place is near.
        """
        distance = position - self._points[-1].position
        if not always and (distance < _SPACING or distance < _SPACING_PER_TAIL_BYTE * splitter.tails_length):
            return
        point = splitter.point(position, offsets)
        with self._lock:
            if self._points[-1].position < position:
                self._points.append(point)

    def drop_before(self, position: int) -> None:
        """Remove the numbers before a position, because the writer has dropped this part of the log."""
        with self._lock:
            self._points = without_points_before(self._points, position)
            for segment in [segment for segment in self._at_segments if segment < position]:
                del self._at_segments[segment]

    def points(self, stop: int | None) -> Points:
        """Return the stored places up to the position `stop`; all places if `stop` is None."""
        points = self._points
        count = len(points) if stop is None else bisect_right(points, stop, key=attrgetter("position"))
        return Points(points, count)


class _Cache:
    """The numbers of the lines of logs that this process does not write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: OrderedDict[Path, tuple[LogIdentity, LineNumbers]] = OrderedDict()

    def numbers(self, directory: Path) -> LineNumbers:
        """Return the known line numbers of a log. If another log has replaced the log in the directory, no numbers are
        known yet.
        """
        identity = identify_log(directory)
        if identity is None:
            return LineNumbers()
        with self._lock:
            known = self._logs.pop(directory, None)
            if known is None or known[0] != identity:
                known = identity, LineNumbers()
            self._logs[directory] = known
            while len(self._logs) > _MOST_LOGS:
                self._logs.popitem(last=False)
            return known[1]


_cache = _Cache()


def stored_line_numbers(directory: Path) -> LineNumbers:
    """Return the numbers of the lines of a log that this process does not write."""
    return _cache.numbers(directory)


def identify_log(directory: Path) -> LogIdentity | None:
    """Return a value that differs between a log and an earlier log in the same directory. Return None if the log has no
    files.
    """
    for segment in list_segments(directory)[:1]:
        try:
            there = (directory / segment.segment_name).stat()
        except OSError:
            return None
        return segment.segment_name, there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns
    return None
