"""The mouth: all that `iris` says goes through here, for people or as JSON.

stdout is for answers and for what tasks write, stderr for what we say besides. Nothing is held back: each write is
out before the call returns, so that pipes are live (`show_line(…, more=True)` is the exception, for whole logs).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from iris.errors import IrisError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.client.job import LogEntry

_HELD_BYTES = 64 * 1024
_RED, _DIM, _RESET = "\x1b[31m", "\x1b[2m", "\x1b[0m"
_CLEAR_LINE = "\r\x1b[2K"
# One for each task in turn; red is for errors.
_LABEL_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class OutputClosedError(BaseException):
    """Who read our output has left, as `head` does. No error of anybody: we end, and say nothing.

    No `Exception`, as `KeyboardInterrupt` is none: it may be raised in the middle of a call (see `reader.py`), and is
    not to be taken for a fault of the connection there.
    """


class Output:
    """Says things, in one voice.

    Args:
        as_json: JSON on stdout instead of text for people.
        stderr_apart: What tasks wrote to stderr goes to ours; else all their lines go to stdout.
    """

    def __init__(self, *, as_json: bool = False, stderr_apart: bool = False) -> None:
        self.as_json = as_json
        self._stderr_apart = stderr_apart
        self._lock = threading.RLock()  # lines come from one thread, notes from others
        self._stdout = _Stream(sys.stdout)
        self._stderr = _Stream(sys.stderr)
        self._label_width = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._status = ""

    # Answers.

    def answer(self, document: Mapping[str, Any], text: Callable[[], str | RenderableType]) -> None:
        """The answer of a command.

        Args:
            document: As JSON.
            text: For people; only called for them. A table of `tables.py`, or text.
        """
        if self.as_json:
            self._out(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
            return
        shown = text()
        self._out(shown + "\n" if isinstance(shown, str) else self._render(shown))

    def event(self, document: Mapping[str, Any]) -> None:
        """One line of JSON in a stream of them; nothing for people."""
        if self.as_json:
            self._out(json.dumps(document, ensure_ascii=False) + "\n")

    # What tasks write.

    def label_lines(self, num_tasks: int) -> None:
        """From now on each line for people is labelled with its task."""
        self._label_width = len(f"task-{num_tasks - 1}")

    def show_line(self, entry: LogEntry, *, more: bool = False) -> None:
        """A line of a task: its exact bytes for people.

        Args:
            entry: The line.
            more: Others follow at once: it may be held back until `flush`, or until there are enough.
        """
        if self.as_json:
            line, stream = self._line_as_json(entry), self._stdout
        else:
            # What we did to prepare a task is never its output.
            apart = entry.source == "build" or (self._stderr_apart and entry.source == "stderr")
            stream = self._stderr if apart else self._stdout
            line = self._line_for_people(entry, stream)
        with self._lock:
            if stream is self._stderr:
                self.flush()
                self._clear_status()
                stream.write(line)
                return
            self._held.append(line)
            self._held_bytes += len(line)
            if not more or self._held_bytes >= _HELD_BYTES:
                self.flush()

    def flush(self) -> None:
        """Writes what was held back."""
        with self._lock:
            if self._held:
                held, self._held, self._held_bytes = b"".join(self._held), [], 0
                self._clear_status()
                self._stdout.write(held)

    # What we say besides.

    def note(self, text: str) -> None:
        """A line on stderr; in a stream of JSON an event as well. Who does not listen is no reason to end."""
        with self._lock:
            self.flush()
            self._clear_status()
            self._say(f"{self._stderr.paint('iris:', _DIM)} {text}\n")

    def error(self, text: str) -> None:
        """A line on stderr that says what went wrong."""
        with self._lock:
            self.flush()
            self._clear_status()
            self._say(f"{self._stderr.paint('iris:', _RED)} {text}\n")

    @property
    def has_status_line(self) -> bool:
        """Whether stderr is a terminal, on which a line can be shown for a while."""
        return self._stderr.is_terminal

    def set_status(self, text: str) -> None:
        """A line on the terminal that stays until something else is said; empty takes it away."""
        if not self.has_status_line or text == self._status:
            return
        with self._lock:
            self._clear_status()
            if text:
                room = shutil.get_terminal_size().columns - 1
                shown = f"iris: {text}"
                self._say(self._stderr.paint(shown if len(shown) <= room else shown[: room - 1] + "…", _DIM))
                self._status = text

    # Inside.

    def _clear_status(self) -> None:
        if self._status:
            self._status = ""
            self._say(_CLEAR_LINE)

    def _say(self, text: str) -> None:
        try:
            self._stderr.write(text.encode(errors="replace"))
        except (OutputClosedError, IrisError):
            pass

    def _out(self, text: str) -> None:
        with self._lock:
            self._clear_status()
            self._stdout.write(text.encode(errors="replace"))

    def _render(self, table: RenderableType) -> str:
        from rich.console import Console

        terminal = self._stdout.is_terminal
        console = Console(
            file=sys.stdout,
            force_terminal=terminal,
            no_color=not self._stdout.has_colour,
            # Cut to the width of a terminal; a file or a pipe gets all of it.
            width=shutil.get_terminal_size().columns if terminal else 10_000,
            highlight=False,
            legacy_windows=False,
        )
        with console.capture() as captured:
            console.print(table)
        return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())

    def _line_as_json(self, entry: LogEntry) -> bytes:
        document = {
            "task": entry.task_index,
            "attempt": entry.attempt_id,
            "source": entry.source,
            "timestamp_ms": entry.timestamp_ms,
            "message": entry.message,
        }
        if "\ufffd" in entry.message and entry.message.encode() != entry.data:
            document["data_base64"] = base64.b64encode(entry.data).decode()  # the message is not exact
        return json.dumps(document, ensure_ascii=False).encode() + b"\n"

    def _line_for_people(self, entry: LogEntry, stream: _Stream) -> bytes:
        if not self._label_width:
            return entry.data + b"\n"
        index = entry.task_index
        label = f"task-{index}".ljust(self._label_width) + " |"
        data = entry.data
        if stream.is_terminal:
            # A progress bar goes back to the start of its line, and would wipe out the label: its last state is shown.
            data = data.rstrip(b"\r").rpartition(b"\r")[2]
        label = stream.paint(label, f"\x1b[{_LABEL_COLOURS[index % len(_LABEL_COLOURS)]}m")
        return label.encode() + b" " + data + b"\n"


class _Stream:
    """stdout or stderr, without a buffer."""

    def __init__(self, stream: TextIO | None) -> None:
        try:
            self._fd = -1 if stream is None else stream.fileno()  # None: it was closed before we started
        except (OSError, ValueError):
            self._fd = -1
        self.is_terminal = self._fd >= 0 and os.isatty(self._fd) and os.environ.get("TERM") != "dumb"
        self.has_colour = self.is_terminal and not os.environ.get("NO_COLOR")

    def paint(self, text: str, style: str) -> str:
        return f"{style}{text}{_RESET}" if self.has_colour else text

    def write(self, data: bytes) -> None:
        if self._fd < 0:
            return
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                select.select([], [self._fd], [])  # somebody made the pipe non-blocking
            except BrokenPipeError as error:
                raise OutputClosedError from error
            except OSError as error:
                raise IrisError(f"cannot write the output: {error.strerror}") from error


def report_error(text: str) -> None:
    """What went wrong, from where there is no `Output` yet."""
    Output().error(text)
