"""Finds a position in a log. A reader names the position itself, a time, or a byte of a source."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_index import CHUNK_BYTES
from iris.cluster.logs.reading.numbered_lines import START
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.reading.segment_file import SegmentFile
from iris.cluster.logs.records import BEGINNING, GAP, HEADER, Offsets, Record, decode, parse_gap
from iris.cluster.logs.segments import RecordBoundary, list_segments
from iris.rpc.serving.steps import Steps


class AtPosition(NamedTuple):
    """A place in a log, given by the number of bytes of records before it."""

    position: int


class AtTime(NamedTuple):
    """A place in a log: before the first record whose time is `timestamp_ms` or later."""

    timestamp_ms: int


class AtByte(NamedTuple):
    """The place of the record that contains a byte of a source.

    Attributes:
        source_id: The index of the source in `SOURCES`.
        offset: How many bytes of the source come before the byte.
    """

    source_id: int
    offset: int


Place = AtPosition | AtTime | AtByte


def find_position(directory: Path, writer: LogWriter | None, place: Place, *, after: bool, final: bool) -> Steps[int]:
    """Return the position that a place stands for. If the log ends before the place, return the end of the log. The
    generator yields after each step, and each step reads at most a megabyte.

    Args:
        directory: The directory of the log.
        writer: The log's writer if this process writes the log or has written it; None if another process has written
            it.
        place: The place in the log that is looked for.
        after: Whether to return the position after the record that contains a byte, instead of the position before
            that record.
        final: Whether the writer of the log has finished.

    Raises:
        OSError: The log cannot be read.
    """
    match place:
        case AtPosition(position):
            return position
        case AtTime(timestamp_ms):
            position, offsets = _start_by_time(directory, writer, timestamp_ms)
            return (
                yield from _find_record(
                    LogReader(directory, offsets, writer=writer, position=position),
                    lambda record: record.timestamp_ms >= timestamp_ms,
                    after=False,
                    final=final,
                )
            )
        case AtByte(source_id, offset):
            position, offsets = _start_by_byte(directory, writer, source_id, offset)
            return (
                yield from _find_record(
                    LogReader(directory, offsets, writer=writer, position=position),
                    lambda record: record.kind & ~GAP == source_id and _end_of(record) > offset,
                    after=after,
                    final=final,
                )
            )


def _end_of(record: Record) -> int:
    return record.offset + (parse_gap(record.payload)[0] if record.kind & GAP else len(record.payload))


def _find_record(reader: LogReader, is_found: Callable[[Record], bool], *, after: bool, final: bool) -> Steps[int]:
    """Return the position before or after the first record that `is_found` accepts."""
    with reader:
        while True:
            before = reader.position
            chunk = reader.read_chunk(CHUNK_BYTES, final=final)
            if chunk is None:
                return reader.position
            if chunk.lost:
                # The reader inserts a gap where records are missing. Such a gap lies between the positions before and
                # after the read.
                if any(map(is_found, decode(chunk.records))):
                    return reader.position if after else before
                continue
            position = reader.position - len(chunk.records)
            for record in decode(chunk.records):
                end = position + HEADER.size + len(record.payload)
                if is_found(record):
                    return end if after else position
                position = end
            yield


def _start_by_time(directory: Path, writer: LogWriter | None, timestamp_ms: int) -> tuple[int, Offsets]:
    """Return the position and the offsets of a place that comes before every record with the given time or a later
    time.
    """
    if writer is not None:
        point = writer.index.points.before(0, timestamp_ms - 1) if timestamp_ms > 1 else START
        return point.position, point.offsets
    segments = list_segments(directory)
    number = bisect_left(segments, timestamp_ms, key=lambda segment: _first_ms(directory, segment)) - 1
    return _start_of(segments, number)


def _start_by_byte(directory: Path, writer: LogWriter | None, source_id: int, offset: int) -> tuple[int, Offsets]:
    """Return the position and the offsets of a place before the record that contains a byte of a source."""
    segments = list_segments(directory) if writer is None else writer.segments
    number = bisect_right(segments, offset, key=lambda segment: segment.offsets[source_id]) - 1
    # If a source writes nothing in a segment, the names of this segment and of the next segment contain the same offset
    # for the source. A byte at this offset lies in the last segment with the offset, which `bisect_right` finds.
    return _start_of(segments, number)


def _start_of(segments: tuple[RecordBoundary, ...], number: int) -> tuple[int, Offsets]:
    return (segments[number].position, segments[number].offsets) if number > 0 else (0, BEGINNING)


def _first_ms(directory: Path, segment: RecordBoundary) -> int:
    try:
        return SegmentFile(directory, segment).first_ms(0)
    except (FileNotFoundError, NotADirectoryError):
        return 0  # The segment was dropped since the segments were listed. Only the oldest segments are dropped.
