"""Reads a part of a log: the lines that were completed between two positions, forwards or backwards from a place.

Each line belongs to exactly one part, because the record that completes the line lies at one position. Therefore
neighbouring parts neither repeat nor lose a line. The module `iris.cluster.logs.reading.numbered_lines` defines how
lines are made from records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.parts.places import Place, find_position
from iris.cluster.logs.parts.start_points import LogStarts
from iris.cluster.logs.reading.line_index import CHUNK_BYTES, Gap, LineBlock, LineScanner
from iris.cluster.logs.reading.query import EVERYTHING, LogFilter
from iris.cluster.logs.records import Offsets, encode, encode_gap
from iris.cluster.logs.segments import list_segments, segment_size
from iris.rpc.serving.steps import Steps

# One part reads at most about this many bytes of records, so that a search through many gigabytes is answered in many
# parts. The reader can show progress and stop between two parts.
LOOK_BYTES = 64 << 20
# The number of bytes that one step reads without a filter. The steps are small, because the last step may exceed the
# size of the part.
_STEP_BYTES = 64 << 10
_WIDEST_SPAN = 16 << 20  # The largest number of bytes of records in one range when a log is read backwards.


class PartLimits(NamedTuple):
    """The limits of one part.

    Attributes:
        max_bytes: About how many bytes of records a part has.
        max_line_bytes: The largest size of a line. The middle of a longer line is left out.
        look_bytes: About how many bytes of records the server reads for a part.
    """

    max_bytes: int
    max_line_bytes: int
    look_bytes: int = LOOK_BYTES


class Selection(NamedTuple):
    """Selects the lines of a part.

    Attributes:
        log_filter: The filter that selects lines by source, time and pattern.
        find: A second filter, with the pattern for which a user searches. A line must pass both filters.
    """

    log_filter: LogFilter
    find: LogFilter = EVERYTHING

    @property
    def has_pattern(self) -> bool:
        """Whether a pattern selects lines by their text."""
        return bool(self.log_filter.regex or self.find.regex)

    def matching(self, block: LineBlock) -> Iterator[tuple[int, int]]:
        """Yield the beginning and the end of each selected line of a block, as indexes into the data of the block."""
        first, second = (self.log_filter, self.find) if self.log_filter.regex else (self.find, self.log_filter)
        if not first.may_match([block]):
            return
        for _, start, end in first.matching(block):
            line = block._replace(data=block.data[start:end], offset=block.offset + start)
            if not second.regex or any(True for _ in second.matching(line)):
                yield start, end


@dataclass(slots=True)
class LogPart:
    """A part of a log.

    Attributes:
        records: The selected lines as records of whole lines.
        begin: The position in the log at which the part begins.
        end: The position in the log at which the next part begins.
        size: The position at which the log ends now.
        offsets: For each source, the offset at which the next line begins at the end of the part.
        at_end: Whether nothing comes after the part yet.
        truncated: Whether the worker was killed, so that the last output may be missing. Known at the end of a final
            log.
    """

    records: bytes
    begin: int
    end: int
    size: int
    offsets: Offsets
    at_end: bool = False
    truncated: bool = False


def read_part_steps(
    directory: Path,
    writer: LogWriter | None,
    selection: Selection,
    place: Place | None,
    limits: PartLimits,
    *,
    backwards: bool,
    stop: int = 0,
    final: bool,
) -> Steps[LogPart]:
    """Read a part of a log, which may still be growing. A missing directory is an empty log. The generator yields after
    each step, and each step reads at most a megabyte.

    Args:
        directory: The directory of the log.
        writer: The log's writer if this process writes the log or has written it; None if another process has written
            it.
        selection: The object that selects lines of the log.
        place: Where the part begins, or ends if `backwards` is set. None stands for the beginning or the present end.
        limits: How large the part may be.
        backwards: Whether to read the lines before `place` instead of the lines after it.
        stop: The position at which a part that is read forwards ends at the latest; 0 means no limit.
        final: Whether the writer has finished, so that the log includes a partial line at its end.

    Raises:
        OSError: The log cannot be read.
    """
    reading = _PartReading(directory, writer, selection, limits, final=final)
    position = None
    if place is not None:
        position = yield from find_position(directory, writer, place, after=backwards, final=final)
    if backwards:
        return (yield from reading.backwards(position))
    return (yield from reading.forwards(position or 0, stop))


class _Range(NamedTuple):
    """The selected lines of a range of a log, and the place at which the range ends.

    Attributes:
        records: The selected lines of the range, as records.
        begin: The position after the lines that were left out because of their size; None if no lines were left out.
        end: The position after the last record that was read.
        offsets: For each source, where the next line begins.
        at_end: Whether the log ends at the end of the range.
        truncated: Whether the worker was killed, so that the last output may be missing.
    """

    records: list[bytes]
    begin: int | None
    end: int
    offsets: Offsets
    at_end: bool
    truncated: bool


class _Found:
    """Collects the selected lines of a range of a log, which is read in steps. Lines are dropped by steps, the oldest
    step first.

    Args:
        newest_bytes: If not 0, about this many bytes of the newest lines are kept, and older lines are dropped.

    Attributes:
        size: The size of the kept lines in bytes.
        begin: The position of the first kept step; None if no step was dropped.
    """

    def __init__(self, newest_bytes: int) -> None:
        self.size = 0
        self.begin: int | None = None
        self._newest_bytes = newest_bytes
        self._steps: deque[tuple[int, int, list[bytes]]] = deque()  # The position, the size and the lines of each step.

    def add(self, position: int, records: list[bytes]) -> None:
        """Add the selected lines that one step has read. The step began at the given position."""
        size = sum(map(len, records))
        self._steps.append((position, size, records))
        self.size += size
        while self._newest_bytes and self.size - self._steps[0][1] >= self._newest_bytes:
            self.size -= self._steps.popleft()[1]
            self.begin = self._steps[0][0]

    def records(self) -> list[bytes]:
        """Return the kept lines as records, in the order of the log."""
        return [record for _, _, records in self._steps for record in records]


class _PartReading:
    """Reads one part of a log; see `read_part_steps` for the arguments."""

    def __init__(
        self, directory: Path, writer: LogWriter | None, selection: Selection, limits: PartLimits, *, final: bool
    ) -> None:
        self._directory = directory
        self._writer = writer
        self._selection = selection
        self._filter = selection.log_filter
        self._limits = limits
        self._final = final
        self._starts = LogStarts(directory, writer)
        self._size = _size_of(directory, writer)
        # A part ends at the present end of the log, even if the task never stops writing.
        self._stop = None if writer is None or final else self._size
        # For each source, the offset at which the last record ended, if it ended in the middle of a line.
        self._continued_at: dict[int, int] = {}
        self._step_bytes = _STEP_BYTES if not selection.has_pattern else CHUNK_BYTES

    def forwards(self, position: int, stop: int) -> Steps[LogPart]:
        """Read the selected lines that follow a position. If `stop` is not 0, end at the position `stop` at the
        latest.
        """
        walk = yield from self._seek(position)
        begin = walk.reader.position if position > 0 else 0
        stops = [limit for limit in (self._stop, stop or None) if limit is not None]
        found = yield from self._read(
            walk, min(stops) if stops else None, self._limits.look_bytes, self._limits.max_bytes
        )
        return self._part(found.records, begin, found)

    def backwards(self, position: int | None) -> Steps[LogPart]:
        """Read the lines before a position, range by range. The ranges are read from the last to the first, and each
        single range is read forwards.

        If the position is None, the part ends at the end of the log. Only this part contains the partial lines at the
        end of a final log, because no later part could contain them.
        """
        upper = self._size if position is None else min(position, self._size)
        end_of_part: _Range | None = None
        ranges: list[list[bytes]] = []
        span, size, looked = self._limits.max_bytes, 0, 0
        while True:
            lower = max(0, upper - span)
            walk = yield from self._seek(lower)
            begin = walk.reader.position if lower > 0 else 0
            if lower > 0 and begin >= upper:
                walk.reader.close()
                # The range has no records, because the last record before `upper` is longer than the range. A larger
                # range is tried.
                span *= 4
                continue
            to_end = end_of_part is None and position is None and self._final
            found = yield from self._read(walk, None if to_end else upper, newest_bytes=self._limits.max_bytes)
            end_of_part = end_of_part or found
            ranges.append(found.records)
            size += sum(map(len, found.records))
            looked += upper - begin
            upper = begin if found.begin is None else found.begin
            if begin == 0 or 2 * size >= self._limits.max_bytes or looked >= self._limits.look_bytes:
                break
            span = min(2 * span, _WIDEST_SPAN, self._limits.look_bytes - looked)
        return self._part([record for records in reversed(ranges) for record in records], upper, end_of_part)

    def _part(self, records: list[bytes], begin: int, end: _Range) -> LogPart:
        return LogPart(
            b"".join(records), begin, end.end, max(self._size, end.end), end.offsets, end.at_end, end.truncated
        )

    def _seek(self, position: int) -> Steps[LineScanner]:
        """Return a scanner that begins between two records, at the given position or at the next possible position
        after it."""
        walk = LineScanner(self._directory, self._starts.before(position), self._writer)
        while walk.reader.position < position:
            if walk.read(min(CHUNK_BYTES, position - walk.reader.position), final=self._final) is None:
                break
            self._starts.passed(walk)
            yield
        return walk

    def _read(
        self,
        walk: LineScanner,
        stop: int | None,
        look_bytes: int | None = None,
        max_bytes: int = 0,
        newest_bytes: int = 0,
    ) -> Steps[_Range]:
        """Read the selected lines up to the position `stop`, or up to the limits, or up to the end of the log. If
        `newest_bytes` is not 0, about this many bytes of the last lines are kept, and the lines before are left out.
        """
        found = _Found(newest_bytes)
        begin = walk.reader.position
        at_end, truncated = False, False
        while (stop is None or walk.reader.position < stop) and not (max_bytes and found.size >= max_bytes):
            if look_bytes is not None and walk.reader.position - begin >= look_bytes:
                break
            room = self._step_bytes if stop is None else min(self._step_bytes, stop - walk.reader.position)
            before = walk.reader.position
            items = walk.read(room, final=self._final)
            if items is None:
                at_end = True
                items = [*walk.leftovers()] if self._final else []
                truncated = walk.reader.truncated
            found.add(before, [record for item in items for record in self._pack(item)])
            if at_end:
                break
            self._starts.passed(walk)
            yield
        position = walk.reader.position
        at_end = at_end or (not self._final and self._stop is not None and position >= self._stop)
        offsets = walk.reader.offsets if at_end and self._final else walk.offsets
        walk.reader.close()
        return _Range(found.records(), found.begin, position, offsets, at_end, truncated)

    def _pack(self, item: LineBlock | Gap) -> Iterator[bytes]:
        """Yield the selected lines of a block, or a gap, as records."""
        if isinstance(item, Gap):
            if item.source_id in self._filter.source_ids:
                yield encode_gap(item.source_id, item.timestamp_ms, item.offset, item.missing, item.reason)
            return
        if not self._filter.selects(item):
            return
        if not self._selection.has_pattern:
            yield from self._cut(item, 0, len(item.data))
            return
        for start, end in self._selection.matching(item):
            yield from self._cut(item, start, end)

    def _cut(self, block: LineBlock, start: int, end: int) -> Iterator[bytes]:
        """Yield lines of a block as records, without the middle of long lines."""
        limit, data = self._limits.max_line_bytes, block.data
        is_continued = self._continued_at.get(block.source_id) == block.offset + start
        self._continued_at[block.source_id] = -1 if data.endswith(b"\n", start, end) else block.offset + end
        if end - start <= limit:
            yield encode(block.source_id, block.timestamp_ms, block.offset + start, data[start:end])
            return
        at = start  # The lines between `at` and `line` are sent as one record.
        line = start
        while line < end:
            line_end = data.find(b"\n", line, end) + 1 or end
            if line_end - line > limit:
                if line > at:
                    yield encode(block.source_id, block.timestamp_ms, block.offset + at, data[at:line])
                # A very long line has many pieces, and the beginning of the line must be sent only once.
                yield from _shortened(block, line, line_end, 0 if is_continued and line == start else limit)
                at = line_end
            line = line_end
        if end > at:
            yield encode(block.source_id, block.timestamp_ms, block.offset + at, data[at:end])


def _shortened(block: LineBlock, start: int, end: int, limit: int) -> Iterator[bytes]:
    """Yield a long line as two records: one with the line's first `limit` bytes, and one at the end of the line with
    only the newline. If the line is a progress bar, yield only its last state, because a terminal would show only this
    state.
    """
    data, newline = block.data, block.data.endswith(b"\n", start, end)
    state = data.rfind(b"\r", start, end - 2 if newline else end - 1)
    if state >= 0 and end - state <= limit:
        yield encode(block.source_id, block.timestamp_ms, block.offset + state, data[state:end])
        return
    if limit:
        yield encode(block.source_id, block.timestamp_ms, block.offset + start, data[start : start + limit])
    end_of_text = end - 1 if newline else end
    yield encode(block.source_id, block.timestamp_ms, block.offset + end_of_text, data[end_of_text:end])


def _size_of(directory: Path, writer: LogWriter | None) -> int:
    """Return the position at which a log ends now."""
    if writer is not None:
        return writer.tip.position
    segments = list_segments(directory)
    return segments[-1].position + segment_size(directory, segments[-1]) if segments else 0
