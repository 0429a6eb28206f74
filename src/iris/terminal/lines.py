"""Lines of tasks as people see them, and what becomes of a line that has no end yet.

A task may write a prompt, or draw a progress bar, and others write in between. The rule, whose numbers stand where it
is kept; a *prefix* is a label or a time before each line:

1. Without a prefix the bytes are the task's own, as they come: nothing is added to an unfinished line, and what
   continues it follows. So a prompt shows, a bar moves, and a pipe gets exactly what was written.
2. Nothing is glued to an unfinished line. Whatever else goes to the same terminal, pipe or file (a line of another
   task, attempt or source, a word of ours) begins on a line of its own. So does then, without a prefix, what continues
   it.
3. With a prefix, what continues a line after others have come in between begins with the prefix again, and `…` in the
   place of the space that follows it.
4. With a prefix on a terminal nothing of that is needed: unfinished lines stand in rows below all others until they
   are finished, and are lines like others then. Of a line that goes back to its beginning (`\\r`) the last state is
   shown. Bars below each other are rows until their task goes on below them (`block.py`).
5. With a prefix in a pipe or a file such a line, a progress bar, is held until it is finished; else its states would
   be cut apart. Only what would be held of it beyond 64 KiB is written before.
6. At the end an unfinished line is ended, except in a pipe or file without a prefix.
7. With a prefix, what steers a terminal is left out of the bytes (`controls.py`), because a task shares the screen with
   others. Colours stay, and end with their line.
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
    """A line of a task, or a piece of one."""

    @property
    def data(self) -> bytes:
        """Its bytes, without the newline."""

    @property
    def task_index(self) -> int:
        """The task."""

    @property
    def attempt_id(self) -> int:
        """The attempt of the task."""

    @property
    def source(self) -> str:
        """`stdout`, `stderr` or `build`."""

    @property
    def partial(self) -> bool:
        """No newline ends it."""


class _Line(NamedTuple):
    """Whose line it is."""

    task_index: int
    attempt_id: int
    source: str


class Lines:
    """What is written by tasks to one place. Answers with the bytes that are to be written there.

    Args:
        is_terminal: Whether the place is one.
        clock: Seconds that only grow.
    """

    def __init__(self, is_terminal: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._blocks: dict[_Line, tuple[bytes, Block]] = {}  # prefix and rows of those that draw bars, on a terminal
        self._is_terminal = is_terminal
        self._open: _Line | None = None  # the last that was written to the place is a part of it
        self._open_has_prefix = False
        self._broken: set[_Line] = set()  # unfinished lines of which a part was written, with others after it
        self._held: dict[_Line, tuple[bytes, bytes]] = {}  # prefix and data of unfinished lines that were not written
        self._filters: dict[_Line, ControlFilter] = {}  # of those that have written more than plain text

    def add(self, entries: Sequence[Entry], prefix: bytes) -> bytes:
        """Lines of one task, attempt and source, all of them finished, or one that is not.

        Args:
            entries: At least one.
            prefix: What stands before each, without the space that follows it; may be empty.
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
        """Something else comes: what is to be written before it (rule 2)."""
        if self._open is None:
            return b""
        if self._open_has_prefix:
            self._broken.add(self._open)
        self._open = None
        return b"\n"

    def end(self, task_index: int | None = None) -> bytes:
        """Nothing more comes of a task, or of any (rule 6)."""
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
        """What is to be seen below all lines for now (rule 4)."""
        if not self._is_terminal:
            return []
        rows = {line: (prefix, [last_state(data).rstrip(b"\r")]) for line, (prefix, data) in self._held.items()}
        rows |= {line: (prefix, block.rows) for line, (prefix, block) in self._blocks.items()}
        states = [(prefix, state) for _, (prefix, several) in sorted(rows.items()) for state in several]
        return [prefix + _SPACE + _colours_ended(state) for prefix, state in states if state.strip()]

    def settle(self) -> bytes:
        """Bars that have ended, and that their tasks do not go back to any more, as lines like others."""
        if not self._blocks:
            return b""
        now_s = self._clock()
        return b"".join(
            [self._write_final(line, block.settle(now_s)) for line, (_, block) in list(self._blocks.items())]
        )

    def _draws_bars(self, line: _Line, data: list[bytes], *, is_finished: bool) -> bool:
        """Whether lines, or a piece of one, are or follow bars that the task may go back to."""
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
        """Rows of a block that are lines like others now."""
        prefix, block = self._blocks[line]
        if block.is_over:
            del self._blocks[line]
        begin = self.interrupt() if final else b""
        return begin + b"".join([prefix + _SPACE + _colours_ended(row) + b"\n" for row in final])

    def _without_controls(self, line: _Line, data: list[bytes], *, is_finished: bool) -> list[bytes]:
        """What is shown of lines, or of a piece of one (rule 7)."""
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
        # On a terminal there are the rows below, so it cannot stay open.
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
                return b""  # a bar that was wiped out
        begin = self._begin(line, prefix)
        self._open = None
        self._broken.discard(line)
        return begin + _colours_ended(data) + b"\n"

    def _set_open(self, line: _Line | None, prefix: bytes) -> None:
        self._open = line
        self._open_has_prefix = bool(prefix)


def _colours_ended(data: bytes) -> bytes:
    return data + RESET if active_colours(data) else data
