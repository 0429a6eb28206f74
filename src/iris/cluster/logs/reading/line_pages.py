"""Reads a log page by page, by line numbers."""

from __future__ import annotations

import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.logs.reading.line_index import CHUNK_BYTES, Gap, LineBlock, LineReader, extent_of
from iris.cluster.logs.reading.query import EVERYTHING, LogFilter, parse_filter
from iris.cluster.logs.reading.tail import Selection, TailStart, find_tail
from iris.cluster.logs.records import SOURCES, Source
from iris.cluster.logs.writer import LogWriter
from iris.rpc import cluster_pb2
from iris.rpc.serving.steps import Steps, finish

PAGE_BYTES = 2 << 20
# A page looks through so much at most: a question about a log of many GB is answered page by page, too.
_LOOK_BYTES = 256 << 20
# Pieces of lines without a number that a log may have, where records were lost.
_NOT_NUMBERED = 1000
# What a line counts for in a page besides its data: its time, source and frame in an answer. Without it, a page of
# empty lines would have no limit.
LINE_COST = 32


@dataclass(slots=True)
class Line:
    """A line of a log, or a gap.

    Attributes:
        number: Its place in the attempt's log, from 0, over all sources; of a gap, that of the line after it.
        timestamp_ms: When its end was captured, in ms since the epoch.
        source: Which pipe it came from.
        data: Its exact bytes, without the newline; of a gap, words that say so.
        partial: No newline here: the end of the log, or a piece that the source's next line continues.
        missing_bytes: Of a gap: how many bytes of the source are missing here.
    """

    number: int
    timestamp_ms: int
    source: Source
    data: bytes
    partial: bool
    missing_bytes: int = 0


@dataclass(slots=True)
class Page:
    """Some lines of a log, and how to go on.

    Attributes:
        lines: In order; those that passed the filters. A gap comes with the line after it, or at the end.
        next_line: Where the next page starts: after the lines that were returned and the ones that were filtered out.
        at_end: There is nothing to read after this page now; of a final log, nothing will ever come.
    """

    lines: list[Line]
    next_line: int
    at_end: bool


def read_page(
    directory: Path,
    writer: LogWriter | None = None,
    wanted: LogFilter = EVERYTHING,
    *,
    start_line: int = 0,
    final: bool,
    max_bytes: int = PAGE_BYTES,
    look_bytes: int = _LOOK_BYTES,
) -> Page:
    """Read a page at once; see `reading_page`."""
    return finish(
        reading_page(
            directory,
            writer,
            wanted,
            start_line=start_line,
            final=final,
            max_bytes=max_bytes,
            look_bytes=look_bytes,
        )
    )


def reading_page(
    directory: Path,
    writer: LogWriter | None = None,
    wanted: LogFilter = EVERYTHING,
    *,
    start_line: int = 0,
    final: bool,
    max_bytes: int = PAGE_BYTES,
    look_bytes: int = _LOOK_BYTES,
) -> Steps[Page]:
    """Read lines of a log, also while it is being written. No such directory is an empty log.

    Yields after each step, which reads a megabyte at most.

    Args:
        directory: The log's.
        writer: As for `LogReader`.
        wanted: The filter. A `tail` counts from `start_line` on, so a page that follows goes on with the same one.
        start_line: The first line, from 0; negative counts from the end of what there is, before the other filters.
        final: The log is complete, so what has no newline is shown too. Only true when the writer is done.
        max_bytes: A page ends before its lines are more than this, `LINE_COST` included; it always has one, if
            there is one.
        look_bytes: … or after so much was looked through, whatever was found. To find where a `tail` begins, as much
            is looked through as that takes.

    Raises:
        OSError: The log cannot be read.
    """
    # All that follows looks at the log as it is now: a page ends also where a task never stops writing.
    extent = extent_of(directory, writer, final=final)
    points, stop = extent
    num_lines = -1
    if start_line < 0 or wanted.tail:
        num_lines = yield from _count_lines(LineReader(directory, points.back(1), writer), stop, final)
    if start_line < 0:
        start_line = max(0, num_lines + start_line)
    if wanted.tail and wanted.tail < num_lines - start_line + _NOT_NUMBERED:
        search = find_tail(directory, writer, extent, wanted, start_line=start_line, final=final)
        start = yield from _steps_of(search)
    else:  # also where the tail has room for all lines that there are: they need not be counted
        start = TailStart(points.before(start_line, wanted.start_ms), start_line, 0)
    page = _PageLines(Selection(wanted, start), wanted.max_lines, max_bytes)
    walk = LineReader(directory, start.point, writer)
    try:
        return (yield from _read(walk, stop, final, page, look_bytes))
    finally:
        walk.reader.close()


def _count_lines(walk: LineReader, stop: int | None, final: bool) -> Steps[int]:
    try:
        while _step(walk, stop, final, sys.maxsize) is not None:
            yield
        return walk.line + (len(walk.leftovers()) if final else 0)
    finally:
        walk.reader.close()


def _steps_of(search: Generator[int, None, TailStart]) -> Steps[TailStart]:
    try:
        while True:
            try:
                next(search)
            except StopIteration as found:
                start: TailStart = found.value
                return start
            yield
    finally:
        search.close()


def _step(walk: LineReader, stop: int | None, final: bool, start_line: int) -> list[LineBlock | Gap] | None:
    room = CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - walk.reader.position)
    return walk.read(room, final=final, start_line=start_line) if room > 0 else None


def _read(walk: LineReader, stop: int | None, final: bool, page: _PageLines, look_bytes: int) -> Steps[Page]:
    """Reads on until the page is full and a line after it was seen, until the end, or for long enough."""
    line, begin = walk.line, walk.reader.position
    while page.full_at is None or line <= page.full_at:
        items = _step(walk, stop, final, page.start_line)
        if items is None:
            leftovers = walk.leftovers() if final else []
            for block in leftovers:
                page.add(block)
            line += len(leftovers)
            if final:
                page.release_gaps(line)
            break
        for item in items:
            page.add(item)
        line = walk.line
        if page.full_at is None and line > page.start_line and walk.reader.position - begin >= look_bytes:
            return Page(page.lines, line, at_end=False)  # gaps after the last line are found again by the next page
        yield
    # A start beyond the end stays where it is: the lines before it were not asked for.
    next_line = max(page.start_line, line) if page.full_at is None else page.full_at
    return Page(page.lines, next_line, at_end=line <= next_line and not (final and page.has_gaps))


class _PageLines:
    """The lines of one page: those that were found, and when it is full.

    Attributes:
        start_line: None before this one.
        lines: Found so far.
        full_at: The line at which the next page starts; None as long as this one has room.
    """

    def __init__(self, selection: Selection, max_lines: int, max_bytes: int) -> None:
        self.start_line = selection.start.line
        self.lines: list[Line] = []
        self.full_at: int | None = None
        self._selection = selection
        self._max_lines = max_lines
        self._room = max_bytes
        self._count = 0
        self._gaps: list[Line] = []  # since the last line; given with the next one, so that no page has them again

    @property
    def has_gaps(self) -> bool:
        """Whether there are gaps that are not in the page, before the line at which the next one starts."""
        return bool(self._gaps)

    def add(self, item: LineBlock | Gap) -> None:
        """Takes what is wanted of it."""
        if isinstance(item, Gap):
            if self._selection.takes_gap(item):
                self._gaps.append(_gap_line(item))
        elif not item.counted:
            self._gaps += [_line(item, item.number, start, end) for _, start, end in self._selection.lines(item)]
        elif self.full_at is None:
            self._add_lines(item)

    def _add_lines(self, block: LineBlock) -> None:
        for number, start, end in self._selection.lines(block):
            line = _line(block, number, start, end)
            self._room -= len(line.data) + LINE_COST
            if self._room < 0 and self._count:
                if number > block.number:  # else the gaps before it are the next page's, too
                    self.release_gaps(block.number)
                self.full_at = number
                return
            self.release_gaps(block.number)
            self.lines.append(line)
            self._count += 1
            if self._count == self._max_lines:
                self.full_at = number + 1
                return
        self.release_gaps(block.number)

    def release_gaps(self, number: int) -> None:
        """Gives the gaps before this line, if it is one of the page."""
        if self.full_at is None:
            if number >= self.start_line:
                for gap in self._gaps:
                    gap.number = number
                self.lines += self._gaps
            self._gaps = []


def _line(block: LineBlock, number: int, start: int, end: int) -> Line:
    data = block.data[start:end]
    partial = not data.endswith(b"\n")
    return Line(number, block.timestamp_ms, SOURCES[block.source_id], data if partial else data[:-1], partial)


def _gap_line(gap: Gap) -> Line:
    source = SOURCES[gap.source_id]
    words = f"[iris: {gap.missing} bytes of {source} are missing here: {gap.reason}]"
    return Line(gap.number, gap.timestamp_ms, source, words.encode(), False, gap.missing)


def making_page(
    directory: Path,
    writer: LogWriter | None,
    wanted: cluster_pb2.Worker.FetchLogsFilter,
    attempt_id: int,
    final: bool,
) -> Steps[cluster_pb2.Worker.FetchTaskLogsResponse]:
    """Answer FetchTaskLogs, step by step; see `reading_page`.

    Raises:
        InvalidArgumentError: The filter cannot be meant.
    """
    reading = reading_page(directory, writer, parse_filter(wanted), start_line=wanted.start_line, final=final)
    page = yield from reading
    response = cluster_pb2.Worker.FetchTaskLogsResponse(
        next_line=page.next_line, at_end=page.at_end, complete=final and page.at_end, attempt_id=attempt_id
    )
    for line in page.lines:
        entry = response.logs.add(timestamp_ms=line.timestamp_ms, source=line.source)
        try:
            entry.data = line.data.decode()
        except UnicodeDecodeError:
            # One bad byte in a proto `string` would fail the whole message: the exact bytes travel beside it.
            entry.data = line.data.decode(errors="replace")
            entry.raw = line.data
        if line.partial:
            entry.partial = True
        if line.missing_bytes:
            entry.missing_bytes = line.missing_bytes
    return response
