"""Progress bars of one task that stand below each other, as nested bars do: the task goes up to write them anew."""

from __future__ import annotations

import re

from iris.terminal.controls import ControlFilter, active_colours

# How long a bar that a newline has ended may still be gone back to. What draws nested bars goes back at once; a reader
# sees it a tenth of a second later.
SETTLES_S = 0.5
_MOST_ROWS = 16
_LONGEST_ROW = 64 * 1024
# Up and down, clear the row, hide and show the cursor.
_MOVES = re.compile(rb"\x1b\[(\d*)([ABFEK])|\x1b\[(\?25)([hl])|\n")
_BEGUN = re.compile(rb"\x1b(?:\[\??\d*)?\Z")


def goes_back(data: bytes) -> bool:
    """Return whether data moves the cursor to rows above, or hides it, as what will do so does, or may begin to."""
    if b"\x1b" not in data:
        return False
    moves = any(found[2] in (b"A", b"F") or found[4] == b"l" for found in _MOVES.finditer(data))
    return moves or _BEGUN.search(data) is not None


def is_bar(data: bytes) -> bool:
    """Return whether a line goes back to its beginning."""
    return b"\r" in data.rstrip(b"\r")


class Block:
    """The rows of a task that are not final.

    It is fed the bytes as the task wrote them, and gives the rows that nothing will change any more.

    Args:
        controls: Filters what stands in the rows.
        row: What stands in the first, filtered.
    """

    def __init__(self, controls: ControlFilter, row: bytes = b"") -> None:
        self._controls = controls
        self._rows = [row]
        self._at = 0
        self._bars: set[int] = set()
        self._is_hidden = False  # the cursor: rows are being drawn that will be drawn anew
        self._reach = 0  # how far up it has gone at once
        self._lines_since_up = 0
        self._changed_s = 0.0
        self._begun = b""  # a move whose end has not come

    @property
    def rows(self) -> list[bytes]:
        """What stands there."""
        return [last_state(row).rstrip(b"\r") for row in self._rows]

    @property
    def is_over(self) -> bool:
        """Whether nothing stands there, and nothing is known that sets it apart from ordinary lines."""
        return (
            len(self._rows) == 1 and not self._rows[0] and not self._reach and not self._begun and not self._is_hidden
        )

    def feed(self, data: bytes, now_s: float) -> list[bytes]:
        """Take what the task has written, newlines included. Return the rows that are final, in order."""
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
        """Return the rows that have become final by time alone."""
        return self._final(now_s)

    def end(self) -> list[bytes]:
        """Return all rows: nothing more comes."""
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
            self._reach = 0  # it has gone on with ordinary lines

    def _move(self, count: bytes, what: bytes, up: int) -> int:
        """Obey a sequence. Return how far up the cursor has gone at once."""
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
            count = self._at  # it rests on its first row, as tqdm does
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
    """What a terminal shows of a line that went back to its beginning, with the `\\r` at its end, if there is one."""
    at = data.rstrip(b"\r").rfind(b"\r") + 1
    return active_colours(data[:at]) + data[at:]
