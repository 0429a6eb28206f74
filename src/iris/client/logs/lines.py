"""Lines from records: where bytes become objects, as late as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, repeat
from operator import add

from iris.client.logs.log_entry import EntryOrigin, LogEntry
from iris.cluster.logs.cursor import Position
from iris.cluster.logs.records import GAP, SOURCES, Offsets, decode, parse_gap

# An unfinished line is held until it is this long, then given out in pieces: so a reader's memory is bounded.
MAX_HELD_LINE_BYTES = 64 << 20
# A progress bar never ends its line. A reader of pieces gets a bar longer than this in pieces, each of which ends where
# the bar goes back to the start of the line.
_MAX_BAR_BYTES = 4096


class LineReader:
    """The lines of one attempt, from its records.

    Args:
        job_id: The job.
        task_index: The task.
        position: The attempt, and from where in it.
        whole: Nothing was filtered out, so that a jump in a source means that something is missing.
        pieces: Give a long progress bar in pieces. Otherwise only a line of `MAX_HELD_LINE_BYTES` bytes is cut.

    Attributes:
        jumps: Not `whole`.
    """

    def __init__(self, job_id: str, task_index: int, position: Position, *, whole: bool, pieces: bool = False) -> None:
        self.jumps = not whole
        self._gives_pieces = pieces
        self._job_id = job_id
        self._task_index = task_index
        self._attempt_id = position.attempt_id
        self._received = list(position.offsets)
        self._tails = [bytearray() for _ in SOURCES]
        self._tail_ms = [0] * len(SOURCES)
        self._searched = [0] * len(SOURCES)  # so much of each tail has no place to be cut at

    @property
    def received(self) -> Position:
        """Up to where bytes have come: from here a broken stream is continued."""
        out, err, build = self._received
        return Position(self._attempt_id, (out, err, build))

    @property
    def delivered(self) -> Position:
        """Up to where lines were given out: from here another reader continues."""
        return Position(self._attempt_id, self._delivered())

    def skip_to(self, offsets: Sequence[int]) -> None:
        """What lies before these places was left out by a filter."""
        for source_id, offset in enumerate(offsets):
            if offset > self._received[source_id] and not self._tails[source_id]:
                self._received[source_id] = offset

    def read(self, records: bytes) -> Iterator[tuple[int, list[LogEntry]]]:
        """The lines that records complete, with their time, record by record."""
        for kind, timestamp_ms, offset, payload in decode(records):
            source_id = kind & ~GAP
            if kind & GAP:
                if self.jumps and self._received[source_id] < offset:  # what a filter left out is not missing
                    yield from self._jump(source_id, timestamp_ms, offset)
                missing, why = parse_gap(payload)
                yield from self._skip(source_id, timestamp_ms, offset + missing, why)
                continue
            had = self._received[source_id] - offset
            if had > 0:  # a stream goes on with the whole record in which the last one ended
                payload = payload[had:]
                offset += had
            elif had < 0:
                if not self.jumps:
                    yield from self._skip(source_id, timestamp_ms, offset, "it was not sent")
                yield from self._jump(source_id, timestamp_ms, offset)
            if payload:
                entries = self._lines(source_id, timestamp_ms, offset, payload)
                if entries:
                    yield timestamp_ms, entries

    def flush(self, *, ended: bool = False) -> Iterator[tuple[int, list[LogEntry]]]:
        """Give out the unfinished lines as they are. What continues them comes as an entry of its own.

        Args:
            ended: Nothing continues them, because the attempt has ended: each is a line that has no newline.
        """
        for source_id, tail in enumerate(self._tails):
            if tail:
                timestamp_ms, entries = self._tail_ms[source_id], self._take_tail(source_id)
                entries[0].origin.ended = ended
                yield timestamp_ms, entries

    def _lines(self, source_id: int, timestamp_ms: int, offset: int, payload: bytes) -> list[LogEntry]:
        tail = self._tails[source_id]
        start = offset - len(tail)
        lines = payload.split(b"\n")
        rest = lines.pop()
        self._tail_ms[source_id] = timestamp_ms
        if not lines:
            self._received[source_id] = offset + len(payload)
            tail += rest
            return self._piece(source_id)
        origin = self._origin(source_id, timestamp_ms)
        if tail:
            lines[0] = bytes(tail) + lines[0]
            tail.clear()
            self._searched[source_id] = 0
        tail += rest
        self._received[source_id] = offset + len(payload)
        ends = map(add, accumulate(map(len, lines)), range(start + 1, start + 1 + len(lines)))
        return list(map(LogEntry, lines, ends, repeat(origin)))

    def _piece(self, source_id: int) -> list[LogEntry]:
        """The beginning of an unfinished line that has become too long to be held."""
        tail = self._tails[source_id]
        if len(tail) >= MAX_HELD_LINE_BYTES:
            return self._take_tail(source_id)
        if self._gives_pieces and len(tail) > _MAX_BAR_BYTES:
            cut = tail.rfind(b"\r", max(1, self._searched[source_id]), len(tail) - 1)
            if cut > 0:
                return self._take_tail(source_id, cut)
            self._searched[source_id] = len(tail) - 1
        return []

    def _take_tail(self, source_id: int, length: int | None = None) -> list[LogEntry]:
        tail = self._tails[source_id]
        origin = self._origin(source_id, self._tail_ms[source_id], partial=True)
        with memoryview(tail) as view:  # a slice of the bytearray would be another copy of it
            data = bytes(view[:length])
        end = origin.delivered[source_id] + len(data)
        del tail[: len(data)]
        self._searched[source_id] = 0
        return [LogEntry(data, end, origin)]

    def _jump(self, source_id: int, timestamp_ms: int, offset: int) -> Iterator[tuple[int, list[LogEntry]]]:
        if self._tails[source_id]:
            yield timestamp_ms, self._take_tail(source_id)
        self._received[source_id] = offset

    def _skip(self, source_id: int, timestamp_ms: int, end: int, why: str) -> Iterator[tuple[int, list[LogEntry]]]:
        missing = end - self._received[source_id]
        if missing <= 0:
            return
        if self._tails[source_id]:
            yield timestamp_ms, self._take_tail(source_id)
        origin = self._origin(source_id, timestamp_ms, partial=True, missing=(missing, why))
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
        out, err, build = (count - len(tail) for count, tail in zip(self._received, self._tails, strict=True))
        return out, err, build


class RawReader:
    """The bytes of one attempt, from its records, where nobody needs lines.

    Args:
        position: The attempt, and from where in it.
        on_missing: Told, in words, where something is missing.
    """

    def __init__(self, position: Position, on_missing: Callable[[str], None]) -> None:
        self.jumps = False  # as a `LineReader`; here nothing depends on it
        self._attempt_id = position.attempt_id
        self._received = list(position.offsets)
        self._on_missing = on_missing

    @property
    def received(self) -> Position:
        """Up to where bytes have come."""
        out, err, build = self._received
        return Position(self._attempt_id, (out, err, build))

    @property
    def delivered(self) -> Position:
        """The same: nothing is held back."""
        return self.received

    def skip_to(self, offsets: Sequence[int]) -> None:
        """What lies before these places was left out by a filter."""
        self._received = [max(pair) for pair in zip(self._received, offsets, strict=True)]

    def read(self, records: bytes) -> Iterator[tuple[int, list[bytes]]]:
        """The payloads of records, each with its time."""
        for kind, timestamp_ms, offset, payload in decode(records):
            source_id = kind & ~GAP
            if kind & GAP:
                missing, why = parse_gap(payload)
                missing -= max(0, self._received[source_id] - offset)
                if missing > 0:
                    self._received[source_id] = max(offset, self._received[source_id]) + missing
                    self._on_missing(f"{missing:,} bytes of {SOURCES[source_id]} are missing: {why}")
                continue
            had = self._received[source_id] - offset
            if had < len(payload):
                self._received[source_id] = offset + len(payload)
                yield timestamp_ms, [payload[had:] if had > 0 else payload]

    def flush(self, *, ended: bool = False) -> Iterator[tuple[int, list[bytes]]]:
        """Nothing: it holds nothing back."""
        del ended
        return iter(())


def join_pieces(entries: Iterable[LogEntry]) -> Iterator[LogEntry]:
    """Whole lines: pieces of a long line are put together again, but not the states of a progress bar."""
    held: dict[tuple[int, str], list[LogEntry]] = {}  # by task and source: the pieces so far
    for entry in entries:
        key = (entry.task_index, entry.source)
        pieces = held.pop(key, [])
        if pieces and not _continues(pieces[-1], entry):
            yield _joined(pieces)
            pieces = []
        if entry.missing_bytes:
            yield entry
        elif entry.partial:
            held[key] = [*pieces, entry]
        else:
            yield _joined([*pieces, entry])
    yield from map(_joined, held.values())


def _continues(piece: LogEntry, entry: LogEntry) -> bool:
    return piece.attempt_id == entry.attempt_id and not entry.missing_bytes and not entry.data.startswith(b"\r")


def _joined(pieces: list[LogEntry]) -> LogEntry:
    return pieces[0] if len(pieces) == 1 else pieces[-1].with_earlier_parts(pieces[:-1])
