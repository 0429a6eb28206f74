"""Shows the progress of running work: as lines at the bottom of a terminal, in a notebook, or as lines of a log.

    with show_progress(None, Progress("job train", total=4)) as shown:
        for status in statuses:
            shown.update(Progress("job train", total=4, done=status.tasks_succeeded))
        shown.finish("job train: SUCCEEDED")

The methods `update` and `finish` of a `Display` may be called from any thread, and take about a microsecond. One thread
draws all displays of the process: at most ten times a second after changes, and once a second for the elapsed time. The
thread ends when the last display ends. Work that ends within half a second shows no progress.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from iris.arguments import check_flag, refuse
from iris.display.notebook import Cell, Html, is_notebook
from iris.display.progress import Progress, facts_of, progress_html, progress_line
from iris.display.table import escaped
from iris.errors import visible
from iris.terminal.notices import print_notice
from iris.terminal.outlet import Outlet, OutputClosedError
from iris.terminal.width import cut_row

Kind = Literal["terminal", "notebook", "lines"]

# Work that takes less than this number of seconds is not shown.
QUIET_S = 0.5
# The shortest time in seconds between two drawings of the progress.
_PAUSE_S = 0.1
# The longest time in seconds between two drawings. The elapsed time is shown in seconds, so a drawing each second is
# enough.
_TICK_S = 1.0
# The shortest time in seconds between two printed lines that differ only in numbers.
_LINES_S = 10.0
_MOST_ROWS = 8
_NO_WRAP, _WRAP = b"\x1b[?7l", b"\x1b[?7h"


def show_progress(wanted: bool | None, first: Progress, *, quiet_s: float = QUIET_S) -> Display:
    """Return a display of progress, to be used in a `with` block.

    Args:
        wanted: True: show the progress in any case. If stderr is not a terminal, lines are printed there, at most one
            every ten seconds while the state stays the same. False: show nothing. None: show the progress if stderr is
            a terminal, or in a notebook.
        first: The amount of work that is done at the beginning.
        quiet_s: The time in seconds before the progress is shown.

    Raises:
        InvalidArgumentError: `wanted` is neither True, False nor None.
    """
    return Display(progress_kind(wanted), first, quiet_s)


def check_progress(wanted: object, name: str = "progress") -> bool | None:
    """Check that the argument `progress` is True, False or None, and return it.

    Raises:
        InvalidArgumentError: The argument is neither True, False nor None.
    """
    if wanted is None:
        return None
    if not isinstance(wanted, bool) and type(wanted).__module__ != "numpy":
        refuse(name, "True, False, or None for True on a terminal and in a notebook", wanted)
    return check_flag(name, wanted)


def progress_kind(wanted: bool | None) -> Kind | None:
    """Return how this program shows progress: in a terminal, in a notebook, or as lines of text. Return None if it
    shows no progress. `show_progress` documents the argument `wanted`.
    """
    wanted = check_progress(wanted)
    if wanted is False:
        return None
    if is_notebook():
        return "notebook"
    if has_terminal():
        return "terminal"
    return "lines" if wanted else None


def has_terminal() -> bool:
    """Return whether stderr is a terminal that can erase text."""
    try:
        # `sys.stderr.isatty()` is checked before the file descriptor, because a program may have replaced `sys.stderr`.
        return sys.stderr is not None and sys.stderr.isatty() and Outlet(sys.stderr).is_terminal
    except ValueError:  # The program has closed stderr.
        return False


class Display:
    """A context manager that displays the progress of one piece of work. `show_progress` returns it.

    Args:
        kind: How the progress is shown, or None if it is not shown.
        first: The amount of work that is done at the beginning.
        quiet_s: The time in seconds before the progress is shown.

    Attributes:
        is_shown: Whether `update` may show something. If not, the caller need not collect the progress.
    """

    def __init__(self, kind: Kind | None, first: Progress, quiet_s: float = QUIET_S) -> None:
        self.is_shown = kind is not None
        self._row = None if kind is None else _Row(kind, first, quiet_s)
        self._end: str | None = None

    def update(self, progress: Progress) -> None:
        """Show the given progress from now on. This method returns at once."""
        if self._row is not None:
            self._row.set(progress)
            _board().changed()

    def print(self, text: str) -> None:
        """Print a notice on stderr. On a terminal, the notice appears above all progress."""
        if self._row is None:
            print_notice(text)
        else:
            _board().print(text)

    def finish(self, text: str) -> None:
        """Set the text that stays on the screen after the end of the `with` block. The text is shown only if the
        progress was visible.
        """
        self._end = text

    def __enter__(self) -> Self:
        if self._row is not None:
            _board().add(self._row)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._row is not None:
            _board().remove(self._row, self._end)


class _Row:
    """One piece of work whose progress is shown.

    Attributes:
        kind: How the progress is shown.
        is_visible: Whether the progress has been shown.
    """

    def __init__(self, kind: Kind, first: Progress, quiet_s: float) -> None:
        self.kind = kind
        self.is_visible = False
        self._progress = first
        self._began_s = time.monotonic()
        self._visible_from_s = self._began_s + quiet_s
        self._cell: Cell | None = None
        self._written = ("", "", "")
        self._written_s = 0.0

    def set(self, progress: Progress) -> None:
        self._progress = progress

    def is_due(self, now_s: float) -> bool:
        """Return whether the work has taken so long that its progress is shown."""
        self.is_visible = self.is_visible or now_s >= self._visible_from_s
        return self.is_visible

    def line(self, now_s: float) -> str:
        """Return the line for a terminal."""
        return progress_line(self._progress, now_s - self._began_s)

    def draw_in_notebook(self, now_s: float) -> None:
        """Show the progress in the notebook."""
        self._fill_cell(Html(progress_html(self._progress, now_s - self._began_s), self.line(now_s)))

    def end_in_notebook(self, text: str) -> None:
        """Show a last text in the notebook. An empty text removes the progress."""
        self._fill_cell(Html(f'<div class="iris-progress">{escaped(text)}</div>', text))

    def write_line(self, now_s: float) -> None:
        """Print a line about the progress, if its state has changed or if the last line is ten seconds old."""
        key = (self._progress.title, self._progress.state, self._progress.note)
        if key != self._written or now_s - self._written_s >= _LINES_S:
            self._written, self._written_s = key, now_s
            words = [self._progress.state, facts_of(self._progress, now_s - self._began_s), self._progress.note]
            print_notice(f"{self._progress.title}: {'; '.join(word for word in words if word)}")

    def _fill_cell(self, content: Html) -> None:
        if self._cell is None:
            self._cell = Cell(content)
        else:
            self._cell.show(content)


class _Board:
    """All progress displays of this process, and the thread that draws these displays. `_lock` protects all attributes.
    The thread starts with the first display and ends with the last one.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Condition()
        self._rows: list[_Row] = []
        self._drawn = 0  # The number of drawn rows.
        self._is_dirty = False
        self._is_broken = False  # Whether drawing has failed, so that nothing is drawn any more.
        self._thread: threading.Thread | None = None

    def add(self, row: _Row) -> None:
        """Show the progress of one more piece of work, until `remove` is called."""
        with self._lock:
            self._rows.append(row)
            self._is_dirty = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="iris-progress", daemon=True)
                self._thread.start()

    def changed(self) -> None:
        """Request a new drawing, because the progress of a piece of work has changed."""
        # The thread that draws looks at this flag every `_PAUSE_S` seconds. The flag is set without the lock, so that
        # `update` never waits for a slow terminal.
        self._is_dirty = True

    def remove(self, row: _Row, end: str | None) -> None:
        """Remove the row of a piece of work. If the row was visible and `end` is given, print the text `end` in place
        of the row.
        """
        with self._lock:
            if row not in self._rows:
                return
            self._rows.remove(row)
            if row.is_visible:
                self._guarded(lambda: self._leave(row, end))
            self._lock.notify_all()

    def print(self, text: str) -> None:
        """Print a notice on stderr, above the rows of the terminal."""
        with self._lock:
            if not self._drawn or self._is_broken:
                print_notice(text)
                return
            self._guarded(lambda: self._write(self._rows_of_terminal(), f"iris: {visible(text)}\n"))

    def _run(self) -> None:
        drawn_s = 0.0
        with self._lock:
            while self._rows:
                now_s = time.monotonic()
                if self._is_dirty or now_s - drawn_s >= _TICK_S or any(not row.is_visible for row in self._rows):
                    self._is_dirty = False
                    drawn_s = now_s
                    self._guarded(self._draw)
                self._lock.wait(_PAUSE_S)
            self._thread = None

    def _guarded(self, draw: Callable[[], None]) -> None:
        """Call `draw`. After an error of the terminal or the notebook, nothing is drawn any more, but the work
        continues."""
        if self._is_broken:
            return
        try:
            draw()
        except (OutputClosedError, Exception):  # noqa: BLE001 - The user's streams and notebook may raise any exception.
            self._is_broken = True

    def _draw(self) -> None:
        now_s = time.monotonic()
        for row in [row for row in self._rows if row.is_due(now_s)]:
            if row.kind == "notebook":
                row.draw_in_notebook(now_s)
            elif row.kind == "lines":
                row.write_line(now_s)
        self._write(self._rows_of_terminal())

    def _leave(self, row: _Row, end: str | None) -> None:
        if row.kind == "notebook":
            row.end_in_notebook(end or "")
        elif row.kind == "terminal":
            self._write(self._rows_of_terminal(), f"iris: {visible(end)}\n" if end else "")
        elif end:
            print_notice(end)

    def _rows_of_terminal(self) -> list[_Row]:
        return [row for row in self._rows if row.kind == "terminal" and row.is_visible]

    def _write(self, rows: list[_Row], above: str = "") -> None:
        """Replace the progress rows on the terminal, and write the line `above` over these rows."""
        if not rows and not self._drawn and not above:
            return
        outlet = Outlet(sys.stderr)
        if rows and not self._drawn and sys.stdout is not None:
            sys.stdout.flush()  # The flush makes earlier output of the program appear above the rows.
        columns = outlet.size().columns
        now_s = time.monotonic()
        lines = [row.line(now_s) for row in rows]
        if len(lines) > _MOST_ROWS:
            lines[_MOST_ROWS - 1 :] = [f"… and {len(lines) - _MOST_ROWS + 1} more"]
        shown = [cut_row(outlet.encode(line), columns)[0] for line in lines]
        erase = b"\r" + (b"\x1b[%dA" % (self._drawn - 1) if self._drawn > 1 else b"") + b"\x1b[J"
        draw = _NO_WRAP + b"\n".join(shown) + _WRAP if shown else b""
        self._drawn = len(shown)
        outlet.write(erase + outlet.encode(above) + draw)


_the_board: _Board | None = None


def _board() -> _Board:
    """Return the progress displays of this process. A forked child process gets a new, empty `_Board`, because the
    thread that draws exists only in the parent process.
    """
    global _the_board
    if _the_board is None or _the_board.pid != os.getpid():
        _the_board = _Board()
    return _the_board
