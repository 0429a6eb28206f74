"""Reads a log through a filter, where it lies: only what passes is sent."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from iris.cluster.logs.reading.line_index import CHUNK_BYTES, Gap, LineBlock, LineReader, extent_of
from iris.cluster.logs.reading.numbered_lines import START
from iris.cluster.logs.reading.query import LogFilter as LogFilter
from iris.cluster.logs.reading.query import parse_filter as parse_filter
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.reading.tail import Selection, TailStart, find_tail
from iris.cluster.logs.records import BEGINNING, SOURCES, Offsets, encode, encode_gap
from iris.cluster.logs.writer import LogWriter

# What one call of `read` looks through at most when nothing passes.
_LOOK_BYTES = 16 << 20
_NEVER = 1 << 62


class FilteredReader:
    """Reads what passes a filter, as `LogReader` reads all; the same calls.

    Lines that pass are put into records anew, whole lines only; what is unfinished comes at the end of a final log.
    Where only the source counts, records come as they are.

    An empty record says of its source how far that was looked at. Such stand before what passes, so that a reader knows
    where the other sources were at each line: exactly those that are wanted, the others as they were when the chunk
    was read. When much was looked through and nothing passed, `read` gives nothing else: this is not the end, and a
    reader that comes again from there need not have it looked through again.

    Args:
        directory: See `LogReader`,
        offsets: where lines begin,
        writer: and see `LogReader`.
        wanted: The filter. Its `tail` counts from these offsets on, in what is there at the first read.

    Attributes:
        offsets: Up to where each source was given out or left out: where its next line begins.
        missing: How many bytes the gaps spoke of that were given out.
        exhausted: `max_lines` were given.
    """

    def __init__(
        self, directory: Path, offsets: Offsets = BEGINNING, *, writer: LogWriter | None = None, wanted: LogFilter
    ) -> None:
        self.offsets = offsets
        self.missing = 0
        self.exhausted = False
        self._directory = directory
        self._writer = writer
        self._wanted = wanted
        self._from = offsets
        self._tail: Generator[int, None, TailStart] | None = None
        self._selection = Selection(wanted, TailStart(START, 0, 0), offsets)
        self._left = wanted.max_lines
        self._last_end = 0  # where in its block the last of `max_lines` lines ends
        self._at = {source_id: offsets[source_id] for source_id in wanted.source_ids}  # where its next line begins
        self._marked = list(offsets)  # of each source, up to where the reader knows
        self._is_over = False
        self._walk: LineReader | None = None
        if not wanted.tail:
            self._walk = self._begin()
            self._move(self._walk.offsets)

    @property
    def position(self) -> int:
        """See `LogReader`; 0 as long as the beginning of a tail is looked for."""
        return 0 if self._walk is None else self._walk.reader.position

    @property
    def written(self) -> Offsets | None:
        """See `LogReader`."""
        return None if self._walk is None else self._walk.reader.written

    @property
    def truncated(self) -> bool:
        """See `LogReader`."""
        return self._walk is not None and self._walk.reader.truncated

    @property
    def is_searching(self) -> bool:
        """Whether the beginning of a tail is being looked for: until it is found, `read` gives nothing."""
        return self._walk is None

    def read(self, max_bytes: int, *, final: bool) -> bytes:
        """See `LogReader.read`; b"" after `max_lines` lines, too."""
        looked = 0
        while not (self.exhausted or self._is_over):
            if self._walk is None:
                records: bytes | None = b""
                looked += self._seek_tail(final)
            else:
                before = self._walk.reader.position
                records = self._read(self._walk, min(max_bytes, CHUNK_BYTES), final)
                looked += self._walk.reader.position - before
            if self.exhausted or records is None:
                return records or b""
            if records or (looked >= _LOOK_BYTES and (self.is_searching or (records := self.mark()))):
                return records
        return b""

    def behind(self) -> int:
        """See `LogReader.behind`."""
        if self._walk is None:
            return LogReader(self._directory, self._from, writer=self._writer).behind()
        return self._walk.reader.behind()

    def mark(self) -> bytes:
        """Empty records of the sources of which something was left out since it was said last."""
        return self._marks_of(self._unwanted() | {source_id: self.offsets[source_id] for source_id in self._at})

    def close(self) -> None:
        """Closes what is open."""
        if self._walk is not None:
            self._walk.reader.close()

    def _begin(self) -> LineReader:
        # What is not wanted lies below what is wanted, so it is left out where it can be, by whole segments.
        source_ids = self._wanted.source_ids
        stdout, stderr, build = (
            offset if source_id in source_ids else _NEVER for source_id, offset in enumerate(self._from)
        )
        offsets = stdout, stderr, build
        if self._writer is not None and self._wanted.start_ms:
            # Nor is what the index knows to be too early. Not when that is before what was asked for.
            point = self._writer.index.points.before(0, self._wanted.start_ms)
            if all(start >= self._from[source_id] for source_id, start in enumerate(point.line_starts)):
                stdout, stderr, build = map(max, offsets, point.offsets)  # what is skipped is not missing
                return LineReader(self._directory, point, self._writer, (stdout, stderr, build))
        return LineReader.at_offsets(self._directory, offsets, self._writer)

    def _seek_tail(self, final: bool) -> int:
        if self._tail is None:
            extent = extent_of(self._directory, self._writer, final=final)
            self._tail = find_tail(self._directory, self._writer, extent, self._wanted, offsets=self._from, final=final)
        try:
            return next(self._tail)
        except StopIteration as found:
            start: TailStart = found.value
        except OSError:
            self._tail = None  # it begins anew when it is asked again
            raise
        self._walk = LineReader(self._directory, start.point, self._writer)
        self._selection = Selection(self._wanted, start, self._from)
        self._move(start.point.line_starts)
        self._tail = None
        return 0

    def _read(self, walk: LineReader, max_bytes: int, final: bool) -> bytes | None:
        """One step: what passes of it; None when there is nothing more now."""
        unwanted = self._unwanted()
        if self._wanted.is_by_source:
            chunk = walk.reader.read_chunk(max_bytes, final=final)
            self.offsets, self.missing = self._chosen(walk.reader.offsets), walk.reader.missing
            if chunk is None:
                return None
            return self._marks_of(unwanted) + chunk.records if chunk.records else b""
        items = walk.read(max_bytes, final=final)
        if items is None:
            if not final:
                return None
            self._is_over = True
            items = [*walk.leftovers()]
        if not self._wanted.tail and not self._wanted.may_match(
            [item for item in items if isinstance(item, LineBlock)]
        ):
            items = [item for item in items if isinstance(item, Gap)]
        passed: list[bytes] = []
        for count, item in enumerate(items):
            data = self._pass(item)
            if data:
                others = {other: at for other, at in self._at.items() if other != item.source_id}
                passed += (self._marks_of(unwanted | others), data)
                self._marked[item.source_id] = item.end
            self._at[item.source_id] = item.end
            if self.exhausted:
                self._end_at(items[:count], item)
                return b"".join(passed)
        self.offsets = self._chosen(walk.reader.offsets if self._is_over else walk.offsets)
        for source_id in self._at:
            self._at[source_id] = self.offsets[source_id]
        return b"".join(passed)

    def _move(self, offsets: Sequence[int]) -> None:
        """Lines of the wanted sources begin there, not before."""
        for source_id in self._at:
            self._at[source_id] = max(self._from[source_id], offsets[source_id])

    def _unwanted(self) -> dict[int, int]:
        """How far the sources were passed that are not wanted."""
        passed = enumerate(() if self._walk is None else self._walk.reader.passed)
        return {source_id: at for source_id, at in passed if source_id not in self._wanted.source_ids and at < _NEVER}

    def _marks_of(self, places: Mapping[int, int]) -> bytes:
        """Empty records of the sources that have moved since that was said last."""
        last_ms = 0 if self._walk is None else self._walk.reader.last_ms
        marks = []
        for source_id, offset in places.items():
            if offset > self._marked[source_id]:
                self._marked[source_id] = offset
                marks.append(encode(source_id, last_ms, offset, b""))
        return b"".join(marks)

    def _chosen(self, offsets: Offsets) -> Offsets:
        """These of what is wanted; of the rest, how far that was read."""
        unwanted = self._unwanted()
        stdout, stderr, build = (
            offsets[source_id]
            if source_id in self._wanted.source_ids
            else max(self._from[source_id], unwanted.get(source_id, 0))
            for source_id in range(len(SOURCES))
        )
        return stdout, stderr, build

    def _pass(self, item: LineBlock | Gap) -> bytes:
        if isinstance(item, Gap):
            if item.number < self._selection.start.line or not self._selection.takes_gap(item):
                return b""
            self.missing += item.missing
            return encode_gap(item.source_id, item.timestamp_ms, item.offset, item.missing, item.reason)
        if not self._wanted.has_line_limits:
            return (
                encode(item.source_id, item.timestamp_ms, item.offset, item.data) if self._wanted.wants(item) else b""
            )
        runs = self._runs(item)
        if not runs:
            return b""
        return b"".join(
            encode(item.source_id, item.timestamp_ms, item.offset + start, item.data[start:end]) for start, end in runs
        )

    def _runs(self, block: LineBlock) -> list[tuple[int, int]]:
        """What passes of the lines of a block; lines that follow each other are one run."""
        runs: list[tuple[int, int]] = []
        for _, start, end in self._selection.lines(block):
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((start, end))
            if self._left:
                self._left -= 1
                if not self._left:
                    self.exhausted = True
                    self._last_end = end
                    break
        return runs

    def _end_at(self, items: list[LineBlock | Gap], last: LineBlock | Gap) -> None:
        """Notes where each source was when the last line was given."""
        offsets = list(self.offsets)
        for item in items:
            offsets[item.source_id] = item.end
        offsets[last.source_id] = last.offset + self._last_end
        self.offsets = (offsets[0], offsets[1], offsets[2])
