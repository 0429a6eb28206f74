"""Reads a log through a filter, so that only matching lines are sent."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_index import CHUNK_BYTES, Gap, LineBlock, LineScanner, extent_of
from iris.cluster.logs.reading.numbered_lines import START
from iris.cluster.logs.reading.query import LogFilter as LogFilter
from iris.cluster.logs.reading.query import parse_filter as parse_filter
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.reading.tail import Selection, TailStart, find_tail
from iris.cluster.logs.records import BEGINNING, SOURCES, Offsets, encode, encode_gap

# The largest number of bytes that one call of `read` searches if nothing matches.
_LOOK_BYTES = 16 << 20
_NEVER = 1 << 62


class FilteredReader:
    """Reads the lines of a log that match a filter. The class implements the same protocol as `LogReader`.

    Matching lines are packed into new records, which contain whole lines only. A partial line is returned at the end of
    a final log. If the filter only selects sources, the original records are returned.

    An empty record contains the offset up to which the filter has read a source. With this offset, a reader that
    reconnects does not search the same part of the log again. `read` returns the empty records before the matching
    lines. The offset of a wanted source is exact. The offset of an unwanted source is the end of the chunk. If nothing
    matches in a long part of the log, `read` returns only empty records, which do not mean the end of the log.

    Args:
        directory: The directory of the log.
        offsets: Where to begin, by source. A line must begin at each of these offsets.
        writer: The log's writer if this process writes the log or has written it; None if another process has written
            it.
        log_filter: The filter. Its `tail` counts the lines between `offsets` and the end that the log has at the first
            read.

    Attributes:
        offsets: Where in each source the next line begins, after the lines that were returned or left out.
        missing: How many bytes the returned gaps cover.
        exhausted: Whether `max_lines` lines were returned.
    """

    def __init__(
        self, directory: Path, offsets: Offsets = BEGINNING, *, writer: LogWriter | None = None, log_filter: LogFilter
    ) -> None:
        self.offsets = offsets
        self.missing = 0
        self.exhausted = False
        self._directory = directory
        self._writer = writer
        self._filter = log_filter
        self._from = offsets
        self._tail: Generator[int, None, TailStart] | None = None
        self._selection = Selection(log_filter, TailStart(START, 0, 0), offsets)
        self._left = log_filter.max_lines
        # The position after the last line that `max_lines` allows, within the data of the line's block.
        self._last_end = 0

        # The offset of the next line of each selected source.
        self._at = {source_id: offsets[source_id] for source_id in log_filter.source_ids}
        self._marked = list(offsets)  # The offset of each source that was last reported to the reader of the stream.
        self._is_over = False
        self._walk: LineScanner | None = None
        if not log_filter.tail:
            self._walk = self._begin()
            self._move(self._walk.offsets)

    @property
    def position(self) -> int:
        """The number of bytes of records before the next record; 0 while the beginning of a tail is searched."""
        return 0 if self._walk is None else self._walk.reader.position

    @property
    def written(self) -> Offsets | None:
        """How many bytes each source of the log has written, or None before the end of a complete log was read."""
        return None if self._walk is None else self._walk.reader.written

    @property
    def truncated(self) -> bool:
        """Whether the worker was killed, so that the last output may be missing from the log."""
        return self._walk is not None and self._walk.reader.truncated

    @property
    def is_searching(self) -> bool:
        """Whether the beginning of a tail is still being searched. During the search, `read` returns nothing."""
        return self._walk is None

    def read(self, max_bytes: int, *, final: bool) -> bytes:
        """Return matching lines as records; b"" if no more can be read now, or after `max_lines` lines."""
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

    def bytes_left(self) -> int:
        """Return about how many bytes of records can still be read now."""
        if self._walk is None:
            return LogReader(self._directory, self._from, writer=self._writer).bytes_left()
        return self._walk.reader.bytes_left()

    def mark(self) -> bytes:
        """Return an empty record for each source from which the filter has left out bytes since the last call."""
        return self._marks_since(self._unwanted() | {source_id: self.offsets[source_id] for source_id in self._at})

    def close(self) -> None:
        """Close the open file."""
        if self._walk is not None:
            self._walk.reader.close()

    def _begin(self) -> LineScanner:
        # Segments that lie entirely before the wanted lines are skipped and not read.
        source_ids = self._filter.source_ids
        stdout, stderr, build = (
            offset if source_id in source_ids else _NEVER for source_id, offset in enumerate(self._from)
        )
        offsets = stdout, stderr, build
        if self._writer is not None and self._filter.start_ms:
            # Skip records that are older than `start_ms`, if the index knows where they end. Never skip backwards to a
            # place before the requested offsets.
            point = self._writer.index.points.before(0, self._filter.start_ms)
            if all(start >= self._from[source_id] for source_id, start in enumerate(point.line_starts)):
                stdout, stderr, build = map(max, offsets, point.offsets)
                return LineScanner(self._directory, point, self._writer, (stdout, stderr, build))
        return LineScanner.at_offsets(self._directory, offsets, self._writer)

    def _seek_tail(self, final: bool) -> int:
        if self._tail is None:
            extent = extent_of(self._directory, self._writer, final=final)
            self._tail = find_tail(self._directory, self._writer, extent, self._filter, offsets=self._from, final=final)
        try:
            return next(self._tail)
        except StopIteration as found:
            start: TailStart = found.value
        except OSError:
            self._tail = None  # The search for the tail failed. The next read begins the search anew.
            raise
        self._walk = LineScanner(self._directory, start.point, self._writer)
        self._selection = Selection(self._filter, start, self._from)
        self._move(start.point.line_starts)
        self._tail = None
        return 0

    def _read(self, walk: LineScanner, max_bytes: int, final: bool) -> bytes | None:
        """Read a part of the log, and return its matching lines as records; None if nothing more can be read now."""
        unwanted = self._unwanted()
        if self._filter.is_by_source:
            chunk = walk.reader.read_chunk(max_bytes, final=final)
            self.offsets, self.missing = self._chosen(walk.reader.offsets), walk.reader.missing
            if chunk is None:
                return None
            return self._marks_since(unwanted) + chunk.records if chunk.records else b""
        items = walk.read(max_bytes, final=final)
        if items is None:
            if not final:
                return None
            self._is_over = True
            items = [*walk.leftovers()]
        if not self._filter.tail and not self._filter.may_match(
            [item for item in items if isinstance(item, LineBlock)]
        ):
            items = [item for item in items if isinstance(item, Gap)]
        passed: list[bytes] = []
        for count, item in enumerate(items):
            data, end = self._pass(item)
            if data:
                others = {other: at for other, at in self._at.items() if other != item.source_id}
                passed += (self._marks_since(unwanted | others), data)
                self._marked[item.source_id] = end
            self._at[item.source_id] = item.end
            if self.exhausted:
                self._end_at(items[:count], item)
                return b"".join(passed)
        self.offsets = self._chosen(walk.reader.offsets if self._is_over else walk.offsets)
        for source_id in self._at:
            self._at[source_id] = self.offsets[source_id]
        return b"".join(passed)

    def _move(self, offsets: Sequence[int]) -> None:
        """Store the offsets at which the next lines of the wanted sources begin."""
        for source_id in self._at:
            self._at[source_id] = max(self._from[source_id], offsets[source_id])

    def _unwanted(self) -> dict[int, int]:
        """Return the offsets that the reader has reached in the sources that the filter does not select."""
        passed = enumerate(() if self._walk is None else self._walk.reader.passed)
        return {source_id: at for source_id, at in passed if source_id not in self._filter.source_ids and at < _NEVER}

    def _marks_since(self, places: Mapping[int, int]) -> bytes:
        """Return an empty record for each source that was read beyond the offset last reported to the reader."""
        last_ms = 0 if self._walk is None else self._walk.reader.last_ms
        marks = []
        for source_id, offset in places.items():
            if offset > self._marked[source_id]:
                self._marked[source_id] = offset
                marks.append(encode(source_id, last_ms, offset, b""))
        return b"".join(marks)

    def _chosen(self, offsets: Offsets) -> Offsets:
        """Return the offsets in `offsets` for the selected sources. For each other source, return the offset that the
        reader has passed."""
        unwanted = self._unwanted()
        stdout, stderr, build = (
            offsets[source_id]
            if source_id in self._filter.source_ids
            else max(self._from[source_id], unwanted.get(source_id, 0))
            for source_id in range(len(SOURCES))
        )
        return stdout, stderr, build

    def _pass(self, item: LineBlock | Gap) -> tuple[bytes, int]:
        """Return the matching lines of a block as records, and the offset after the last matching line. Return a gap as
        a record, and the offset after the gap. Return an offset of 0 if nothing matches.
        """
        if isinstance(item, Gap):
            if item.number < self._selection.start.line or not self._selection.selects_gap(item):
                return b"", 0
            self.missing += item.missing
            return encode_gap(item.source_id, item.timestamp_ms, item.offset, item.missing, item.reason), item.end
        if not self._filter.has_line_limits:
            if not self._filter.selects(item):
                return b"", 0
            return encode(item.source_id, item.timestamp_ms, item.offset, item.data), item.end
        runs = self._runs(item)
        if not runs:
            return b"", 0
        records = b"".join(
            encode(item.source_id, item.timestamp_ms, item.offset + start, item.data[start:end]) for start, end in runs
        )
        return records, item.offset + runs[-1][1]

    def _runs(self, block: LineBlock) -> list[tuple[int, int]]:
        """Return the ranges of a block's bytes that contain matching lines. Adjacent lines share one range."""
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
        """Store the offset at which each source continues after the last returned line."""
        offsets = list(self.offsets)
        for item in items:
            offsets[item.source_id] = item.end
        offsets[last.source_id] = last.offset + self._last_end
        self.offsets = (offsets[0], offsets[1], offsets[2])
