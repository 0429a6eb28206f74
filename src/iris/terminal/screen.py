"""Rows that stand below all else on a terminal, such as unfinished lines, while lines are written above them."""

from __future__ import annotations

import os

from iris.terminal.lines import Lines
from iris.terminal.outlet import DIM, Outlet
from iris.terminal.width import cut_row

_MOST_ROWS = 8
# The cursor stays in a row whose width we and the terminal do not agree on.
_NO_WRAP, _WRAP = b"\x1b[?7l", b"\x1b[?7h"


class Screen:
    """stdout and stderr, which may be the same terminal, and the rows that stand there.

    Not safe to use from several threads at once.

    Args:
        stdout: Where lines of tasks go.
        stderr: Where they go apart from those, and where the status line stands.

    Attributes:
        lines: What becomes of lines of tasks on stdout.
        lines_apart: The same on stderr; the same object where both lead to the same place.
    """

    def __init__(self, stdout: Outlet, stderr: Outlet) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.lines = Lines(stdout.is_terminal)
        self.lines_apart = self.lines if stdout.place == stderr.place else Lines(stderr.is_terminal)
        self.status = ""
        self._rows: list[bytes] = []  # as they were drawn
        self._widths: list[int] = []  # of these, in columns
        self._columns = 0  # of the terminal when they were drawn

    def emit(self, outlet: Outlet, data: bytes, status: str = "") -> None:
        """Write above the rows, and draw them again; in one write where that can be.

        Args:
            outlet: stdout or stderr.
            data: What to write.
            status: What stands in the status line from now on.
        """
        self.status = status
        erase = self._erase()
        draw = self._draw()
        if outlet.is_terminal:
            outlet.write(erase + data + draw)
            return
        if erase:
            self._terminal.write(erase)
        outlet.write(data)
        if draw:
            self._terminal.write(draw)

    def refresh(self) -> None:
        """Draw the rows again where they have changed, or the terminal has, and write bars that have settled."""
        settled = self.lines.settle()
        apart = b"" if self.lines_apart is self.lines else self.lines_apart.settle()
        if settled:
            self.emit(self.stdout, settled)
        if apart:
            self.emit(self.stderr, apart)
        if self._rows != self._wanted_rows()[0]:
            self.emit(self.stdout, b"")

    @property
    def _terminal(self) -> Outlet:
        return self.stdout if self.stdout.is_terminal else self.stderr

    def _erase(self) -> bytes:
        """What removes the rows that stand there, and leaves the cursor where the first began."""
        if not self._rows:
            return b""
        columns = self._terminal.size().columns
        if columns < self._columns and _is_wrapped_anew():
            up = sum(max(1, -(-width // columns)) for width in self._widths) - 1
        else:
            up = len(self._rows) - 1
        return b"\r" + (b"\x1b[%dA" % up if up else b"") + b"\x1b[J"

    def _draw(self) -> bytes:
        self._rows, self._widths = self._wanted_rows()
        if not self._rows:
            return b""
        self._columns = self._terminal.size().columns
        return _NO_WRAP + b"\n".join(self._rows) + _WRAP

    def _wanted_rows(self) -> tuple[list[bytes], list[int]]:
        rows = self.lines.rows()
        if self.lines_apart is not self.lines:
            rows += self.lines_apart.rows()
        if not rows and not self.status:
            return [], []
        size = self._terminal.size()
        most = max(1, min(_MOST_ROWS, size.lines // 2))
        if len(rows) > most:
            rows[most - 1 :] = [self._terminal.encode(f"… and {len(rows) - most + 1} more unfinished lines")]
        if self.status:
            rows.append(self.stderr.encode(self.stderr.paint(f"iris: {self.status}", DIM)))
        cut = [cut_row(row, size.columns) for row in rows]
        return [row for row, _ in cut], [width for _, width in cut]


def _is_wrapped_anew() -> bool:
    """Return whether the terminal breaks long lines anew when it becomes narrower. Most do; these cut them instead."""
    kind = os.environ.get("TERM", "")
    return not (
        os.environ.get("XTERM_VERSION")
        or kind.startswith("linux")
        or (kind.startswith("screen") and "STY" in os.environ)
    )
