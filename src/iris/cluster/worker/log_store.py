"""One attempt's log on disk: records as they were captured, read back as lines, page by page.

Two layers, kept apart:

* **Records** (`encode_header`, `RecordReader`, `LogWriter`): the file is a sequence of frames, each what one read from
  one of the task's pipes gave. Nothing is done per line, and bytes stay bytes: what is on disk can go on the wire as it
  is, found by its offset.
* **Lines** (`LineCount`, `LogIndex`, `read_page`): a line is completed by its newline, per source, and lines are in the
  order in which they were completed. Its time is that of the record that completed it. `\\r` is an ordinary byte.

What has no newline (yet) is shown in two cases, as a line with `partial=True`: a source's unfinished line that has
reached `MAX_LINE_PIECE` at the end of a record is cut there, so that the cuts are the same for every reader; and when
the attempt is final, what is left of each source comes last, in the order of `SOURCES`.

Everything here blocks on the disk. Nothing is synced: a log survives the worker's death, not the machine's.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from struct import Struct
from typing import Literal
from zlib import crc32

import re2

from iris.errors import InvalidArgumentError

Source = Literal["stdout", "stderr", "build"]
SOURCES: tuple[Source, ...] = ("stdout", "stderr", "build")  # a record has the position in this tuple
_SOURCE_ID = {source: source_id for source_id, source in enumerate(SOURCES)}

MAX_PAYLOAD = 1 << 20  # bytes of one record; a longer append becomes several
# Bytes of an unfinished line that a reader (and we) keep at most, before the record that makes it this long. Not below
# MAX_PAYLOAD: then a record that has a newline never leaves a piece behind it.
MAX_LINE_PIECE = 1 << 20
PAGE_BYTES = 2 << 20
# What a line counts for in a page besides its data: its time, source and frame in an answer. Without it, a page of
# empty lines would have no limit.
LINE_COST = 32

# A frame: magic (8 bits) and payload length (24 bits), CRC-32 of all that follows it, time in ms, source; the payload.
_HEADER = Struct("<IIQB")
_CHECKED = Struct("<QB")  # the part of the header that the checksum covers
_CHECKED_AT = _HEADER.size - _CHECKED.size
_MAGIC = 0x17
_LENGTH_BITS = 24
_CHUNK = _HEADER.size + MAX_PAYLOAD  # one read: holds any record whole

# Where reading may start in mid-file: this far apart in bytes, and that many times the unfinished lines that have to be
# remembered with the place. So an index takes at most about 1/64 of the log's size, whatever the task writes.
_POINT_SPACING = 256 << 10
_POINT_SPACING_PER_TAIL_BYTE = 64


# Records


def encode_header(source_id: int, timestamp_ms: int, payload: bytes) -> bytes:
    """The frame's header, which stands before the payload in the file."""
    checked = _CHECKED.pack(timestamp_ms, source_id)
    return _HEADER.pack(_MAGIC << _LENGTH_BITS | len(payload), crc32(payload, crc32(checked)), timestamp_ms, source_id)


class RecordReader:
    """Iterates over the whole records of a log file: `(source_id, timestamp_ms, payload)`.

    Args:
        fd: The file; its position is neither used nor moved.
        offset: Where a record starts.
        stop: Read nothing from here on.

    Attributes:
        offset: Just after the record that was given out last: where the next one starts, or will start.
        end: Why the iteration ended. `incomplete` is the beginning of a record: of one that is being written, or
            that was cut off. `damaged` is no record of ours, or one whose checksum is wrong.
    """

    def __init__(self, fd: int, offset: int, stop: int) -> None:
        self.offset = offset
        self.end: Literal["clean", "incomplete", "damaged"] = "clean"
        self._fd = fd
        self._stop = stop

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        # A record is parsed from one pread only. Two would show a record that never was, when the writer takes back
        # half a record (disk full) and writes another one in its place.
        while self.offset < self._stop:
            start = self.offset
            chunk = os.pread(self._fd, min(_CHUNK, self._stop - start), start)
            view = memoryview(chunk)
            at = 0
            while at + _HEADER.size <= len(chunk):
                word, checksum, timestamp_ms, source_id = _HEADER.unpack_from(chunk, at)
                length = word & ((1 << _LENGTH_BITS) - 1)
                if word >> _LENGTH_BITS != _MAGIC or length > MAX_PAYLOAD or source_id >= len(SOURCES):
                    self.end = "damaged"
                    return
                payload_at = at + _HEADER.size
                record_end = payload_at + length
                if record_end > len(chunk):
                    break
                if crc32(view[at + _CHECKED_AT : record_end]) != checksum:
                    self.end = "damaged"
                    return
                at = record_end
                self.offset = start + at
                yield source_id, timestamp_ms, chunk[payload_at:record_end]
            if at == 0:  # a chunk has room for any record, so there is not all of this one
                self.end = "incomplete"
                return


class LogWriter:
    """Writes one attempt's log. Each append can be read by others as soon as it returns.

    Not safe to use from several threads; readers may be in other threads (see `LogIndex`).

    Args:
        path: The file to create; its directory exists.

    Attributes:
        index: What `read_page` needs to start in mid-file.
        bytes_written: How much of the task's output is in the file, in bytes, without our frames.

    Raises:
        FileExistsError: There is a file already: an attempt is written once.
        OSError: The file cannot be created.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.index = LogIndex()
        self.bytes_written = 0
        self._end = 0  # file offset after the last whole record
        self._file = Path(path).open("xb", buffering=0)  # noqa: SIM115 - open until `close`

    @property
    def lines(self) -> int:
        """How many lines can be read by now: the completed ones, and the pieces of long ones."""
        return self.index.lines

    def append(self, source: Source, data: bytes, timestamp_ms: int) -> None:
        """Adds what one read from a pipe gave; no data adds nothing.

        Raises:
            OSError: The disk is full or broken. The file ends with its last whole record and the writer stays usable;
                of data longer than `MAX_PAYLOAD`, the start may have been written (`bytes_written` tells).
        """
        source_id = _SOURCE_ID[source]
        for start in range(0, len(data), MAX_PAYLOAD):
            payload = data[start : start + MAX_PAYLOAD]
            self._write(encode_header(source_id, timestamp_ms, payload), payload)
            self.bytes_written += len(payload)
            # After the write: a reader who trusts the index must find the bytes in the file.
            self.index.add(source_id, timestamp_ms, payload, self._end)

    def _write(self, header: bytes, payload: bytes) -> None:
        fd = self._file.fileno()
        size = len(header) + len(payload)
        try:
            # At our own offset, not in append mode: should the truncation below fail as well, the next record
            # overwrites what is left of this one.
            written = os.pwritev(fd, (header, payload), self._end)
            if written < size:
                frame = memoryview(header + payload)
                while written < size:
                    written += os.pwrite(fd, frame[written:], self._end + written)
        except OSError:
            try:
                os.ftruncate(fd, self._end)
            except OSError:
                pass  # the first error is the one to report; readers take the rest for an incomplete record
            raise
        self._end += size

    def close(self) -> None:
        """Closes the file; a second call does nothing, an append after it is a `ValueError`."""
        self._file.close()


# Lines


@dataclass(slots=True)
class Line:
    """A line of a log.

    Attributes:
        number: Its place in the attempt's log, from 0, over all sources.
        timestamp_ms: When its end was captured, in ms since the epoch.
        source: Which pipe it came from.
        data: Its exact bytes, without the newline.
        partial: No newline here: the end of the log, or a piece that the source's next line continues.
    """

    number: int
    timestamp_ms: int
    source: Source
    data: bytes
    partial: bool


@dataclass(slots=True)
class Page:
    """Some lines of a log, and how to go on.

    Attributes:
        lines: In order; those that passed the filters.
        next_line: Where the next page starts: after the lines that were returned and the ones that were filtered out.
        at_end: There is nothing to read after this page now; of a final log, nothing will ever come.
        damaged: Reading ended at a record that is cut off or wrong; what is behind it cannot be read.
    """

    lines: list[Line]
    next_line: int
    at_end: bool
    damaged: bool


@dataclass(frozen=True, slots=True)
class Point:
    """A place between two records, and all that is needed to read lines from there on.

    Attributes:
        offset: In the file, in bytes.
        line: How many lines end before it.
        newest_ms: The latest time of all records before it; clocks may go back, so not always the last record's.
        tails: Each source's unfinished line.
        tail_ms: The time of each source's last record.
    """

    offset: int = 0
    line: int = 0
    newest_ms: int = 0
    tails: tuple[bytes, ...] = (b"",) * len(SOURCES)
    tail_ms: tuple[int, ...] = (0,) * len(SOURCES)


class LineCount:
    """Walks over records and keeps what lines need: how many there were, and each source's unfinished one."""

    def __init__(self, point: Point) -> None:
        self.line = point.line
        self._newest_ms = point.newest_ms
        self._tails = [bytearray(tail) for tail in point.tails]
        self._tail_ms = list(point.tail_ms)

    def skip(self, source_id: int, timestamp_ms: int, payload: bytes) -> None:
        """Passes a record of which no line is wanted: several times faster than `take`."""
        ended = payload.count(b"\n")
        tail = self._tails[source_id]
        if ended:
            tail[:] = payload[payload.rfind(b"\n") + 1 :]
        else:
            tail += payload
            if len(tail) >= MAX_LINE_PIECE:
                ended = 1
                tail.clear()
        self._pass(source_id, timestamp_ms, ended)

    def take(self, source_id: int, timestamp_ms: int, payload: bytes) -> tuple[list[bytes], bool]:
        """Passes a record: the lines that it completes, or one piece of a longer line and True."""
        lines = payload.split(b"\n")
        rest = lines.pop()
        partial = False
        tail = self._tails[source_id]
        if lines:
            if tail:
                lines[0] = bytes(tail + lines[0])
            tail[:] = rest
        else:
            tail += rest
            if len(tail) >= MAX_LINE_PIECE:
                partial = True
                lines = [bytes(tail)]
                tail.clear()
        self._pass(source_id, timestamp_ms, len(lines))
        return lines, partial

    def _pass(self, source_id: int, timestamp_ms: int, ended: int) -> None:
        self.line += ended
        self._tail_ms[source_id] = timestamp_ms
        if timestamp_ms > self._newest_ms:
            self._newest_ms = timestamp_ms

    def leftovers(self) -> list[tuple[int, int, bytes]]:
        """The unfinished lines, in the order in which a final log shows them: `(source_id, timestamp_ms, data)`."""
        return [
            (source_id, self._tail_ms[source_id], bytes(tail)) for source_id, tail in enumerate(self._tails) if tail
        ]

    def tail_bytes(self) -> int:
        """How long the unfinished lines are together, in bytes."""
        return sum(map(len, self._tails))

    def point(self, offset: int) -> Point:
        """This place, to come back to; the records before `offset` have been passed."""
        return Point(offset, self.line, self._newest_ms, tuple(map(bytes, self._tails)), tuple(self._tail_ms))


class LogIndex:
    """Where reading may start in mid-file, so that a page deep in a long log costs no more than the first.

    Kept up by the writer, in memory; `scan` makes the same one from the file (after the worker was restarted).

    Readers in other threads use it while the writer adds to it, and take no lock: a `Point` never changes, the list
    only grows, by an append that is atomic, and a point is there only after the bytes that it speaks of. A reader that
    just misses a new point starts at an older one and comes to the same lines.
    """

    def __init__(self) -> None:
        self._points = [Point()]
        self._count = LineCount(self._points[0])

    @classmethod
    def scan(cls, path: str | os.PathLike[str]) -> LogIndex:
        """Reads the whole file once; a missing file is an empty log.

        Raises:
            OSError: The file cannot be read.
        """
        index = cls()
        try:
            with Path(path).open("rb", buffering=0) as file:
                records = RecordReader(file.fileno(), 0, os.fstat(file.fileno()).st_size)
                for source_id, timestamp_ms, payload in records:
                    index.add(source_id, timestamp_ms, payload, records.offset)
        except FileNotFoundError:
            pass
        return index

    @property
    def lines(self) -> int:
        """How many lines end before the end of what was added."""
        return self._count.line

    def add(self, source_id: int, timestamp_ms: int, payload: bytes, offset: int) -> None:
        """Takes note of a record that ends at `offset`."""
        self._count.skip(source_id, timestamp_ms, payload)
        distance = offset - self._points[-1].offset
        if distance >= _POINT_SPACING and distance >= _POINT_SPACING_PER_TAIL_BYTE * self._count.tail_bytes():
            self._points.append(self._count.point(offset))

    def last(self) -> Point:
        """The point nearest to the end."""
        return self._points[-1]

    def before(self, line: int, start_ms: int) -> Point:
        """The last point before which no line is wanted: all are before `line`, or none is later than `start_ms`."""
        position = bisect_right(self._points, line, key=attrgetter("line"))
        if start_ms > 0:
            position = max(position, bisect_right(self._points, start_ms, key=attrgetter("newest_ms")))
        return self._points[position - 1]


def read_page(
    path: str | os.PathLike[str],
    index: LogIndex | None = None,
    *,
    start_line: int = 0,
    start_ms: int = 0,
    end_ms: int = 0,
    regex: str = "",
    max_lines: int = 0,
    final: bool,
    max_bytes: int = PAGE_BYTES,
) -> Page:
    """Reads lines of a log, also while it is being written. A missing file is an empty log.

    Args:
        path: The log file.
        index: The writer's, or one from `LogIndex.scan`. Without one the file is read from its start.
        start_line: The first line, from 0; negative counts from the end of what there is, before the other filters.
        start_ms: Only lines later than this; 0 = all.
        end_ms: Only lines not later than this; 0 = all.
        regex: RE2, searched in the line as UTF-8 text, in which bytes that are none are U+FFFD; "" = all.
        max_lines: The first so many lines that pass the other filters; 0 = all.
        final: The log is complete, so what has no newline is shown too. Only true when the writer is done.
        max_bytes: A page ends before its lines are more than this, `LINE_COST` included; it always has one, if
            there is one.

    Raises:
        InvalidArgumentError: `regex` is no RE2, or `max_lines` is negative.
        OSError: The file cannot be read.
    """
    if max_lines < 0:
        raise InvalidArgumentError(f"max_lines={max_lines}: expected a whole number from 0 (0 = no limit)")
    search = _compile(regex) if regex else None
    if index is None:
        index = LogIndex() if start_line >= 0 else LogIndex.scan(path)
    last = index.last()  # before the file's size is taken, so that it is not beyond
    try:
        with Path(path).open("rb", buffering=0) as file:
            fd = file.fileno()
            # All that follows looks at the file as it is now: a page ends also where a task never stops writing.
            stop = os.fstat(fd).st_size
            if start_line < 0:
                start_line = max(0, _count_lines(fd, last, stop, final) + start_line)
            selection = _Selection(start_line, start_ms, end_ms, search, max_lines, max_bytes)
            return _read(fd, index.before(start_line, start_ms), stop, final, selection)
    except FileNotFoundError:
        return Page([], next_line=max(start_line, 0), at_end=True, damaged=False)


def _count_lines(fd: int, point: Point, stop: int, final: bool) -> int:
    count = LineCount(point)
    for record in RecordReader(fd, point.offset, stop):
        count.skip(*record)
    return count.line + (len(count.leftovers()) if final else 0)


def _read(fd: int, point: Point, stop: int, final: bool, page: _Selection) -> Page:
    """Reads on from a point until the page is full and a line after it was seen, or until the end."""
    count = LineCount(point)
    records = RecordReader(fd, point.offset, stop)
    for source_id, timestamp_ms, payload in records:
        first = count.line
        if page.wants(timestamp_ms, first + payload.count(b"\n")):
            lines, partial = count.take(source_id, timestamp_ms, payload)
            page.add(first, source_id, timestamp_ms, lines, partial)
        else:
            count.skip(source_id, timestamp_ms, payload)
        if page.full_at is not None and count.line > page.full_at:
            break
    else:
        for source_id, timestamp_ms, tail in count.leftovers() if final else ():
            if page.wants(timestamp_ms, count.line):
                page.add(count.line, source_id, timestamp_ms, [tail], True)
            count.line += 1
    # A start beyond the end stays where it is: the lines before it were not asked for.
    next_line = max(page.start_line, count.line) if page.full_at is None else page.full_at
    return Page(
        page.lines,
        next_line,
        at_end=count.line <= next_line,
        damaged=records.end == "damaged" or (final and records.end == "incomplete"),
    )


class _Selection:
    """The lines of one page: which are wanted, the ones that were found, and when it is full.

    Attributes:
        lines: Found so far.
        full_at: The line at which the next page starts; None as long as this one has room.
    """

    def __init__(
        self,
        start_line: int,
        start_ms: int,
        end_ms: int,
        search: Callable[[bytes], bool] | None,
        max_lines: int,
        max_bytes: int,
    ) -> None:
        self.start_line = start_line
        self.lines: list[Line] = []
        self.full_at: int | None = None
        self._start_ms = start_ms
        self._end_ms = end_ms
        self._search = search
        self._max_lines = max_lines
        self._room = max_bytes

    def wants(self, timestamp_ms: int, last_line: int) -> bool:
        """Whether lines of that time, up to that number, can be in the page."""
        return (
            self.full_at is None
            and last_line >= self.start_line
            and (self._start_ms == 0 or timestamp_ms > self._start_ms)
            and (self._end_ms == 0 or timestamp_ms <= self._end_ms)
        )

    def add(self, first: int, source_id: int, timestamp_ms: int, lines: list[bytes], partial: bool) -> None:
        """Takes what is wanted of the lines that one record completed; `first` is the number of the first of them."""
        found, search, source = self.lines, self._search, SOURCES[source_id]
        for number, data in enumerate(lines, first):
            if number < self.start_line or (search is not None and not search(data)):
                continue
            self._room -= len(data) + LINE_COST
            if self._room < 0 and found:
                self.full_at = number
                return
            found.append(Line(number, timestamp_ms, source, data, partial))
            if len(found) == self._max_lines:
                self.full_at = number + 1
                return


def _compile(regex: str) -> Callable[[bytes], bool]:
    options = re2.Options()
    options.log_errors = False  # the caller is told; RE2 would also write to the worker's stderr
    options.never_capture = True  # only whether it matches is asked
    try:
        pattern = re2.compile(regex, options)
    except re2.error as error:
        reason = error.args[0]
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        raise InvalidArgumentError(f"not a pattern: {regex!r}: {reason} (expected RE2 syntax)") from None

    def search(data: bytes) -> bool:
        # In RE2's UTF-8 mode nothing matches a byte that is no UTF-8, not even `.`; in its Latin-1 mode `é` in a
        # class or with (?i) means something else. So a line is searched as the text that a reader sees.
        text = data if data.isascii() else data.decode(errors="replace").encode()
        return pattern.search(text) is not None

    return search
