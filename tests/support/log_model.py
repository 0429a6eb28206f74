"""A simple model of what a reader must get from a log, and random logs for comparisons."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_pages import NumberedLine
from iris.cluster.logs.reading.numbered_lines import BAR_BYTES, MAX_PARTIAL_LINE
from iris.cluster.logs.records import (
    BEGINNING,
    GAP,
    HEADER,
    MAX_PAYLOAD,
    SOURCE_ID,
    SOURCES,
    Offsets,
    Source,
    decode,
    encode,
    parse_gap,
)
from iris.cluster.logs.segments import LogEnd, RecordBoundary, write_end

Captured = tuple[Source, bytes, int]  # source, data, time in ms


class Reader(Protocol):
    """The methods that both `LogReader` and `FilteredReader` have."""

    offsets: Offsets
    missing: int

    def read(self, max_bytes: int, *, final: bool) -> bytes: ...

    def close(self) -> None: ...


def random_capture(seed: int, records: int, longest: int) -> list[Captured]:
    """Return random output of all sources, in pieces that are cut anywhere. The times sometimes go back."""
    rng = random.Random(seed)
    captured: list[Captured] = []
    timestamp_ms = 1_000_000
    for _ in range(records):
        timestamp_ms += rng.choice((0, 1, 1, 5, -3))
        words = rng.choices((b"\n", b"\r", b"word ", b"\xff\x00", b"\xc3", b"\xa9"), k=rng.randint(1, longest))
        captured.append((rng.choice(SOURCES), b"".join(words), timestamp_ms))
    return captured


def bars_and_lines(seed: int, records: int) -> list[Captured]:
    """Return output with progress bars, long lines and prompts besides ordinary lines."""
    rng = random.Random(seed)
    captured: list[Captured] = []
    for number in range(records):
        data = rng.choice(
            (
                b"\r%3d%% " % (number % 100) + b"#" * rng.randint(1, 3000),
                b"#" * rng.randint(1, 3000) + b"\r",
                b"x" * rng.randint(1, 5000),
                b"line %d\n" % number,
                b"end\r\n",
                b"\r\n" * rng.randint(1, 3) + b"y" * rng.randint(0, 5000),
                b"done\n\r0%\r1%" + b" " * rng.randint(1, 6000),
            )
        )
        captured.append((rng.choices(SOURCES, weights=(6, 3, 1))[0], data, 1000 + number))
    return captured


def written(captured: Iterable[Captured], source: str) -> bytes:
    """Return all bytes that a source has written."""
    return b"".join(data for name, data, _ in captured if name == source)


def offsets_of(captured: Iterable[Captured]) -> Offsets:
    """Return the number of bytes that each source has written."""
    counts = [0, 0, 0]
    for source, data, _ in captured:
        counts[SOURCE_ID[source]] += len(data)
    return counts[0], counts[1], counts[2]


def write(directory: Path, captured: Iterable[Captured], *, max_bytes: int = 10 << 30) -> LogWriter:
    """Write a complete log, and close its writer."""
    writer = LogWriter(directory, max_bytes=max_bytes)
    for source, data, timestamp_ms in captured:
        writer.append(source, data, timestamp_ms)
    writer.close()
    return writer


def lay_out(directory: Path, captured: Sequence[Captured], per_segment: int, *, ended: bool = True) -> list[Path]:
    """Write a complete log without a writer, with `per_segment` records in each segment. A writer makes larger
    segments."""
    directory.mkdir()
    paths = []
    position, offsets = 0, [0, 0, 0]
    counts = [0]
    lines_of(captured, per_segment=per_segment, counts=counts)
    for number, start in enumerate(range(0, len(captured), per_segment)):
        place = RecordBoundary(position, counts[number], (offsets[0], offsets[1], offsets[2]))
        records = b""
        for source, data, timestamp_ms in captured[start : start + per_segment]:
            source_id = SOURCE_ID[source]
            records += encode(source_id, timestamp_ms, offsets[source_id], data)
            offsets[source_id] += len(data)
        paths.append(directory / place.segment_name)
        paths[-1].write_bytes(records)
        position += len(records)
    if ended:
        write_end(directory, LogEnd(offsets_of(captured), 0, 1 << 30))
    return paths


# Lines


class _Unfinished:
    """The partial line of a source: its bytes in earlier segments, and its bytes in the present segment."""

    def __init__(self) -> None:
        self.before = b""
        self.here = b""
        self.ended = True  # a line of the source has ended in this segment, or the source begins in it
        self.has_written = False
        self.timestamp_ms = 0

    @property
    def line(self) -> bytes:
        return self.before + self.here

    def end(self, rest: bytes = b"") -> None:
        self.before, self.here, self.ended = b"", rest, True


def lines_of(
    captured: Iterable[Captured],
    *,
    final: bool = True,
    per_segment: int = 0,
    segments: Iterable[int] = (),
    counts: list[int] | None = None,
) -> list[NumberedLine]:
    """Return the lines of a log: the rules of numbered_lines.py, applied to one record after another.

    Args:
        captured: What was appended.
        final: Show what is unfinished at the end.
        per_segment: A segment begins after each so many records.
        segments: Positions at which segments begin, where they are not regular.
        counts: Takes how many lines there are before each segment but the first.
    """
    lines: list[NumberedLine] = []
    states: dict[Source, _Unfinished] = {source: _Unfinished() for source in SOURCES}
    begins = set(segments) - {0}

    def add(source: Source, data: bytes, timestamp_ms: int, partial: bool) -> None:
        lines.append(NumberedLine(len(lines), timestamp_ms, source, data, partial))

    def next_segment() -> None:
        for source, state in states.items():
            if state.here and not state.ended:
                add(source, state.line, state.timestamp_ms, True)
                state.end()
            state.before, state.here, state.ended = state.line, b"", not state.has_written

    position = 0
    for number, (source, data, timestamp_ms) in enumerate(_records(captured)):
        if position in begins or (per_segment and number and number % per_segment == 0):
            next_segment()
            if counts is not None:
                counts.append(len(lines))
        state = states[source]
        state.timestamp_ms, state.has_written = timestamp_ms, True
        *ended, rest = data.split(b"\n")
        if ended:
            add(source, state.line + ended[0], timestamp_ms, False)
            for line in ended[1:]:
                add(source, line, timestamp_ms, False)
            state.end(rest)
        else:
            state.here += rest
        if len(state.here) >= MAX_PARTIAL_LINE:
            add(source, state.line, timestamp_ms, True)
            state.end()
        elif len(state.here) > BAR_BYTES:
            cut = state.here.rfind(b"\r", 1, -1)
            if cut > 0:
                add(source, state.before + state.here[:cut], timestamp_ms, True)
                state.end(state.here[cut:])
        position += HEADER.size + len(data)
    for source, state in states.items():
        if final and state.line:
            add(source, state.line, state.timestamp_ms, True)
    return lines


def _records(captured: Iterable[Captured]) -> Iterator[Captured]:
    for source, data, timestamp_ms in captured:
        for start in range(0, len(data), MAX_PAYLOAD):
            yield source, data[start : start + MAX_PAYLOAD], timestamp_ms


def bytes_of(lines: Iterable[NumberedLine], source: Source) -> bytes:
    """Return the bytes of a source, joined from its lines."""
    return b"".join(
        line.data + (b"" if line.partial else b"\n")
        for line in lines
        if line.source == source and not line.missing_bytes
    )


# Records


class Gap(NamedTuple):
    """A gap that was received."""

    source: Source
    offset: int
    missing: int
    reason: str


class Received:
    """Compares the records that a reader returns with the output that was written.

    Args:
        captured: What was appended.
        offsets: From where on it reads.

    Attributes:
        offsets: Up to where it has each source.
        given: How many bytes it was given, those that lie before its beginning left out.
        gaps: What it was told to be missing.
        timestamps: Of the records, gaps left out.
    """

    def __init__(self, captured: Iterable[Captured], offsets: Offsets = BEGINNING) -> None:
        captured = list(captured)
        self._written = [written(captured, source) for source in SOURCES]
        self._ends = list(offsets)
        self._begin = offsets
        self.given = 0
        self.gaps: list[Gap] = []
        self.timestamps: list[int] = []

    @property
    def offsets(self) -> Offsets:
        out, err, build = self._ends
        return out, err, build

    @property
    def missing(self) -> int:
        return sum(gap.missing for gap in self.gaps)

    @property
    def accounted(self) -> int:
        """The number of bytes that were returned or reported as missing."""
        return self.given + self.missing

    def take(self, records: bytes) -> None:
        """Compare the next records with the written output. Fail if they differ or do not follow the earlier
        records."""
        for kind, timestamp_ms, offset, payload in decode(records):
            source_id = kind & ~GAP
            end = self._ends[source_id]
            if kind & GAP:
                missing, reason = parse_gap(payload)
                assert reason
                assert offset == end
                assert missing > 0
                self.gaps.append(Gap(SOURCES[source_id], offset, missing, reason))
                self._ends[source_id] += missing
                continue
            assert offset == end or (offset < end == self._begin[source_id] < offset + len(payload)), "lost or repeated"
            assert payload == self._written[source_id][offset : offset + len(payload)]
            self.given += offset + len(payload) - end
            self._ends[source_id] = offset + len(payload)
            self.timestamps.append(timestamp_ms)


def read_all(reader: Reader, *, final: bool = True, max_bytes: int = 1 << 20) -> bytes:
    """Return all records that a reader returns now."""
    pieces = []
    while piece := reader.read(max_bytes, final=final):
        pieces.append(piece)
    reader.close()
    return b"".join(pieces)
