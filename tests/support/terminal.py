"""Runs a program in a simulated terminal, so that a test can read the screen as text."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.waiting import wait_until

_ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Terminal:
    """Runs a program in a terminal.

    Args:
        command: The program.
        env: Its variables; `TERM` is set.
        cwd: Its directory.
        columns: The width.
        pass_fds: Descriptors that the program gets.

    Attributes:
        process: The program.
        written: All that it has written.
        descriptor: The side of the terminal on which this process is.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path, columns: int = 60, pass_fds: Sequence[int] = ()
    ) -> None:
        self._ours, theirs = os.openpty()
        self.descriptor = self._ours
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            env={**env, "TERM": "xterm"},
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            pass_fds=pass_fds,
            preexec_fn=_as_after_a_login,
        )
        os.close(theirs)
        self.written = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0
        self._columns = columns
        self._wraps = True

    @property
    def screen(self) -> list[str]:
        """Return the visible lines and the lines that have scrolled away, without spaces at their ends."""
        self._take()
        return ["".join(row).rstrip() for row in self._rows]

    def shows(self, *lines: str) -> None:
        """Wait until the given lines are the last lines on the screen, including the line of the cursor."""
        wait_until(lambda: self._ends_with(lines), f"{lines} on the screen; {self.screen}")

    def resize(self, columns: int) -> None:
        """Change the width of the terminal. Long lines are wrapped again, as most terminals do."""
        self._take()
        before, at, column = self._rows, self._row, self._column
        self._rows, self._columns = [], columns
        for number, row in enumerate(before):
            broken = [row[start : start + columns] for start in range(0, len(row), columns)] or [[]]
            if number == at:
                wraps = max(0, column - 1) // columns
                self._row, self._column = len(self._rows) + wraps, column - wraps * columns
            self._rows += broken
        self._grow()
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, text: str) -> None:
        """Send key strokes to the program. `\\x03` is Ctrl-C."""
        os.write(self._ours, text.encode())

    def exit_code(self) -> int:
        """Wait for the end of the program, and return its exit code."""
        wait_until(lambda: self.screen is None or self.process.poll() is not None, "the end of the program")
        self._take()
        return self.process.wait()

    def close(self) -> None:
        """End the program and the terminal."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _ends_with(self, lines: Sequence[str]) -> bool:
        return self.screen[-len(lines) :] == list(lines)

    def _take(self) -> None:
        while select.select([self._ours], [], [], 0)[0]:
            try:
                data = os.read(self._ours, 65536)
            except OSError:
                return  # the program has ended
            self.written += data
            self._show(self._decoder.decode(data))

    def _show(self, text: str) -> None:
        self._pending += text
        while self._pending:
            if self._pending[0] != "\x1b":
                self._put(self._pending[0])
                self._pending = self._pending[1:]
                continue
            escape = _ESCAPE.match(self._pending)
            if escape is None:
                return  # the rest of it will come
            self._pending = self._pending[escape.end() :]
            self._obey(escape[1], escape[2])

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row += 1
        else:
            if self._column >= self._columns and not unicodedata.combining(character):
                self._column = 0 if self._wraps else self._columns - 1
                self._row += self._wraps
            self._grow()
            row = self._rows[self._row]
            if unicodedata.combining(character) and self._column:
                row[self._column - 1] += character
                return
            row += " " * (self._column + 1 - len(row))
            row[self._column] = character
            self._column += 1
            if unicodedata.east_asian_width(character) in "WF":
                row[self._column : self._column + 1] = [""]  # its second half
                self._column += 1
        self._grow()

    def _grow(self) -> None:
        self._rows += [[] for _ in range(self._row + 1 - len(self._rows))]

    def _obey(self, numbers: str, what: str) -> None:
        if what == "A":
            self._row -= int(numbers or 1)
        elif what == "J" and not numbers:
            del self._rows[self._row + 1 :]
            del self._rows[self._row][self._column :]
        elif what in "hl" and numbers == "?7":
            self._wraps = what == "h"
        else:
            assert what == "m", f"this terminal does not know ESC [ {numbers} {what}"


def _as_after_a_login() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # The tests may run under nohup.
