"""Interprets nested progress bars of one task. Nested bars occupy several rows, and the task moves the cursor up to
redraw a row.
"""

from __future__ import annotations

import re

from iris.terminal.controls import ControlFilter, active_colours

# After a newline has ended a progress bar, the bar may still be redrawn for this many seconds. A program with nested
# bars writes a newline and then moves the cursor back up, but the move may arrive about 0.1 s after the newline.
SETTLES_S = 0.5
_MOST_ROWS = 16
_LONGEST_ROW = 64 * 1024
# Control sequences that move the cursor up and down, clear the row, and hide and show the cursor.
_MOVES = re.compile(rb"\x1b\[(\d*)([ABFEK])|\x1b\[(\?25)([hl])|\n")
_BEGUN = re.compile(rb"\x1b(?:\[\??\d*)?\Z")


def goes_back(data: bytes) -> bool:
    """Return whether data moves the cursor up or hides the cursor, or ends with the beginning of such a control
    sequence. Programs hide the cursor before they redraw rows.
    """
    if b"\x1b" not in data:
        return False
    moves = any(found[2] in (b"A", b"F") or found[4] == b"l" for found in _MOVES.finditer(data))
    return moves or _BEGUN.search(data) is not None


def is_bar(data: bytes) -> bool:
    """Return whether a line contains text after a carriage return, as the lines of progress bars do."""
    return b"\r" in data.rstrip(b"\r")


class Block:
    """The progress bars of one task, as rows that the task may still redraw. Pass the bytes that the task writes to
    `feed`. `feed` returns the rows that the task can no longer change.

    Args:
        controls: The filter that removes control sequences from the text of the rows.
        row: The filtered text of the first row.
    """

    def __init__(self, controls: ControlFilter, row: bytes = b"") -> None:
        self._controls = controls
        self._rows = [row]
        self._at = 0
        self._bars: set[int] = set()
        # Whether the task has hidden the cursor. Programs hide the cursor while they redraw rows.
        self._is_hidden = False
        self._reach = 0  # The largest number of rows by which the task has moved the cursor up.
        self._lines_since_up = 0
        self._changed_s = 0.0
        self._begun = b""  # The beginning of a control sequence whose end has not arrived yet.

    @property
    def rows(self) -> list[bytes]:
        """The present text of all rows."""
        return [last_state(row).rstrip(b"\r") for row in self._rows]

    @property
    def is_over(self) -> bool:
        """Whether the block has no progress bars any more, because the task writes ordinary lines again."""
        return (
            len(self._rows) == 1 and not self._rows[0] and not self._reach and not self._begun and not self._is_hidden
        )

    def feed(self, data: bytes, now_s: float) -> list[bytes]:
        """Apply bytes that the task has written, including newlines, and return the rows that are now final.

        Args:
            data: The bytes that the task has written.
            now_s: The time in seconds on a monotonic clock.
        """
        data = self._begun + data
        begun = _BEGUN.search(data)
        self._begun = begun.group() if begun else b""
        data = data[: len(data) - len(self._begun)]
        self._changed_s = now_s
        start = up = 0
        for found in _MOVES.finditer(data):
            if found.start() > start:
                up = 0
                self._write(data[start : found.start()])
            start = found.end()
            if found[0] == b"\n":
                up = 0
                self._next_row()
            elif found[4]:
                self._is_hidden = found[4] == b"l"
                self._reach = 0
            else:
                up = self._move(found[1], found[2], up)
        self._write(data[start:])
        return self._final(now_s)

    def settle(self, now_s: float) -> list[bytes]:
        """Return the rows that the task has not changed for `SETTLES_S` seconds. These rows are final."""
        return self._final(now_s)

    def end(self) -> list[bytes]:
        """Return all remaining rows, because the task writes nothing more."""
        rows, self._rows, self._at = self.rows, [b""], 0
        while rows and not rows[-1].strip():
            rows.pop()
        return rows

    def _write(self, data: bytes) -> None:
        if not data:
            return
        row = self._rows[self._at] + self._controls.filter(data, ends_line=False)
        if is_bar(row):
            self._bars.add(self._at)
            row = last_state(row)
        self._rows[self._at] = row[-_LONGEST_ROW:]

    def _next_row(self) -> None:
        self._rows[self._at] += self._controls.filter(b"", ends_line=True)
        self._at += 1
        self._lines_since_up += 1
        if self._at == len(self._rows):
            self._rows.append(b"")
        if self._lines_since_up > self._reach + 2:
            self._reach = 0  # The task now writes ordinary lines instead of progress bars, so the block ends.

    def _move(self, count: bytes, what: bytes, up: int) -> int:
        """Apply a control sequence, and return the number of rows by which consecutive moves have moved the cursor up.

        Args:
            count: The number in the control sequence, or no bytes if the sequence has no number.
            what: The letter of the control sequence.
            up: The number of rows by which the moves before this control sequence have moved the cursor up.
        """
        if what == b"K":
            if count in (b"1", b"2") or self._rows[self._at].endswith(b"\r"):
                self._rows[self._at] = b""
            return up
        distance = max(1, int(count or 1))
        if what in b"BE":
            self._at = min(len(self._rows) - 1, self._at + distance)
            return 0
        up += min(distance, _MOST_ROWS)
        self._reach = max(self._reach, up)
        self._lines_since_up = 0
        self._at = max(0, self._at - distance)
        return up

    def _final(self, now_s: float) -> list[bytes]:
        if self._is_hidden:
            count = 0
        elif self._at < len(self._rows) - 1:
            # The rows above the cursor are final, because a program that still draws bars, such as tqdm, leaves the
            # cursor on its first bar.
            count = self._at
        elif self._reach:
            count = self._at - self._reach
        else:
            may_change = self._at - 1 in self._bars and now_s - self._changed_s < SETTLES_S
            count = self._at - may_change
        count = max(0, count, len(self._rows) - _MOST_ROWS)
        final = self.rows[:count]
        del self._rows[:count]
        self._at = max(0, self._at - count)
        self._bars = {row - count for row in self._bars if row >= count}
        return final


def last_state(data: bytes) -> bytes:
    """Return what a terminal shows of a line with carriage returns: the text after the last carriage return. The result
    keeps a carriage return at the end of the line.
    """
    at = data.rstrip(b"\r").rfind(b"\r") + 1
    return active_colours(data[:at]) + data[at:]
