"""Defines a table that holds each frame of many call stacks once. A stack is a list of positions in the table. The
tasks of a gang usually run the same program, so the table stays small even if a message has the stacks of many tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from iris.cluster.stacks.size_limit import SizeLimit
from iris.rpc.cluster_pb2 import StackFrame

# The bytes that a stack frame takes in a message besides its texts: the line number, and the headers of the fields.
_FRAME_BYTES = 10


class TableFullError(Exception):
    """An error: a new frame does not fit into a table of frames, because the table has reached its largest size."""


class FrameTable:
    """The frames of all call stacks in one message.

    Args:
        most_bytes: The largest size of all frames together; None: no limit.

    Attributes:
        frames: The frames, each once, in the order in which they were added.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self.frames: list[StackFrame] = []
        self._limit = None if most_bytes is None else SizeLimit(most_bytes)
        self._positions: dict[tuple[str, str, int], int] = {}

    def add(self, function: str, file: str, line: int) -> int:
        """Return the position of a frame in the table. If the table does not contain the frame yet, add the frame.

        Raises:
            TableFullError: The frame is new, and the table is full.
        """
        key = function, file, line
        position = self._positions.get(key)
        if position is None:
            if self._limit is not None and not self._limit.admit(len(function) + len(file) + _FRAME_BYTES):
                raise TableFullError
            position = self._positions[key] = len(self.frames)
            self.frames.append(StackFrame(function=function, file=file, line=line))
        return position

    def translation(self, frames: Iterable[StackFrame]) -> list[int]:
        """Add all frames of another table to this table, and return the position of each frame in this table."""
        return [self.add(frame.function, frame.file, frame.line) for frame in frames]


def translate(positions: Sequence[int], translation: Sequence[int]) -> list[int]:
    """Translate a stack from one table of frames into another table. Positions that lie outside of the first table are
    left out.

    Args:
        positions: The positions of the stack's frames in the first table.
        translation: The position in the other table of each frame of the first table.
    """
    return [translation[position] for position in positions if 0 <= position < len(translation)]
