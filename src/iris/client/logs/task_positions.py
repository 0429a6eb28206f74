"""The positions of all tasks in a stream of several tasks, for the cursors of its entries."""

from __future__ import annotations

from collections.abc import Mapping

from iris.client.logs.log_entry import LogEntry
from iris.cluster.logs.cursor import Position

_CHANGES_PER_TABLE = 256


class TaskPositions:
    """Where a stream of several tasks is in the log of each task.

    An entry refers to a table of all positions that was made some entries before, and to the number of changes since
    then. Its cursor is computed from both only when the cursor is read, because few cursors are read.

    Args:
        positions: Where the stream starts, by task index.
    """

    def __init__(self, positions: Mapping[int, Position]) -> None:
        self._table = dict(positions)
        self._changes: list[tuple[int, Position]] = []

    def deliver(self, task_index: int, last: LogEntry) -> None:
        """Note that entries of a task are returned next. `last` is the last of these entries."""
        table, changes, count = self._table, self._changes, len(self._changes)
        last.set_other_positions(lambda: table | dict(changes[:count]))
        self.move(task_index, last.position())

    def move(self, task_index: int, position: Position) -> None:
        """Note the new position in the log of a task."""
        self._changes.append((task_index, position))
        if len(self._changes) >= _CHANGES_PER_TABLE:
            self._table = self._table | dict(self._changes)
            self._changes = []
