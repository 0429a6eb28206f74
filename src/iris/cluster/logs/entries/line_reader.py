"""Makes entries from the records of a log. Servers send records and leave this work to the reader, because creating
many objects is slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, repeat
from operator import add

from iris.cluster.logs.cursor import Position
from iris.cluster.logs.entries.log_entry import EntryOrigin, LogEntry
from iris.cluster.logs.records import GAP, MAX_PAYLOAD, SOURCES, Offsets, decode, parse_gap
from iris.counts import counted, word_for

# To limit its memory, a reader keeps at most `MAX_HELD_LINE_BYTES` of a partial line. Longer lines are returned in
# parts.
MAX_HELD_LINE_BYTES = 64 << 20
# The line of a progress bar may grow for hours. With `parts`, a line with more than `_MAX_BAR_BYTES` is cut before a
# carriage return.
_MAX_BAR_BYTES = 4096


class LineReader:
    """Makes entries from the records of one attempt.

    Args:
        job_id: The id of the job.
        task_index: The index of the task.
        position: The attempt, and the offsets at which its records start.
        whole: Whether the server sends all records of the log. If True, a record whose offset is too large shows a gap.
        parts: Whether the line of a long progress bar is returned in parts. Otherwise only a line of more than
            `longest` bytes is cut.
        longest: The largest number of bytes of a partial line that the reader keeps.
        piece_bytes: The most bytes from which `read` makes entries at a time. A smaller number saves memory, because a
            record of short lines becomes many entries.
        piece_lines: About how many entries `read` makes at a time. 0: no limit. The limit applies to records whose
            lines have similar lengths. `piece_bytes` limits the entries of all other records.
        blocks: Whether consecutive whole lines become one entry, whose data contains the newlines between them. A
            reader that needs only the bytes of the lines then takes much less time.

    Attributes:
        jumps: Whether a filter may exclude records. If True, a record whose offset is too large shows no gap.
    """

    def __init__(
        self,
        job_id: str,
        task_index: int,
        position: Position,
        *,
        whole: bool,
        parts: bool = False,
        longest: int = MAX_HELD_LINE_BYTES,
        piece_bytes: int = MAX_PAYLOAD,
        piece_lines: int = 0,
        blocks: bool = False,
    ) -> None:
        self.jumps = not whole
        self._longest = longest
        self._piece_bytes = piece_bytes
        self._piece_lines = piece_lines
        self._makes_blocks = blocks
        self._cuts_bars = parts
        self._job_id = job_id
        self._task_index = task_index
        self._attempt_id = position.attempt_id
        self._received = list(position.offsets)
        self._partial = [bytearray() for _ in SOURCES]  # The partial line of each source, by source id.
        self._partial_ms = [0] * len(SOURCES)
        # For each source id, the number of bytes at the beginning of the partial line that were searched for a carriage
        # return.
        self._searched = [0] * len(SOURCES)

    @property
    def received(self) -> Position:
        """The position up to which bytes have arrived. A broken stream continues at this position."""
        out, err, build = self._received
        return Position(self._attempt_id, (out, err, build))

    @property
    def delivered(self) -> Position:
        """The position up to which entries were returned. Another reader can continue at this position."""
        return Position(self._attempt_id, self._delivered())

    def skip_to(self, offsets: Sequence[int]) -> None:
        """Move to the given offsets, because a filter has excluded the bytes before these offsets. A source with a
        partial line does not move.
        """
        for source_id, offset in enumerate(offsets):
            if offset > self._received[source_id] and not self._partial[source_id]:
                self._received[source_id] = offset

    def read(self, records: bytes) -> Iterator[tuple[int, list[LogEntry]]]:
        """Yield pairs: the time of a record, and entries that the record completes. A long record may yield several
        pairs. A record that completes no entry yields none.
        """
        for kind, timestamp_ms, offset, payload in decode(records):
            source_id = kind & ~GAP
            if kind & GAP:
                if self.jumps and self._received[source_id] < offset:  # A filter has excluded bytes.
                    yield from self._jump(source_id, timestamp_ms, offset)
                missing, cause = parse_gap(payload)
                yield from self._gap(source_id, timestamp_ms, offset + missing, cause)
                continue
            known = self._received[source_id] - offset
            # A stream that continues after a lost connection repeats the record in which the earlier stream ended.
            if known > 0:
                payload = payload[known:]
                offset += known
            elif known < 0:
                if not self.jumps:
                    yield from self._gap(source_id, timestamp_ms, offset, "it was not sent")
                yield from self._jump(source_id, timestamp_ms, offset)
            size = self._piece_size(payload)
            for at in range(0, len(payload), size):
                piece = payload[at : at + size]
                entries = self._lines(source_id, timestamp_ms, offset + at, piece)
                if entries:
                    yield timestamp_ms, entries

    def flush(self, *, ended: bool = False) -> Iterator[tuple[int, list[LogEntry]]]:
        """Yield the partial lines as entries. The rest of each line becomes another entry later.

        Args:
            ended: Whether the attempt has ended, so that the lines will not be continued.
        """
        for source_id, partial in enumerate(self._partial):
            if partial:
                timestamp_ms, entries = self._partial_ms[source_id], self._take_partial(source_id)
                entries[0].origin.ended = ended
                yield timestamp_ms, entries

    def _lines(self, source_id: int, timestamp_ms: int, offset: int, payload: bytes) -> list[LogEntry]:
        partial = self._partial[source_id]
        start = offset - len(partial)
        *lines, rest = payload.rsplit(b"\n", 1) if self._makes_blocks else payload.split(b"\n")
        self._partial_ms[source_id] = timestamp_ms
        if not lines:
            self._received[source_id] = offset + len(payload)
            partial += rest
            return self._cut(source_id)
        origin = self._origin(source_id, timestamp_ms)
        if partial:
            lines[0] = bytes(partial) + lines[0]
            partial.clear()
            self._searched[source_id] = 0
        partial += rest
        self._received[source_id] = offset + len(payload)
        ends = map(add, accumulate(map(len, lines)), range(start + 1, start + 1 + len(lines)))
        return list(map(LogEntry, lines, ends, repeat(origin)))

    def _piece_size(self, payload: bytes) -> int:
        num_lines = payload.count(b"\n") if self._piece_lines else 0
        if num_lines <= self._piece_lines:
            return self._piece_bytes
        return max(1, min(self._piece_bytes, len(payload) * self._piece_lines // num_lines))

    def _cut(self, source_id: int) -> list[LogEntry]:
        """Return the first part of a source's partial line if the line is too long to keep, and otherwise an empty
        list.
        """
        partial = self._partial[source_id]
        if len(partial) >= self._longest:
            return self._take_partial(source_id)
        if self._cuts_bars and len(partial) > _MAX_BAR_BYTES:
            cut = partial.rfind(b"\r", max(1, self._searched[source_id]), len(partial) - 1)
            if cut > 0:
                return self._take_partial(source_id, cut)
            self._searched[source_id] = len(partial) - 1
        return []

    def _take_partial(self, source_id: int, length: int | None = None) -> list[LogEntry]:
        partial = self._partial[source_id]
        origin = self._origin(source_id, self._partial_ms[source_id], partial=True)
        with memoryview(partial) as view:  # Slicing a memoryview instead of the buffer saves one copy of the bytes.
            data = bytes(view[:length])
        end = origin.delivered[source_id] + len(data)
        del partial[: len(data)]
        self._searched[source_id] = 0
        return [LogEntry(data, end, origin)]

    def _jump(self, source_id: int, timestamp_ms: int, offset: int) -> Iterator[tuple[int, list[LogEntry]]]:
        if self._partial[source_id]:
            yield timestamp_ms, self._take_partial(source_id)
        self._received[source_id] = offset

    def _gap(self, source_id: int, timestamp_ms: int, end: int, cause: str) -> Iterator[tuple[int, list[LogEntry]]]:
        missing = end - self._received[source_id]
        if missing <= 0:
            return
        if self._partial[source_id]:
            yield timestamp_ms, self._take_partial(source_id)
        origin = self._origin(source_id, timestamp_ms, partial=True, missing=(missing, cause))
        self._received[source_id] = end
        yield timestamp_ms, [LogEntry(b"", end, origin)]

    def _origin(
        self, source_id: int, timestamp_ms: int, *, partial: bool = False, missing: tuple[int, str] = (0, "")
    ) -> EntryOrigin:
        return EntryOrigin(
            self._job_id,
            self._task_index,
            self._attempt_id,
            source_id,
            timestamp_ms,
            self._delivered(),
            partial=partial,
            missing=missing,
        )

    def _delivered(self) -> Offsets:
        out, err, build = (count - len(part) for count, part in zip(self._received, self._partial, strict=True))
        return out, err, build


class RawReader:
    """Extracts the bytes of one attempt from records, for `LogStream.raw`. The class has the interface of `LineReader`.

    Args:
        position: The attempt, and the offsets at which its records start.
        on_missing: A function that is called with a text about each gap.

    Attributes:
        jumps: Not used. `LineReader` has the same attribute, and callers expect it.
    """

    def __init__(self, position: Position, on_missing: Callable[[str], None]) -> None:
        self.jumps = False
        self._attempt_id = position.attempt_id
        self._received = list(position.offsets)
        self._on_missing = on_missing

    @property
    def received(self) -> Position:
        """The position up to which bytes have arrived."""
        out, err, build = self._received
        return Position(self._attempt_id, (out, err, build))

    @property
    def delivered(self) -> Position:
        """The position up to which bytes were returned. This position equals `received`, because a `RawReader` keeps no
        bytes.
        """
        return self.received

    def skip_to(self, offsets: Sequence[int]) -> None:
        """Move to the given offsets, because a filter has excluded the bytes before these offsets."""
        self._received = [max(pair) for pair in zip(self._received, offsets, strict=True)]

    def read(self, records: bytes) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the new bytes of each record with the time of the record."""
        for kind, timestamp_ms, offset, payload in decode(records):
            source_id = kind & ~GAP
            if kind & GAP:
                missing, cause = parse_gap(payload)
                missing -= max(0, self._received[source_id] - offset)
                if missing > 0:
                    self._received[source_id] = max(offset, self._received[source_id]) + missing
                    verb = word_for(missing, "is", "are")
                    self._on_missing(f"{counted(missing, 'byte')} of {SOURCES[source_id]} {verb} missing: {cause}")
                continue
            known = self._received[source_id] - offset
            if known < len(payload):
                self._received[source_id] = offset + len(payload)
                yield timestamp_ms, [payload[known:] if known > 0 else payload]

    def flush(self, *, ended: bool = False) -> Iterator[tuple[int, list[bytes]]]:
        """Yield nothing, because a `RawReader` keeps no bytes."""
        del ended
        return iter(())


def join_parts(entries: Iterable[LogEntry]) -> Iterator[LogEntry]:
    """Yield whole lines: join the parts of each long line. The states of a progress bar stay separate entries."""
    kept: dict[tuple[int, str], list[LogEntry]] = {}  # The parts of an unfinished long line, by task and source.
    for entry in entries:
        key = (entry.task_index, entry.source)
        parts = kept.pop(key, [])
        if parts and not _continues(parts[-1], entry):
            yield _joined(parts)
            parts = []
        if entry.missing_bytes:
            yield entry
        elif entry.partial:
            kept[key] = [*parts, entry]
        else:
            yield _joined([*parts, entry])
    yield from map(_joined, kept.values())


def _continues(part: LogEntry, entry: LogEntry) -> bool:
    return part.attempt_id == entry.attempt_id and not entry.missing_bytes and not entry.data.startswith(b"\r")


def _joined(parts: list[LogEntry]) -> LogEntry:
    return parts[0] if len(parts) == 1 else parts[-1].with_earlier_parts(parts[:-1])
