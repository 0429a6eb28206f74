"""What the client itself prints: notices, and the lines of a task that `wait` shows."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from iris.client.logs.log_options import Wanted
from iris.client.logs.streams import LogStream, Reading
from iris.errors import DeadlineExceededError, IrisError, UnavailableError, visible
from iris.terminal.controls import ControlFilter, is_harmless
from iris.terminal.encoding import encode_text
from iris.terminal.outlet import Outlet, OutputClosedError
from iris.terminal.screen import Screen

if TYPE_CHECKING:
    from iris.client.job import LogEntry
    from iris.cluster.client.remote_client import RemoteClusterClient


def print_notice(text: str) -> None:
    """Print a line on stderr, if there is one: the default of `on_notice`."""
    with contextlib.suppress(OSError):  # a notice that cannot be shown is no reason to fail
        _write(sys.stderr, f"iris: {visible(text)}\n")


def print_task(cluster: RemoteClusterClient, job_id: str, task_index: int, wanted: Wanted) -> None:
    """Print the lines of a task as they come, as `[task-2:stdout] message`, until its end or until `wanted.until`.

    On a terminal, unfinished lines are shown and progress bars move; elsewhere lines are whole.

    Raises:
        NotFoundError: There is no such job, or it has no such task.
        ControllerUnreachableError, WorkerUnreachableError: No answer for `wanted.patience_s`.
    """
    printer = _terminal_printer() or _StreamPrinter()
    wanted = replace(wanted, on_notice=printer.notice, partial=printer.shows_pieces)
    left_s = wanted.until - time.monotonic()
    timer = None
    try:
        with LogStream(Reading(cluster, job_id, [task_index], wanted)) as stream:
            if left_s < threading.TIMEOUT_MAX:
                # Wherever the stream waits then, for a server that is silent, too.
                timer = threading.Timer(left_s, stream.close)
                timer.daemon = True
                timer.start()
            for entries in stream.batches():
                printer.show(entries)
                if printer.is_over:
                    return
    except (UnavailableError, DeadlineExceededError):
        if time.monotonic() < wanted.until:
            raise
    finally:
        if timer is not None:
            timer.cancel()
        printer.end()


def _terminal_printer() -> _TerminalPrinter | None:
    """What prints to the terminal that stdout is; None where it is something else."""
    try:
        # A notebook shows what is written to the stream; its descriptor may be the terminal that started it.
        if sys.stdout is None or not sys.stdout.isatty():
            return None
    except ValueError:  # the program has closed it
        return None
    stdout = Outlet(sys.stdout)
    return _TerminalPrinter(Screen(stdout, Outlet(sys.stderr))) if stdout.is_terminal else None


class _StreamPrinter:
    """Prints whole lines to `sys.stdout`, whatever it is.

    Attributes:
        is_over: Nobody reads it any more.
    """

    shows_pieces = False

    def __init__(self) -> None:
        self.is_over = False
        self.notice = print_notice
        self._filters: dict[tuple[int, str], ControlFilter] = {}

    def show(self, entries: Sequence[LogEntry]) -> None:
        """Print lines of one attempt and source."""
        for entry in entries:
            self.is_over = self.is_over or not _write(sys.stdout, f"{_prefix(entry)} {self._message(entry)}\n")

    def end(self) -> None:
        """Nothing: all is printed."""

    def _message(self, entry: LogEntry) -> str:
        key = (entry.attempt_id, entry.source)
        if entry.missing_bytes or (key not in self._filters and is_harmless(entry.data)):
            return entry.message
        known = self._filters.setdefault(key, ControlFilter())
        return known.filter(entry.data, ends_line=True).decode(errors="replace")


class _TerminalPrinter:
    """Prints to a terminal: an unfinished line stands in a row below all others."""

    shows_pieces = True

    def __init__(self, screen: Screen) -> None:
        self.is_over = False
        self._screen = screen
        _flush(sys.stdout, sys.stderr)  # what the program printed before comes first

    def show(self, entries: Sequence[LogEntry]) -> None:
        """Print lines of one attempt and source, or a piece of one; none: draw what has changed."""
        if not entries:
            self._screen.refresh()
        elif entries[0].missing_bytes:
            self._emit(self._screen.stdout, f"{_prefix(entries[0])} {entries[0].message}\n")
        else:
            lines = self._screen.lines.add(entries, _prefix(entries[0]).encode())
            self._write(self._screen.stdout, lines)

    def notice(self, text: str) -> None:
        """Print a line on stderr."""
        self._emit(self._screen.stderr, f"iris: {visible(text)}\n")

    def end(self) -> None:
        """Unfinished lines become lines as they are."""
        self._write(self._screen.stdout, self._screen.lines.end())

    def _emit(self, outlet: Outlet, text: str) -> None:
        self._write(outlet, self._screen.lines.interrupt() + outlet.encode(text))

    def _write(self, outlet: Outlet, data: bytes) -> None:
        if not self.is_over:
            try:
                self._screen.emit(outlet, data)
            except (OutputClosedError, IrisError):  # the terminal is gone
                self.is_over = True


def _prefix(entry: LogEntry) -> str:
    return f"[task-{entry.task_index}:{entry.source}]"


def _write(stream: TextIO | None, text: str) -> bool:
    """Write text at once; what the stream cannot encode is replaced. Return whether somebody still reads it."""
    if stream is None:
        return True  # the program was started without it
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(encode_text(text, encoding).decode(encoding))
        stream.flush()
    except (BrokenPipeError, ValueError):  # its reader has left, or the program has closed it
        return False
    return True


def _flush(*streams: TextIO | None) -> None:
    for stream in streams:
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
