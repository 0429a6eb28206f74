"""Reads a log page by page, by line numbers."""

from __future__ import annotations

import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_index import CHUNK_BYTES, Extent, Gap, LineBlock, LineScanner
from iris.cluster.logs.reading.line_numbers import stored_line_numbers
from iris.cluster.logs.reading.numbered_lines import Point, Points
from iris.cluster.logs.reading.query import EVERYTHING, LogFilter, parse_filter
from iris.cluster.logs.reading.tail import Selection, TailStart, find_tail
from iris.cluster.logs.records import SOURCES, Source
from iris.counts import word_for
from iris.rpc import cluster_pb2
from iris.rpc.serving.steps import Steps, finish

PAGE_BYTES = 2 << 20
# The largest number of bytes that are read for one page. Therefore a search through many gigabytes is answered in
# several pages.
_LOOK_BYTES = 256 << 20
# A log may contain pieces of lines that have no line number, where records were lost. The search for the tail assumes
# at most this many such pieces.
_NOT_NUMBERED = 1000
# The bytes that each line adds to the size of a page besides its data, for its time, source and header. Without these
# bytes, the number of empty lines on a page would have no limit.
LINE_COST = 32


@dataclass(slots=True)
class NumberedLine:
    """A line of a log, or a gap.

    Attributes:
        number: The number of the line in the attempt's log, from 0, over all sources. A gap has the number of the next
            line.
        timestamp_ms: When the end of the line was captured, in ms since the epoch.
        source: The source of the line.
        data: The bytes of the line without its newline. For a gap, a sentence that describes the gap.
        partial: Whether the newline is missing, because the log ends here or because the next line continues this one.
        missing_bytes: How many bytes of the source are missing here; 0 for a line.
    """

    number: int
    timestamp_ms: int
    source: Source
    data: bytes
    partial: bool
    missing_bytes: int = 0


@dataclass(slots=True)
class LinePage:
    """A page of lines, with the number of the line at which the next page begins.

    Attributes:
        lines: The lines that passed the filter, in order. A gap comes before the next line, or at the end.
        next_line: The number of the line at which the next page begins, after the returned and the filtered-out lines.
        at_end: Whether nothing more can be read now. A final log has ended here for good.
    """

    lines: list[NumberedLine]
    next_line: int
    at_end: bool


def read_page(
    directory: Path,
    writer: LogWriter | None = None,
    log_filter: LogFilter = EVERYTHING,
    *,
    start_line: int = 0,
    final: bool,
    max_bytes: int = PAGE_BYTES,
    look_bytes: int = _LOOK_BYTES,
) -> LinePage:
    """Read a page of lines without interruptions; see `read_page_steps` for the arguments."""
    return finish(
        read_page_steps(
            directory,
            writer,
            log_filter,
            start_line=start_line,
            final=final,
            max_bytes=max_bytes,
            look_bytes=look_bytes,
        )
    )


def read_page_steps(
    directory: Path,
    writer: LogWriter | None = None,
    log_filter: LogFilter = EVERYTHING,
    *,
    start_line: int = 0,
    final: bool,
    max_bytes: int = PAGE_BYTES,
    look_bytes: int = _LOOK_BYTES,
) -> Steps[LinePage]:
    """Read a page of lines of a log, which may still be growing. A missing directory is an empty log. The generator
    yields after each step, and each step reads at most a megabyte.

    Args:
        directory: The directory of the log.
        writer: The log's writer if this process writes the log or has written it; None if another process has written
            it.
        log_filter: The filter. Its `tail` counts from `start_line` on, so the next page continues with the same tail.
        start_line: The first line, from 0. A negative number counts from the present end of the log, before the other
            filters.
        final: Whether the writer has finished, so that partial lines are shown, too.
        max_bytes: The page ends before its lines exceed this size, where `LINE_COST` is added to the size of each line.
            A page has at least one line, unless the log has no more lines.
        look_bytes: The page also ends after reading this many bytes, perhaps without any line. Counting all lines, for
            a negative `start_line` or a `tail`, and finding the beginning of a `tail` may read more.

    Raises:
        OSError: The log cannot be read.
    """
    log = _NumberedLog(directory, writer, final=final)
    num_lines = -1
    if start_line < 0 or log_filter.tail:
        num_lines, _ = yield from log.count_lines()
    elif log_filter.start_ms > 0 and writer is not None:
        # Lines that the writer knows to be too old are only counted, because filtering takes longer than counting.
        too_old = writer.index.points.before(0, log_filter.start_ms).position
        line, is_done = yield from log.count_lines(stop=too_old, look_bytes=look_bytes)
        if not is_done:
            return LinePage([], max(start_line, line), at_end=False)
    if start_line < 0:
        start_line = max(0, num_lines + start_line)
    _, is_done = yield from log.count_lines(up_to=start_line, look_bytes=look_bytes)
    if not is_done:
        return LinePage([], start_line, at_end=False)
    points = log.points
    if log_filter.tail and log_filter.tail < num_lines - start_line + _NOT_NUMBERED:
        extent = Extent(points, log.stop)
        search = find_tail(
            directory, writer, extent, log_filter, start_line=start_line, numbers=log.numbers, final=final
        )
        start = yield from _steps_of(search)
    else:  # The tail contains the whole log, so the page begins at the start of the log.
        start = TailStart(points.before(start_line, log_filter.start_ms), start_line, 0)
    page = _PageLines(Selection(log_filter, start), log_filter.max_lines, max_bytes)
    walk = log.scan(start.point)
    try:
        return (yield from _read(walk, log.stop, final, page, look_bytes))
    finally:
        walk.reader.close()


class _NumberedLog:
    """The part of a log that exists at one moment, with the numbers of its lines. A page ends at the end of this part,
    even if the task never stops writing.

    Attributes:
        numbers: The line numbers of the log that were counted for this page or for earlier pages.
        stop: The position in the log at which this part ends, as a number of bytes; None if the part ends with the
            log's last file.
    """

    def __init__(self, directory: Path, writer: LogWriter | None, *, final: bool) -> None:
        self.numbers = stored_line_numbers(directory) if writer is None else writer.numbers
        self.stop = None if writer is None or final else writer.tip.position
        self._directory = directory
        self._writer = writer
        self._final = final

    @property
    def points(self) -> Points:
        """The places at which a reader of numbered lines can start."""
        return self.numbers.points(self.stop)

    def scan(self, point: Point) -> LineScanner:
        """Return a scanner of log lines that begins at one of the places that `points` returns."""
        return LineScanner(self._directory, point, self._writer, numbers=self.numbers)

    def count_lines(
        self, *, up_to: int = sys.maxsize, stop: int | None = None, look_bytes: int = sys.maxsize
    ) -> Steps[tuple[int, bool]]:
        """Count lines from the last known number on. Other pages of the log may count at the same time. In this case,
        the pages share the work.

        Args:
            up_to: The number of the line up to which lines are counted.
            stop: The position in the log up to which lines are counted. None means the end of the log.
            look_bytes: About how many bytes are read before the counting stops.

        Returns:
            The number of lines that end before the place at which counting has stopped, and whether the count is
            complete. The count is incomplete if `look_bytes` has stopped it.
        """
        if stop is None or (self.stop is not None and stop > self.stop):
            stop = self.stop
        walk = self.scan(self.numbers.points(stop).back(1))
        looked = 0
        try:
            while walk.line < up_to and _step(walk, stop, self._final, sys.maxsize) is not None:
                looked += CHUNK_BYTES
                # The number of lines counted so far is stored. Otherwise the next page would count the same lines
                # again.
                if looked >= look_bytes and walk.store_number():
                    return walk.line, False
                yield
                point = self.numbers.points(stop).back(1)
                if point.position > walk.reader.position:
                    walk.reader.close()
                    walk = self.scan(point)
            return walk.line + (len(walk.leftovers()) if self._final else 0), True
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


def _step(walk: LineScanner, stop: int | None, final: bool, start_line: int) -> list[LineBlock | Gap] | None:
    room = CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - walk.reader.position)
    return walk.read(room, final=final, start_line=start_line) if room > 0 else None


def _read(walk: LineScanner, stop: int | None, final: bool, page: _PageLines, look_bytes: int) -> Steps[LinePage]:
    """Read until one line was found that does not fit into the page, or the log ends, or the limit of bytes to read is
    reached."""
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
            # The next page contains the gaps after the last line, so this page leaves them out.
            return LinePage(page.lines, line, at_end=False)
        yield
    # If `start_line` is beyond the end of the log, the next page also starts at `start_line`.
    next_line = max(page.start_line, line) if page.full_at is None else page.full_at
    return LinePage(page.lines, next_line, at_end=line <= next_line and not (final and page.has_gaps))


class _PageLines:
    """The lines of one page.

    Attributes:
        start_line: The page contains no line before this number.
        lines: The lines of the page that were found so far.
        full_at: The number of the line at which the next page begins; None while this page has space.
    """

    def __init__(self, selection: Selection, max_lines: int, max_bytes: int) -> None:
        self.start_line = selection.start.line
        self.lines: list[NumberedLine] = []
        self.full_at: int | None = None
        self._selection = selection
        self._max_lines = max_lines
        self._room = max_bytes
        self._count = 0
        # The gaps since the last line are returned together with the next line, so that no page repeats the gaps.
        self._gaps: list[NumberedLine] = []

    @property
    def has_gaps(self) -> bool:
        """Whether gaps were found after the last line of this page. These gaps are not part of the page yet."""
        return bool(self._gaps)

    def add(self, item: LineBlock | Gap) -> None:
        """Add the selected lines of a block, or a gap."""
        if isinstance(item, Gap):
            if self._selection.selects_gap(item):
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
                # If no line of the block fits into the page, the gaps before the block belong to the next page.
                if number > block.number:
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
        """Add the gaps before a line to the page."""
        if self.full_at is None:
            if number >= self.start_line:
                for gap in self._gaps:
                    gap.number = number
                self.lines += self._gaps
            self._gaps = []


def _line(block: LineBlock, number: int, start: int, end: int) -> NumberedLine:
    data = block.data[start:end]
    partial = not data.endswith(b"\n")
    return NumberedLine(number, block.timestamp_ms, SOURCES[block.source_id], data if partial else data[:-1], partial)


def _gap_line(gap: Gap) -> NumberedLine:
    source = SOURCES[gap.source_id]
    nouns, verb = word_for(gap.missing, "byte"), word_for(gap.missing, "is", "are")
    words = f"[iris: {gap.missing} {nouns} of {source} {verb} missing here: {gap.reason}]"
    return NumberedLine(gap.number, gap.timestamp_ms, source, words.encode(), False, gap.missing)


def fetch_page_steps(
    directory: Path,
    writer: LogWriter | None,
    log_filter: cluster_pb2.Worker.FetchLogsFilter,
    attempt_id: int,
    final: bool,
) -> Steps[cluster_pb2.Worker.FetchTaskLogsResponse]:
    """Read the answer to a FetchTaskLogs call step by step; see `read_page_steps`.

    Raises:
        InvalidArgumentError: The filter is invalid.
        ResourceExhaustedError: The pattern of the filter has too many characters.
        OSError: The log cannot be read.
    """
    reading = read_page_steps(
        directory, writer, parse_filter(log_filter), start_line=log_filter.start_line, final=final
    )
    page = yield from reading
    response = cluster_pb2.Worker.FetchTaskLogsResponse(
        next_line=page.next_line, at_end=page.at_end, complete=final and page.at_end, attempt_id=attempt_id
    )
    for line in page.lines:
        entry = response.logs.add(timestamp_ms=line.timestamp_ms, source=line.source)
        try:
            entry.data = line.data.decode()
        except UnicodeDecodeError:
            # One invalid byte in a proto `string` would make the whole message fail, so the exact bytes are sent in
            # another field.
            entry.data = line.data.decode(errors="replace")
            entry.raw = line.data
        if line.partial:
            entry.partial = True
        if line.missing_bytes:
            entry.missing_bytes = line.missing_bytes
    return response
