"""Defines `LogEntry`: a line, a partial line or a gap of a log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iris.cluster.logs.cursor import Position, encode_cursors
from iris.cluster.logs.entries.line_cursor import NO_OTHER_POSITIONS, OtherPositions
from iris.cluster.logs.records import SOURCES, Offsets, Source
from iris.counts import counted, word_for


class EntryOrigin:
    """The facts that all entries made from one record share. `LogEntry` computes its properties from these facts.

    Args:
        job_id: The id of the job.
        task_index: The index of the task within the job.
        attempt_id: The id of the attempt within the task.
        source_id: The index of the source in `SOURCES`.
        timestamp_ms: When the record was captured, in milliseconds since the Unix epoch.
        delivered: The number of bytes of each source that earlier entries contain.
        partial: Whether the entry is a gap, or a part of a line that has not ended.
        missing: For a gap, the number of missing bytes and the cause. Otherwise `(0, "")`.

    Attributes:
        ended: Whether the attempt has ended, so that no later entry can continue a partial line.
        others: The positions in the logs of the other tasks, if the stream reads several tasks.
    """

    __slots__ = (
        "attempt_id",
        "delivered",
        "ended",
        "job_id",
        "missing",
        "others",
        "partial",
        "source_id",
        "task_index",
        "timestamp_ms",
    )

    def __init__(
        self,
        job_id: str,
        task_index: int,
        attempt_id: int,
        source_id: int,
        timestamp_ms: int,
        delivered: Offsets,
        *,
        partial: bool = False,
        missing: tuple[int, str] = (0, ""),
    ) -> None:
        self.job_id = job_id
        self.task_index = task_index
        self.attempt_id = attempt_id
        self.source_id = source_id
        self.timestamp_ms = timestamp_ms
        self.delivered = delivered
        self.partial = partial
        self.missing = missing
        self.ended = False
        self.others: OtherPositions = NO_OTHER_POSITIONS


class LogEntry:
    """An entry of a task's log: a line, a partial line or a gap.

    `data` holds the exact bytes of the line, without the newline. All other properties are computed when they are read,
    because reading a log creates millions of entries.
    """

    __slots__ = ("_end", "_origin", "data")

    def __init__(self, data: bytes, end: int, origin: EntryOrigin) -> None:
        self.data = data
        self._end = end  # The offset in the source at which the next entry starts.
        self._origin = origin

    @property
    def source(self) -> Source:
        """The source of the line: `stdout`, `stderr` or `build`."""
        return SOURCES[self._origin.source_id]

    @property
    def message(self) -> str:
        """The line as text. Each byte that is not valid UTF-8 becomes U+FFFD. For a gap, a description of the gap."""
        if self._origin.missing[0]:
            return f"[iris: {self._describe_gap()}]"
        return self.data.decode(errors="replace")

    @property
    def gap_notice(self) -> str:
        """A description of the gap that also names the task, for a message to the user."""
        return f"task {self.task_index}: {self._describe_gap()}"

    @property
    def timestamp_ms(self) -> int:
        """When the end of the line was captured, in milliseconds since the Unix epoch."""
        return self._origin.timestamp_ms

    @property
    def job_id(self) -> str:
        """The id of the job whose task wrote the line."""
        return self._origin.job_id

    @property
    def task_index(self) -> int:
        """The index of the task that wrote the line."""
        return self._origin.task_index

    @property
    def attempt_id(self) -> int:
        """The id of the attempt that wrote the line. Attempt ids count from 0."""
        return self._origin.attempt_id

    @property
    def partial(self) -> bool:
        """Whether this entry is a gap, or a line without its newline.

        A partial line is the last line of its attempt, or is followed by a gap or by an entry with the rest of the
        line. An entry with the rest of a line can follow in three situations: the line is longer than 64 MiB,
        `LogStream.flush` was called, or the stream was opened with `partial=True`.
        """
        return self._origin.partial

    @property
    def missing_bytes(self) -> int:
        """The size of the gap in bytes, if this entry is a gap. 0 for a line. `message` names the cause of a gap."""
        return self._origin.missing[0]

    @property
    def cursor(self) -> str:
        """A short text that marks the place after this entry in the log. Any program can pass this text as `cursor` to
        continue reading after this entry."""
        origin = self._origin
        return origin.others.cursor(origin.job_id, origin.task_index, self.position())

    def position(self, *, before: bool = False) -> Position:
        """Return the position after this entry in the log of its task. With `before`, return the position before this
        entry.
        """
        origin = self._origin
        length = origin.missing[0] or len(self.data) + (not origin.partial)
        end = self._end - (length if before else 0)
        out, err, build = (end if i == origin.source_id else count for i, count in enumerate(origin.delivered))
        return Position(origin.attempt_id, (out, err, build))

    @property
    def origin(self) -> EntryOrigin:
        """The properties that all entries of the same record share."""
        return self._origin

    def set_other_positions(self, others: OtherPositions) -> None:
        """Set the positions in the logs of the stream's other tasks. The cursors of all entries of the same record
        contain these positions.
        """
        self._origin.others = others

    def with_earlier_parts(self, parts: Sequence[LogEntry]) -> LogEntry:
        """Return an entry with the whole line. `parts` are the earlier parts of the line, and this entry is the last
        part.
        """
        return LogEntry(b"".join([*(part.data for part in parts), self.data]), self._end, self._origin)

    def _describe_gap(self) -> str:
        count, cause = self._origin.missing
        return f"{counted(count, 'byte')} of {self.source} {word_for(count, 'is', 'are')} missing here: {cause}"

    def _key(self) -> tuple[object, ...]:
        origin = self._origin
        return (
            origin.job_id,
            origin.task_index,
            origin.attempt_id,
            origin.source_id,
            self._end,
            self.data,
            origin.partial,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogEntry) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return (
            f"LogEntry(task_index={self.task_index}, attempt_id={self.attempt_id}, source={self.source!r},"
            f" timestamp_ms={self.timestamp_ms}, message={self.message!r})"
        )


def cursors(entries: Sequence[LogEntry]) -> Iterator[str]:
    """Yield `LogEntry.cursor` of each entry. For many entries, this function is faster than the property.

    Args:
        entries: Entries that were made from one record.
    """
    origin = entries[0].origin
    return encode_cursors(
        origin.job_id,
        origin.task_index,
        Position(origin.attempt_id, origin.delivered),
        origin.source_id,
        [entry._end for entry in entries],
        origin.others.encoded(),
    )
