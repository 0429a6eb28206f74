"""Keeps unfinished lines and a status line in the bottom rows of a terminal while lines are written above them."""

from __future__ import annotations

import os

from iris.terminal.lines import Lines
from iris.terminal.outlet import DIM, Outlet
from iris.terminal.width import cut_row

_MOST_ROWS = 8
# The control sequences that turn the wrapping of long lines off and on. With wrapping off, a row occupies one row even
# if its computed width is wrong.
NO_WRAP, WRAP = b"\x1b[?7l", b"\x1b[?7h"


class Screen:
    """Writes to stdout and stderr, and draws rows at the bottom of the terminal. Stdout and stderr may be the same
    terminal. Only one thread at a time may use a `Screen`.

    Args:
        stdout: The outlet for the stdout of tasks.
        stderr: The outlet for the status line, and for the stderr of tasks if stdout and stderr are separate.

    Attributes:
        stdout: The outlet for the stdout of tasks.
        stderr: The outlet for the stderr of tasks.
        lines: The unfinished lines of tasks on stdout.
        lines_apart: The unfinished lines on stderr. If stdout and stderr have the same place, this is the same object
            as `lines`.
        status: The text of the status line. Empty if there is none.
    """

    def __init__(self, stdout: Outlet, stderr: Outlet) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.lines = Lines(stdout.is_terminal)
        self.lines_apart = self.lines if stdout.place == stderr.place else Lines(stderr.is_terminal)
        self.status = ""
        # The rows on the terminal.
        self._rows: list[bytes] = []
        # The width of each drawn row, in columns.
        self._widths: list[int] = []
        # The width of the terminal when the rows were last drawn.
        self._columns = 0

    def emit(self, outlet: Outlet, data: bytes, status: str = "") -> None:
        """Write data above the rows and redraw the rows, in one write if possible.

        Args:
            outlet: The outlet to write to: `stdout` or `stderr`.
            data: The data to write.
            status: The new text of the status line.
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
        """Write progress bars that have become final. Redraw the rows if the rows or the size of the terminal have
        changed.
        """
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
        """Return the sequence that erases the rows and leaves the cursor where the first row began."""
        if not self._rows:
            return b""
        columns = self._terminal.size().columns
        if columns < self._columns and _rewraps_lines():
            up = sum(max(1, -(-width // columns)) for width in self._widths) - 1
        else:
            up = len(self._rows) - 1
        return b"\r" + (b"\x1b[%dA" % up if up else b"") + b"\x1b[J"

    def _draw(self) -> bytes:
        self._rows, self._widths = self._wanted_rows()
        if not self._rows:
            return b""
        self._columns = self._terminal.size().columns
        return NO_WRAP + b"\n".join(self._rows) + WRAP

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


def _rewraps_lines() -> bool:
    """Return whether the terminal rewraps long lines when its window becomes narrower.

    Most terminals rewrap long lines when the window becomes narrower. xterm, the Linux console, and screen cut long
    lines instead.
    """
    kind = os.environ.get("TERM", "")
    return not (
        os.environ.get("XTERM_VERSION")
        or kind.startswith("linux")
        or (kind.startswith("screen") and "STY" in os.environ)
    )
