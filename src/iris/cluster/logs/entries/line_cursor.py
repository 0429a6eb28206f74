"""Gives each line of a stream its cursor. `iris.cluster.logs.cursor` defines the format of a cursor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from iris.cluster.logs.cursor import Position, encode_cursor, encode_positions

_CHANGES_PER_TABLE = 256  # The number of changes after which `TaskPositions` makes a new table.


class OtherPositions:
    """The positions in the logs of the other tasks of a stream, for the cursors of the lines of one record.

    Args:
        read: A function that returns the positions by task index. It is called only when a user reads the first cursor,
            because users read few cursors.
    """

    __slots__ = ("_encoded", "_read")

    def __init__(self, read: Callable[[], Mapping[int, Position]]) -> None:
        self._read = read
        self._encoded: bytes | None = None

    def cursor(self, job_id: str, task_index: int, position: Position) -> str:
        """Return the cursor of a line, which contains the position after the line, and the positions in the other
        tasks' logs.
        """
        return encode_cursor(job_id, {task_index: position}, self.encoded())

    def encoded(self) -> bytes:
        """Return the positions in the other tasks' logs, in the binary format of a cursor."""
        if self._encoded is None:
            self._encoded = encode_positions(self._read())
        return self._encoded

    def __reduce__(self) -> tuple[type[OtherPositions], tuple[Callable[[], Mapping[int, Position]]]]:
        return OtherPositions, (dict(self._read()).copy,)  # A closure cannot be pickled.


# If a stream reads only one task, the cursors of its lines need no positions of other tasks. The cursors of all such
# streams share one empty object.
NO_OTHER_POSITIONS = OtherPositions(dict)


class TaskPositions:
    """The current position in the log of each task, for a stream that reads several tasks.

    `snapshot` returns a reference to a table of all positions, and the number of changes since the table was made. A
    cursor is computed from the table and the changes when a user reads the cursor.

    Args:
        positions: The positions at which the stream starts, by task index.
    """

    def __init__(self, positions: Mapping[int, Position]) -> None:
        self._table = dict(positions)
        self._changes: list[tuple[int, Position]] = []

    def snapshot(self) -> OtherPositions:
        """Return the current positions. Later changes do not affect the returned positions."""
        table, changes, count = self._table, self._changes, len(self._changes)
        return OtherPositions(lambda: table | dict(changes[:count]))

    def current(self) -> dict[int, Position]:
        """Return the position in the log of each task, by task index."""
        return self._table | dict(self._changes)

    def move(self, task_index: int, position: Position) -> None:
        """Note the new position in the log of a task."""
        self._changes.append((task_index, position))
        if len(self._changes) >= _CHANGES_PER_TABLE:
            self._table = self._table | dict(self._changes)
            self._changes = []
