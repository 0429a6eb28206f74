"""Finds where the last N matching lines begin, starting from the end of a log."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_index import CHUNK_BYTES, Extent, Gap, LineBlock, LineScanner
from iris.cluster.logs.reading.line_numbers import LineNumbers
from iris.cluster.logs.reading.numbered_lines import Point, Points
from iris.cluster.logs.reading.query import LogFilter
from iris.cluster.logs.records import BEGINNING, Offsets


class TailStart(NamedTuple):
    """The place at which the last N matching lines of a log begin.

    Attributes:
        point: The place in the log at which to begin to read.
        line: The smallest number that the first line of the tail may have.
        skip: How many matching lines, from `line` on, come before the tail.
    """

    point: Point
    line: int
    skip: int


class Selection:
    """Decides which lines of a log a reader gets.

    Args:
        log_filter: The filter that selects lines of the log.
        start: Where to begin. Lines before `start.line`, and the next `start.skip` matching lines, are left out.
        offsets: Lines that begin before these offsets are left out.
    """

    def __init__(self, log_filter: LogFilter, start: TailStart, offsets: Offsets = BEGINNING) -> None:
        self.start = start
        self._log_filter = log_filter
        self._offsets = offsets
        self._skip = start.skip
        self._is_reached = False

    def lines(self, block: LineBlock) -> Iterator[tuple[int, int, int]]:
        """Yield three values for each selected line of a block: its number, the index of its first byte, and the index
        after its newline.
        """
        start_line = self.start.line
        if not self._is_reached and block.counted and block.number >= start_line:
            self._is_reached = True
            if block.number > start_line:
                # The writer has dropped some of the counted lines meanwhile. Therefore fewer lines are left than the
                # reader wants.
                self._skip = 0
        if not self._log_filter.selects(block):
            return
        begin = self._offsets[block.source_id] - block.offset
        for number, start, end in self._log_filter.matching(block):
            if number < start_line or start < begin:
                continue
            if self._skip:
                self._skip -= 1
            else:
                yield number, start, end

    def selects_gap(self, gap: Gap) -> bool:
        """Return whether the reader gets a given gap."""
        return gap.source_id in self._log_filter.source_ids and not self._skip


def find_tail(
    directory: Path,
    writer: LogWriter | None,
    extent: Extent,
    log_filter: LogFilter,
    *,
    offsets: Offsets = BEGINNING,
    start_line: int = 0,
    numbers: LineNumbers | None = None,
    final: bool,
) -> Generator[int, None, TailStart]:
    """Search backwards from the end of a log until enough lines match, and return the place at which the tail begins.
    Each try goes back twice as far as the try before. The generator yields the number of bytes that were read after
    each step.

    Args:
        directory: The directory of the log.
        writer: The log's writer if this process writes the log or has written it; None if another process has written
            it.
        extent: The part of the log that exists at the beginning of the search, with the points at which a reader can
            start.
        log_filter: The filter, whose `tail` is the number of wanted lines.
        offsets: Lines that begin before these offsets do not count.
        start_line: Lines before this number do not count.
        numbers: The `LineNumbers` of the log if the points of `extent` come from this object, otherwise None.
        final: Whether the writer has finished, so that partial lines count.
    """
    points, stop = extent
    steps = 1
    while True:
        point = points.back(steps)
        is_all = point.line <= start_line or all(map(int.__le__, point.offsets, offsets))
        walk = LineScanner(directory, point, writer, numbers=numbers)
        line, total = yield from _search(walk, stop, log_filter, offsets, start_line, final=final)
        walk.reader.close()
        if total >= log_filter.tail:
            # If the lines before the first segment were not counted, line numbers depend on the point at which reading
            # begins. Therefore the tail is then read from the point at which the lines were counted.
            nearest = points.before(line, 0) if numbers is not None and isinstance(points, Points) else point
            return TailStart(nearest, line, total - log_filter.tail)
        if is_all:
            return TailStart(point, start_line, 0)
        steps *= 2


def _search(
    walk: LineScanner,
    stop: int | None,
    log_filter: LogFilter,
    offsets: Offsets,
    start_line: int,
    *,
    final: bool,
) -> Generator[int, None, tuple[int, int]]:
    """Search for the last lines that match, up to the end of the log. Return the number of a line before these lines,
    and how many lines match from this number on. If fewer lines match than the tail needs, return the number of all
    matching lines.
    """
    # Each item describes a searched part of the log by the number of its first line and the number of its matching
    # lines.
    counts: deque[tuple[int, int]] = deque()
    total = 0
    going_on = True
    while going_on:
        before = walk.reader.position
        size = CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - before)
        items = walk.read(size, final=final) if size > 0 else None
        if items is None:
            going_on = False
            items = [*walk.leftovers()] if final else []
        blocks = [item for item in items if isinstance(item, LineBlock)]
        may_match = bool(blocks) and log_filter.may_match(blocks)
        count = sum(_count(block, log_filter, offsets, start_line) for block in blocks) if may_match else 0
        if count:
            first = next((block.number for block in blocks if block.counted), blocks[0].number)
            counts.append((first, count))
            total += count
        while counts and total - counts[0][1] >= log_filter.tail:
            total -= counts.popleft()[1]
        yield max(1, walk.reader.position - before)
    return counts[0][0] if counts else 0, total


def _count(block: LineBlock, log_filter: LogFilter, offsets: Offsets, start_line: int) -> int:
    if not log_filter.selects(block):
        return 0
    begin = offsets[block.source_id] - block.offset
    if begin <= 0 and block.number >= start_line:
        return log_filter.count(block)
    return sum(1 for number, start, _ in log_filter.matching(block) if number >= start_line and start >= begin)
