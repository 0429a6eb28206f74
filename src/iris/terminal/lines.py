"""Interleaves the lines of several tasks on one output, including prompts and progress bars that have no newline yet.

A *prefix* is a label or a time before each line. Comments in this module refer to the following rules by number:
1. Without a prefix, the bytes of a task are written unchanged as they arrive. Therefore a prompt appears at once, a
   progress bar moves, and a pipe receives exactly what the task wrote.
2. Nothing is appended to another line's unfinished text. A line of another task, attempt, or source, or a message of
   Iris, starts on a new line. Without a prefix, the rest of the interrupted line starts on a new line, too.
3. With a prefix, the rest of an interrupted line starts with the prefix again and `…` instead of a space.
4. With a prefix on a terminal, unfinished lines stay in rows below all other lines until they are finished. If a line
   has carriage returns, only the text after the last carriage return is shown. Nested progress bars stay in rows until
   their task writes below them (block.py).
5. With a prefix in a pipe or file, a line with carriage returns is held back until it is finished, because its states
   would otherwise be torn apart. If the line exceeds 64 KiB, a part of the line is written earlier.
6. When a task ends, its unfinished line is ended with a newline, except in a pipe or file without a prefix.
7. With a prefix, control sequences are removed (controls.py), because the task shares the screen with others. Colours
   are kept and reset at the end of each line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from iris.terminal.block import Block, goes_back, is_bar, last_state
from iris.terminal.controls import RESET, ControlFilter, active_colours, is_harmless

_LONGEST_HELD = 64 * 1024
_SPACE, _CONTINUED = b" ", "…".encode()


class Entry(Protocol):
    """A line of a task, or a piece of an unfinished line."""

    @property
    def data(self) -> bytes:
        """The bytes of the line without the newline."""

    @property
    def task_index(self) -> int:
        """The index of the task."""

    @property
    def attempt_id(self) -> int:
        """The number of the attempt."""

    @property
    def source(self) -> str:
        """The stream: `stdout`, `stderr`, or `build`."""

    @property
    def partial(self) -> bool:
        """Whether the entry is a piece of a line, without the newline at the end."""


class _Line(NamedTuple):
    """The origin of a line: the task, the attempt, and the stream (stdout or stderr)."""

    task_index: int
    attempt_id: int
    source: str


class Lines:
    """Arranges the lines of tasks on one output. The methods return the bytes to write to the output.

    Args:
        is_terminal: Whether the output is a terminal.
        clock: A function that returns the time of a monotonic clock in seconds.
    """

    def __init__(self, is_terminal: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The nested progress bars on a terminal: for each stream of a task, the prefix of its lines and the rows of its
        # bars.
        self._blocks: dict[_Line, tuple[bytes, Block]] = {}
        self._is_terminal = is_terminal
        # The task and the stream whose unfinished line is at the end of the output. None if the output ends with a
        # complete line.
        self._open: _Line | None = None
        self._open_has_prefix = False
        # The unfinished lines of which a part was written before another line interrupted them.
        self._broken: set[_Line] = set()
        # For each unfinished line that is held back: its prefix and its data.
        self._held: dict[_Line, tuple[bytes, bytes]] = {}
        # The filters of control sequences. A stream gets a filter when its first control sequence arrives.
        self._filters: dict[_Line, ControlFilter] = {}

    def add(self, entries: Sequence[Entry], prefix: bytes) -> bytes:
        """Return the bytes for lines of one task, attempt, and source.

        Args:
            entries: Finished lines, or exactly one piece of an unfinished line.
            prefix: The prefix of each line, without a space at its end. May be empty.
        """
        first = entries[0]
        line = _Line(first.task_index, first.attempt_id, first.source)
        data = [entry.data for entry in entries]
        if not prefix:
            begin = b"" if self._open in (None, line) else b"\n"  # rule 2
            self._set_open(line if first.partial else None, prefix)
            return begin + b"\n".join(data) + (b"" if first.partial else b"\n")
        ended = self._end_earlier_attempt(line) if self._held or self._blocks else b""
        if self._is_terminal and self._draws_bars(line, data, is_finished=not first.partial):
            return ended + self._add_to_block(line, data, prefix, is_finished=not first.partial)
        data = self._without_controls(line, data, is_finished=not first.partial)
        if line in self._held:
            data[0] = self._held.pop(line)[1] + data[0]
        if first.partial:
            return ended + self._unfinished(line, data[0], prefix)
        if self._is_terminal:
            data = [last_state(text).rstrip(b"\r") if b"\r" in text else text for text in data]
        begin = self._begin(line, prefix)
        self._broken.discard(line)
        self._open = None
        return ended + begin + (b"\n" + prefix + _SPACE).join(data) + b"\n"

    def interrupt(self) -> bytes:
        """Return the bytes to write before other text: a newline if an unfinished line is open (rule 2)."""
        if self._open is None:
            return b""
        if self._open_has_prefix:
            self._broken.add(self._open)
        self._open = None
        return b"\n"

    def end(self, task_index: int | None = None) -> bytes:
        """Return the bytes that end the unfinished lines of a task, or of all tasks (rule 6)."""
        over = [line for line in sorted([*self._held, *self._blocks]) if task_index in (None, line.task_index)]
        written = b"".join([self._write_held(line) for line in over])
        if self._open is None or task_index not in (None, self._open.task_index):
            return written
        if self._open_has_prefix or self._is_terminal:
            written += b"\n"
            self._open = None
        elif task_index is None:
            self._open = None
        return written

    def rows(self) -> list[bytes]:
        """Return the unfinished rows. A terminal shows these rows below all finished lines (rule 4)."""
        if not self._is_terminal:
            return []
        rows = {line: (prefix, [last_state(data).rstrip(b"\r")]) for line, (prefix, data) in self._held.items()}
        rows |= {line: (prefix, block.rows) for line, (prefix, block) in self._blocks.items()}
        states = [(prefix, state) for _, (prefix, several) in sorted(rows.items()) for state in several]
        return [prefix + _SPACE + _colours_ended(state) for prefix, state in states if state.strip()]

    def settle(self) -> bytes:
        """Return the bytes for progress bars that became final because their tasks have stopped redrawing them."""
        if not self._blocks:
            return b""
        now_s = self._clock()
        return b"".join(
            [self._write_final(line, block.settle(now_s)) for line, (_, block) in list(self._blocks.items())]
        )

    def _draws_bars(self, line: _Line, data: list[bytes], *, is_finished: bool) -> bool:
        """Return whether the data belongs to progress bars, or comes after progress bars that may be redrawn."""
        if line in self._blocks:
            return True
        held = self._held.get(line, (b"", b""))[1]
        return is_bar(held + data[-1]) or goes_back(b"\n".join(data) + b"\n" * is_finished)

    def _add_to_block(self, line: _Line, data: list[bytes], prefix: bytes, *, is_finished: bool) -> bytes:
        if line not in self._blocks:
            controls = self._filters.setdefault(line, ControlFilter())
            self._blocks[line] = (prefix, Block(controls, self._held.pop(line, (b"", b""))[1]))
        block = self._blocks[line][1]
        return self._write_final(line, block.feed(b"\n".join(data) + b"\n" * is_finished, self._clock()))

    def _write_final(self, line: _Line, final: list[bytes]) -> bytes:
        """Return the bytes that print the given rows of progress bars, which are final, as ordinary lines."""
        prefix, block = self._blocks[line]
        if block.is_over:
            del self._blocks[line]
        begin = self.interrupt() if final else b""
        return begin + b"".join([prefix + _SPACE + _colours_ended(row) + b"\n" for row in final])

    def _without_controls(self, line: _Line, data: list[bytes], *, is_finished: bool) -> list[bytes]:
        """Return lines, or a piece of a line, without control sequences (rule 7)."""
        known = self._filters.get(line)
        if known is None and is_harmless(b"\n".join(data)):
            return data
        if known is None:
            known = self._filters[line] = ControlFilter()
        return [known.filter(text, ends_line=is_finished) for text in data]

    def _unfinished(self, line: _Line, data: bytes, prefix: bytes) -> bytes:
        if self._is_terminal:
            data = last_state(data)
        if len(data) < _LONGEST_HELD and (self._is_terminal or is_bar(data)):  # rules 4 and 5
            self._held[line] = (prefix, data)
            return b""
        begin = self._begin(line, prefix)
        self._set_open(line, prefix)
        # On a terminal, an unfinished line gets a newline here, because other rows are drawn below it.
        return begin + _colours_ended(data) + (self.interrupt() if self._is_terminal else b"")

    def _begin(self, line: _Line, prefix: bytes) -> bytes:
        if self._open == line:
            return b""
        return self.interrupt() + prefix + (_CONTINUED if line in self._broken else _SPACE)  # rule 3

    def _end_earlier_attempt(self, line: _Line) -> bytes:
        known = [*self._held, *self._blocks]
        over = [held for held in known if held.task_index == line.task_index and held.attempt_id < line.attempt_id]
        return b"".join([self._write_held(held) for held in sorted(over)])

    def _write_held(self, line: _Line) -> bytes:
        if line in self._blocks:
            written = self._write_final(line, self._blocks[line][1].end())
            self._blocks.pop(line, None)
            return written
        prefix, data = self._held.pop(line)
        if self._is_terminal:
            data = data.rstrip(b"\r")
            if not data.strip():
                return b""  # Nothing is written, because the task has erased its progress bar.
        begin = self._begin(line, prefix)
        self._open = None
        self._broken.discard(line)
        return begin + _colours_ended(data) + b"\n"

    def _set_open(self, line: _Line | None, prefix: bytes) -> None:
        self._open = line
        self._open_has_prefix = bool(prefix)


def _colours_ended(data: bytes) -> bytes:
    return data + RESET if active_colours(data) else data
