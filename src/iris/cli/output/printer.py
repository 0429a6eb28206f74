"""Prints all output of `iris`, as text for people or as JSON for programs.

Answers and the output of tasks go to stdout. Messages of Iris itself go to stderr. Each call writes its text before it
returns, so that the reader of a pipe gets the text at once. Only lines of tasks are buffered. Lines arrive in batches,
and all lines are written before the stream waits for the next batch. `iris/terminal/lines.py` decides how finished and
unfinished lines look. Characters that the output's encoding lacks are replaced.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from iris.cli.output.job_labels import JobLabels
from iris.cluster.logs.entries.json_lines import json_objects
from iris.errors import IrisError, visible
from iris.moments import write_moment
from iris.terminal.controls import ControlFilter
from iris.terminal.labels import label_width, task_label
from iris.terminal.lines import Entry
from iris.terminal.outlet import DIM, RED, Outlet, OutputClosedError
from iris.terminal.screen import NO_WRAP, WRAP, Screen

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.client.job import LogEntry

_HELD_BYTES = 64 * 1024
# The largest number of characters of a cursor in a message. The cursor of a job with many tasks is longer, and would
# fill more than two rows of the terminal.
LONGEST_CURSOR = 160
# The terminal colours of task labels, as SGR codes. Tasks get them in turn. Red is reserved for errors.
_LABEL_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Output:
    """Prints to stdout and stderr.

    Args:
        as_json: Whether stdout receives JSON instead of text for people.
        stderr_apart: Whether the stderr of tasks goes to stderr. If not, all lines of tasks go to stdout.
        with_times: Whether each line of a task begins with the line's time. JSON output ignores this argument.
    """

    def __init__(self, *, as_json: bool = False, stderr_apart: bool = False, with_times: bool = False) -> None:
        self.as_json = as_json
        self._stderr_apart = stderr_apart
        self._with_times = with_times
        # The lock is needed because one thread prints lines of tasks while other threads print messages.
        self._lock = threading.RLock()
        self._stdout = Outlet(sys.stdout)
        self._stderr = Outlet(sys.stderr)
        self._screen = Screen(self._stdout, self._stderr)
        self._lines, self._lines_apart = self._screen.lines, self._screen.lines_apart
        self._to_json = json.JSONEncoder(ensure_ascii=not self._stdout.is_unicode)
        self._label_width = 0
        self._redrawn = 0  # The number of terminal rows that the last call of `redraw` has filled.
        self._job_labels: JobLabels | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._ended_tasks: set[int] = set()
        self._last_added: LogEntry | None = None
        self._last_shown: LogEntry | None = None
        # When a line of a task, or a message of this program, was last written.
        self._written_s = time.monotonic()
        self._has_input = False
        self._is_writing = self._is_interrupted = self._is_silent = False

    # Answers.

    def answer(self, document: Mapping[str, Any], text: Callable[[], str | RenderableType]) -> None:
        """Print the answer of a command.

        Args:
            document: The answer for programs, which is printed as JSON.
            text: A function that returns the answer for people: text or a table. Not called if `as_json` is true.
        """
        if self.as_json:
            self._out(json.dumps(document, ensure_ascii=not self._stdout.is_unicode, indent=2) + "\n")
            return
        shown = text()
        self._out(visible(shown) + "\n" if isinstance(shown, str) else self._render(shown))

    def redraw(self, text: Callable[[], str | RenderableType]) -> bool:
        """Show an answer in place of the answer that the last call has shown. Rows below the screen are left out.

        Returns:
            False if nothing was shown, because stdout is not an interactive terminal.
        """
        if self.as_json or not self._stdout.is_terminal:
            return False
        shown = text()
        rows = (visible(shown) if isinstance(shown, str) else self._render(shown)).splitlines()
        most = max(2, self._stdout.size().lines - 1)
        if len(rows) > most:
            rows[most - 1 :] = [f"… and {len(rows) - most + 1} more rows"]
        erase = b"\r" + (b"\x1b[%dA" % self._redrawn if self._redrawn else b"") + b"\x1b[J"
        # A row that is wider than the terminal must not wrap, because the next call counts the rows.
        drawn = self._stdout.encode("".join(f"{row}\n" for row in rows))
        with self._lock:
            self._screen.emit(self._stdout, erase + NO_WRAP + drawn + WRAP)
        self._redrawn = len(rows)
        return True

    def event(self, document: Mapping[str, Any]) -> None:
        """Print one event as a line of JSON if `as_json` is true. Otherwise print nothing."""
        if self.as_json:
            self._out(self._to_json.encode(document) + "\n")

    # Lines of tasks.

    def label_lines(self, num_tasks: int) -> None:
        """Begin each later line of a task with the label of the task. JSON output has no labels."""
        self._label_width = label_width(num_tasks)

    def label_jobs(self, labels: JobLabels) -> None:
        """Begin each later line of a task with a label that also names the job. Each JSON object gets the job's id.

        From this call on, the printer prints only whole log lines, because the lines of several jobs arrive in turn.
        """
        self._job_labels = labels

    @property
    def shows_pieces(self) -> bool:
        """Whether the output shows pieces of unfinished lines.

        JSON output, the output of several jobs, and labelled output to a pipe or a file contain only whole lines.
        """
        if self.as_json or self._job_labels is not None:
            return False
        return self._stdout.is_terminal or not (self._label_width or self._with_times)

    def show_lines(self, entries: Sequence[LogEntry]) -> None:
        """Buffer one batch of lines from `LogStream.batches`. If the batch is empty, write all buffered lines."""
        if not entries:
            self.flush()
            return
        first = entries[0]
        self._written_s = time.monotonic()
        shown: Sequence[Entry] = entries if self._job_labels is None else self._job_labels.numbered(entries)
        with self._lock:
            if self.as_json:
                objects = json_objects(entries, self._to_json, with_job=self._job_labels is not None)
                self._hold("".join(f"{line}\n" for line in objects).encode())
            elif first.missing_bytes:
                self.note(f"job {first.job_id}, {first.gap_notice}" if self._job_labels else first.gap_notice)
            elif first.source == "build" or (self._stderr_apart and first.source == "stderr"):
                # Lines about the preparation of a task go to stderr, because they are not part of the task's output.
                self.flush()
                self._screen.emit(self._stderr, self._lines_apart.add(shown, self._prefix(first, self._stderr)))
            else:
                self._hold(self._lines.add(shown, self._prefix(first, self._stdout)))
            self._last_added = entries[-1]

    def show_raw(self, data: bytes) -> None:
        """Write bytes of a task unchanged."""
        self._stdout.write(data)

    def repeat_lines(self, entries: Iterable[LogEntry]) -> None:
        """Show lines again on stderr, with labels."""
        with self._lock:
            self.flush()
            for entry in entries:
                label = self._label(entry.task_index, self._stderr).encode()
                text = ControlFilter().filter(entry.data.rstrip(b"\r").rpartition(b"\r")[2], ends_line=True)
                self._say(b"%b %b\n" % (label, text))

    def flush(self) -> None:
        """Write all buffered lines."""
        # Python raises KeyboardInterrupt in the main thread only. Therefore only writes of the main thread must delay
        # Ctrl-C.
        is_main = threading.current_thread() is threading.main_thread()
        with self._lock:
            self._is_writing = is_main
            try:
                if self._held:
                    held, self._held, self._held_bytes = b"".join(self._held), [], 0
                    self._screen.emit(self._stdout, held)
                self._screen.refresh()
                self._last_shown = self._last_added
            finally:
                self._is_writing = False
        if is_main and self._is_interrupted:
            self._is_interrupted = False
            raise KeyboardInterrupt

    @contextmanager
    def interrupted_between_writes(self) -> Iterator[None]:
        """Delay Ctrl-C inside the `with` block until a write of lines is complete, so that `last_shown` is really the
        last line that was written.

        A second Ctrl-C is not delayed, because the reader of the output may have stopped for good.
        """

        def interrupt(number: int, frame: FrameType | None) -> None:
            if not self._is_writing or self._is_interrupted:
                raise KeyboardInterrupt
            self._is_interrupted = True

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def end_tasks(self, ended: Collection[int]) -> None:
        """End the unfinished lines of tasks whose logs have ended."""
        if len(ended) > len(self._ended_tasks):
            for index in sorted(set(ended) - self._ended_tasks):
                self.end_lines(index)
            self._ended_tasks.update(ended)

    def end_lines(self, task_index: int | None = None) -> None:
        """End the unfinished lines of one task, or of all tasks."""
        with self._lock:
            self.flush()
            self._screen.emit(self._stdout, self._lines.end(task_index))
            if self._lines_apart is not self._lines:
                self._screen.emit(self._stderr, self._lines_apart.end(task_index))

    def drop_lines(self) -> None:
        """Discard all buffered lines."""
        with self._lock:
            self._held, self._held_bytes = [], 0
            self._last_added = self._last_shown

    @property
    def last_shown(self) -> LogEntry | None:
        """The last line that was written. All lines before this line were written too."""
        return self._last_shown

    # Messages of Iris itself.

    def silence(self) -> None:
        """Print nothing more to stderr.

        This method does not wait for the printer's lock, because a thread may hold the lock forever while it writes to
        a reader that has stopped.
        """
        self._is_silent = True

    def note(self, text: str) -> None:
        """Print a message to stderr. If stderr cannot be written, do nothing."""
        self._say_line("iris:", DIM, text)

    def error(self, text: str) -> None:
        """Print an error message to stderr."""
        self._say_line("iris:", RED, text)

    @property
    def has_status_line(self) -> bool:
        """Whether stderr is a terminal, which can show a temporary status line."""
        return self._stderr.is_terminal

    def set_status(self, text: str, *, before_input: bool = False) -> None:
        """Show a status line on the terminal until the next message. An empty text removes the line.

        Args:
            text: The text of the status line.
            before_input: Whether the user types input for the task. `set_status_when_quiet` then shows nothing more,
                because a status line would be in the way of the input.
        """
        self._has_input = self._has_input or before_input
        if self._is_silent or not self.has_status_line or text == self._screen.status:
            return
        with self._lock:
            self._say(self._lines_apart.interrupt() if text else b"", status=visible(text).replace("\n", " "))

    def set_status_when_quiet(self, text: Callable[[float], str], after_s: float) -> None:
        """Show a status line if the tasks are quiet.

        Nothing is shown if a task has written something lately, if the last line is not finished (it may be a prompt),
        if the user types input for the task, or if stdout is not a terminal. A program that reads stdout may print to
        the same terminal.

        Args:
            text: A function that returns the text. Its argument is the number of seconds since a task last wrote
                something.
            after_s: The number of seconds after which the tasks count as quiet.
        """
        with self._lock:
            quiet_s = time.monotonic() - self._written_s
            has_rows = self._lines.rows() or self._lines_apart.rows()
            if quiet_s >= after_s and self._stdout.is_terminal and not (has_rows or self._has_input or self.as_json):
                self.set_status(text(quiet_s))

    def _say_line(self, begin: str, style: str, text: str) -> None:
        if self._is_silent:
            return
        with self._lock:
            self._written_s = time.monotonic()
            self.flush()
            self._say(self._stderr.encode(f"{self._stderr.paint(begin, style)} {visible(text)}\n"))

    def _say(self, data: bytes, status: str = "") -> None:
        try:
            self._screen.emit(self._stderr, self._lines_apart.interrupt() + data, status)
        except (OutputClosedError, IrisError):
            pass

    def _out(self, text: str) -> None:
        with self._lock:
            self.flush()
            self._screen.emit(self._stdout, self._stdout.encode(text))

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= _HELD_BYTES:
            self.flush()

    def _prefix(self, entry: LogEntry, outlet: Outlet) -> bytes:
        parts = []
        if self._with_times:
            parts.append(outlet.paint(write_moment(entry.timestamp_ms), DIM))
        if self._job_labels is not None:
            colour = _colour(self._job_labels.number(entry.job_id, entry.task_index))
            parts.append(outlet.paint(self._job_labels.label(entry.job_id, entry.task_index), colour))
        elif self._label_width:
            parts.append(self._label(entry.task_index, outlet))
        return " ".join(parts).encode()

    def _label(self, index: int, outlet: Outlet) -> str:
        return outlet.paint(task_label(index, self._label_width), _colour(index))

    def _render(self, table: RenderableType) -> str:
        from rich.console import Console

        terminal = self._stdout.is_terminal
        console = Console(
            file=sys.stdout,
            force_terminal=terminal,
            no_color=not self._stdout.has_colour,
            # For a file or a pipe, the width is so large that each row of a table is one complete line.
            width=shutil.get_terminal_size().columns if terminal else 10_000,
            highlight=False,
            legacy_windows=False,
        )
        with console.capture() as captured:
            console.print(table, crop=False)
        return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def _colour(number: int) -> str:
    return f"\x1b[{_LABEL_COLOURS[number % len(_LABEL_COLOURS)]}m"


def report_error(text: str) -> None:
    """Print an error message before the command has created its `Output` object."""
    Output().error(text)
