"""The mouth: all that `iris` says goes through here, for people or as JSON.

stdout is for answers and for what tasks write, stderr for what we say besides. Nothing is held back: each write is
out before the call returns, so that pipes are live. Lines of tasks are the exception: they come in batches, and are out
before the stream of them waits for more. How they look, also while they are unfinished, is decided in
`iris/terminal/lines.py`; what an output cannot encode is replaced.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from iris.cli.durations import write_moment
from iris.errors import IrisError, visible
from iris.terminal.controls import ControlFilter
from iris.terminal.outlet import DIM, RED, Outlet, OutputClosedError
from iris.terminal.screen import Screen

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.client.job import LogEntry

_HELD_BYTES = 64 * 1024
# A cursor that takes more than two rows of a terminal (it knows the place in each task's log) is no use to a person.
LONGEST_CURSOR = 160
# One for each task in turn; red is for errors.
_LABEL_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Output:
    """Says things, in one voice.

    Args:
        as_json: JSON on stdout instead of text for people.
        stderr_apart: What tasks wrote to stderr goes to ours; else all their lines go to stdout.
        with_times: Each line of a task for people begins with its time.
    """

    def __init__(self, *, as_json: bool = False, stderr_apart: bool = False, with_times: bool = False) -> None:
        self.as_json = as_json
        self._stderr_apart = stderr_apart
        self._with_times = with_times
        self._lock = threading.RLock()  # lines come from one thread, notes from others
        self._stdout = Outlet(sys.stdout)
        self._stderr = Outlet(sys.stderr)
        self._screen = Screen(self._stdout, self._stderr)
        self._lines, self._lines_apart = self._screen.lines, self._screen.lines_apart
        self._to_json = json.JSONEncoder(ensure_ascii=not self._stdout.is_unicode)
        self._label_width = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._ended_tasks: set[int] = set()
        self._last_added: LogEntry | None = None
        self._last_shown: LogEntry | None = None
        self._is_writing = self._is_interrupted = self._is_silent = False

    # Answers.

    def answer(self, document: Mapping[str, Any], text: Callable[[], str | RenderableType]) -> None:
        """The answer of a command.

        Args:
            document: As JSON.
            text: For people; only called for them. A table of `tables.py`, or text.
        """
        if self.as_json:
            self._out(json.dumps(document, ensure_ascii=not self._stdout.is_unicode, indent=2) + "\n")
            return
        shown = text()
        self._out(visible(shown) + "\n" if isinstance(shown, str) else self._render(shown))

    def event(self, document: Mapping[str, Any]) -> None:
        """One line of JSON in a stream of them; nothing for people."""
        if self.as_json:
            self._out(self._to_json.encode(document) + "\n")

    # What tasks write.

    def label_lines(self, num_tasks: int) -> None:
        """From now on each line for people is labelled with its task."""
        self._label_width = len(f"task-{num_tasks - 1}")

    @property
    def shows_pieces(self) -> bool:
        """Whether unfinished lines are shown as they are written. Programs that read JSON, or labelled lines from a
        pipe or a file, get whole lines only."""
        return not self.as_json and (self._stdout.is_terminal or not (self._label_width or self._with_times))

    def show_lines(self, entries: Sequence[LogEntry]) -> None:
        """Lines of tasks, batch by batch as `LogStream.batches` gives them; an empty one writes what was held back."""
        if not entries:
            self.flush()
            return
        first = entries[0]
        with self._lock:
            if self.as_json:
                self._hold(self._as_json(entries))
            elif first.missing_bytes:
                said = first.message.removeprefix("[iris: ").removesuffix("]")
                self.note(f"task {first.task_index}: {said}")
            elif first.source == "build" or (self._stderr_apart and first.source == "stderr"):
                # What we did to prepare a task is never its output.
                self.flush()
                self._screen.emit(self._stderr, self._lines_apart.add(entries, self._prefix(first, self._stderr)))
            else:
                self._hold(self._lines.add(entries, self._prefix(first, self._stdout)))
            self._last_added = entries[-1]

    def show_raw(self, data: bytes) -> None:
        """Bytes of tasks, and nothing else."""
        self._stdout.write(data)

    def repeat_lines(self, entries: Iterable[LogEntry]) -> None:
        """Lines that were shown before, once more and labelled, on stderr."""
        with self._lock:
            self.flush()
            for entry in entries:
                label = self._label(entry.task_index, self._stderr).encode()
                text = ControlFilter().filter(entry.data.rstrip(b"\r").rpartition(b"\r")[2], ends_line=True)
                self._say(b"%b %b\n" % (label, text))

    def flush(self) -> None:
        """Writes what was held back."""
        # Ctrl-C is the main thread's affair: it waits for no write of another one.
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
        """Inside of the block, a Ctrl-C waits for the end of a write of lines, so that `last_shown` is what was shown;
        a second one does not wait, for who reads may never take the rest."""

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
        """No more lines of these tasks come: unfinished ones are ended."""
        if len(ended) > len(self._ended_tasks):
            for index in sorted(set(ended) - self._ended_tasks):
                self.end_lines(index)
            self._ended_tasks.update(ended)

    def end_lines(self, task_index: int | None = None) -> None:
        """No more of them come, of this task or of any: unfinished ones are ended."""
        with self._lock:
            self.flush()
            self._screen.emit(self._stdout, self._lines.end(task_index))
            if self._lines_apart is not self._lines:
                self._screen.emit(self._stderr, self._lines_apart.end(task_index))

    def drop_lines(self) -> None:
        """No more of them are wanted: what was held back is not written."""
        with self._lock:
            self._held, self._held_bytes = [], 0
            self._last_added = self._last_shown

    @property
    def last_shown(self) -> LogEntry | None:
        """The line up to which all were written."""
        return self._last_shown

    # What we say besides.

    def silence(self) -> None:
        """Say nothing more on stderr. Takes no lock: who holds it may wait for a reader that has stopped."""
        self._is_silent = True

    def note(self, text: str) -> None:
        """A line on stderr. Who does not listen is no reason to end."""
        self._say_line("iris:", DIM, text)

    def error(self, text: str) -> None:
        """A line on stderr that says what went wrong."""
        self._say_line("iris:", RED, text)

    @property
    def has_status_line(self) -> bool:
        """Whether stderr is a terminal, on which a line can be shown for a while."""
        return self._stderr.is_terminal

    def set_status(self, text: str) -> None:
        """A line on the terminal that stays until something else is said; empty takes it away."""
        if self._is_silent or not self.has_status_line or text == self._screen.status:
            return
        with self._lock:
            self._say(self._lines_apart.interrupt() if text else b"", status=visible(text).replace("\n", " "))

    # Inside.

    def _say_line(self, begin: str, style: str, text: str) -> None:
        if self._is_silent:
            return
        with self._lock:
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
        if self._label_width:
            parts.append(self._label(entry.task_index, outlet))
        return " ".join(parts).encode()

    def _label(self, index: int, outlet: Outlet) -> str:
        label = f"task-{index}".ljust(self._label_width) + " |"
        return outlet.paint(label, f"\x1b[{_LABEL_COLOURS[index % len(_LABEL_COLOURS)]}m")

    def _as_json(self, entries: Sequence[LogEntry]) -> bytes:
        """A document for each line. What they share is written out once, since a log has millions of them."""
        first = entries[0]
        begin = (
            f'{{"task": {first.task_index}, "attempt": {first.attempt_id}, "source": "{first.source}",'
            f' "timestamp_ms": {first.timestamp_ms}, "message": '
        )
        end = ', "partial": true}\n' if first.partial and not first.missing_bytes else "}\n"
        if first.missing_bytes:
            end = f', "missing_bytes": {first.missing_bytes}}}\n'
        lines = []
        to_json = self._to_json.encode
        for entry in entries:
            message = entry.message
            exact = ""
            if "\ufffd" in message and not entry.missing_bytes and message.encode() != entry.data:
                exact = f', "data_base64": "{base64.b64encode(entry.data).decode()}"'  # the message is not exact
            lines.append(f'{begin}{to_json(message)}, "cursor": "{entry.cursor}"{exact}{end}')
        return "".join(lines).encode()

    def _render(self, table: RenderableType) -> str:
        from rich.console import Console

        terminal = self._stdout.is_terminal
        console = Console(
            file=sys.stdout,
            force_terminal=terminal,
            no_color=not self._stdout.has_colour,
            # Laid out for the width of a terminal; a file or a pipe gets each row on one line, with all of it.
            width=shutil.get_terminal_size().columns if terminal else 10_000,
            highlight=False,
            legacy_windows=False,
        )
        with console.capture() as captured:
            console.print(table, crop=False)
        return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def report_error(text: str) -> None:
    """What went wrong, from where there is no `Output` yet."""
    Output().error(text)
