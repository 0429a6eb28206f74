"""Prints the lines of a task for `IrisClient.wait`."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TextIO

from iris.client.logs.read_options import ReadOptions
from iris.client.logs.streams import LogStream, TaskLogReader
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.errors import DeadlineExceededError, IrisError, UnavailableError, visible
from iris.terminal.controls import ControlFilter, is_harmless
from iris.terminal.notices import print_notice, write_text
from iris.terminal.outlet import Outlet, OutputClosedError
from iris.terminal.screen import Screen


def print_task(cluster: RemoteClusterClient, job_id: str, task_index: int, options: ReadOptions) -> None:
    """Print the lines of a task as they arrive, as `[task-2:stdout] message`.

    `print_task` returns when the task has ended, or at `options.until`. On a terminal, partial lines and moving
    progress bars are shown. Otherwise only whole lines are printed.

    Raises:
        NotFoundError: There is no such job or task.
        ControllerUnreachableError, WorkerUnreachableError: The server has not answered for `options.patience_s`.
    """
    printer = new_printer()
    options = replace(options, on_notice=printer.notice, partial=printer.shows_partial_lines)
    left_s = options.until - time.monotonic()
    timer = None
    try:
        with LogStream(TaskLogReader(cluster, job_id, [task_index], options)) as stream:
            if left_s < threading.TIMEOUT_MAX:
                # The timer ends the stream at `options.until`, even if the server of the stream sends nothing.
                timer = threading.Timer(left_s, stream.close)
                timer.daemon = True
                timer.start()
            for entries in stream.batches():
                printer.show(entries)
                if printer.is_over:
                    return
    except (UnavailableError, DeadlineExceededError):
        if time.monotonic() < options.until:
            raise
    finally:
        if timer is not None:
            timer.cancel()
        printer.end()


def new_printer() -> _TerminalPrinter | _StreamPrinter:
    """Return a printer for stdout."""
    return _terminal_printer() or _StreamPrinter()


def _terminal_printer() -> _TerminalPrinter | None:
    """Return a printer for the terminal, or None if stdout is not a terminal."""
    try:
        # `sys.stdout.isatty()` is checked before the file descriptor. In a notebook, `sys.stdout` writes to the page
        # although its descriptor may be a terminal.
        if sys.stdout is None or not sys.stdout.isatty():
            return None
    except ValueError:  # The program has closed stdout.
        return None
    stdout = Outlet(sys.stdout)
    return _TerminalPrinter(Screen(stdout, Outlet(sys.stderr))) if stdout.is_terminal else None


class _StreamPrinter:
    """Prints whole lines to `sys.stdout`.

    Attributes:
        is_over: Whether the reader of the output has closed the pipe.
    """

    shows_partial_lines = False

    def __init__(self) -> None:
        self.is_over = False
        self.notice = print_notice
        self._filters: dict[tuple[int, str], ControlFilter] = {}

    def show(self, entries: Sequence[LogEntry]) -> None:
        """Print lines of one attempt and source."""
        for entry in entries:
            self.is_over = self.is_over or not write_text(sys.stdout, f"{_prefix(entry)} {self._message(entry)}\n")

    def end(self) -> None:
        """Do nothing, because all lines have been printed."""

    def _message(self, entry: LogEntry) -> str:
        key = (entry.attempt_id, entry.source)
        if entry.missing_bytes or (key not in self._filters and is_harmless(entry.data)):
            return entry.message
        known = self._filters.setdefault(key, ControlFilter())
        return known.filter(entry.data, ends_line=True).decode(errors="replace")


class _TerminalPrinter:
    """Prints to a terminal. A partial line is shown below all other lines.

    Attributes:
        is_over: Whether the terminal was closed, so that nothing more can be shown.
    """

    shows_partial_lines = True

    def __init__(self, screen: Screen) -> None:
        self.is_over = False
        self._screen = screen
        # `stdout` and `stderr` are flushed, so that earlier output of the program appears above the rows of partial
        # lines.
        _flush(sys.stdout, sys.stderr)

    def show(self, entries: Sequence[LogEntry]) -> None:
        """Print lines, or a partial line, of one attempt and source. If `entries` is empty, redraw the rows that have
        changed.
        """
        if not entries:
            self._screen.refresh()
        elif entries[0].missing_bytes:
            self._emit(self._screen.stdout, f"{_prefix(entries[0])} {entries[0].message}\n")
        else:
            lines = self._screen.lines.add(entries, _prefix(entries[0]).encode())
            self._write(self._screen.stdout, lines)

    def notice(self, text: str) -> None:
        """Print a notice on stderr."""
        self._emit(self._screen.stderr, f"iris: {visible(text)}\n")

    def end(self) -> None:
        """Print the partial lines as whole lines."""
        self._write(self._screen.stdout, self._screen.lines.end())

    def _emit(self, outlet: Outlet, text: str) -> None:
        self._write(outlet, self._screen.lines.interrupt() + outlet.encode(text))

    def _write(self, outlet: Outlet, data: bytes) -> None:
        if not self.is_over:
            try:
                self._screen.emit(outlet, data)
            except (OutputClosedError, IrisError):
                self.is_over = True


def _prefix(entry: LogEntry) -> str:
    return f"[task-{entry.task_index}:{entry.source}]"


def _flush(*streams: TextIO | None) -> None:
    for stream in streams:
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
