"""stdout and stderr as they are: descriptors, written at once."""

from __future__ import annotations

import os
import select
from typing import TextIO

from iris.terminal.encoding import cannot_write, encode_text, has_all_characters

RED, DIM = "\x1b[31m", "\x1b[2m"
_RESET = "\x1b[0m"


class OutputClosedError(BaseException):
    """Who read our output has left, as `head` does. No error of anybody: we end, and say nothing.

    Not an `Exception`, like `KeyboardInterrupt`, because it may be raised in the middle of a call (closed_reader.py)
    and must not be handled there as a fault of the connection.
    """


class Outlet:
    """stdout or stderr, without a buffer.

    Attributes:
        is_terminal: Whether a person looks at it, and text can be taken back there.
        has_colour: Whether `paint` colours.
        place: Where it leads: the same for two that end in the same terminal, pipe or file.
        is_unicode: Whether it takes every character.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self.is_unicode = has_all_characters(self._encoding)
        try:
            self._fd = -1 if stream is None else stream.fileno()  # None: it was closed before we started
            status = os.fstat(self._fd)
            self.place: object = (status.st_dev, status.st_ino)
        except (OSError, ValueError):
            self._fd = -1
            self.place = self
        self.is_terminal = self._fd >= 0 and os.isatty(self._fd) and os.environ.get("TERM") != "dumb"
        self.has_colour = self.is_terminal and not os.environ.get("NO_COLOR")

    def paint(self, text: str, style: str) -> str:
        """The text in a colour, where that is wanted."""
        return f"{style}{text}{_RESET}" if self.has_colour else text

    def size(self) -> os.terminal_size:
        """Columns and lines of the terminal, now; 80 and 24 where it does not tell."""
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            size = os.terminal_size((0, 0))
        return os.terminal_size((size.columns or 80, size.lines or 24))

    def encode(self, text: str) -> bytes:
        """The text as it is written there; characters that the outlet lacks are replaced."""
        return encode_text(text, self._encoding)

    def write(self, data: bytes) -> None:
        """Returns when all of it is out.

        Raises:
            OutputClosedError: Nobody reads it any more.
            IrisError: It cannot be written, as to a full disk.
        """
        if self._fd < 0 or not data:
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
                raise cannot_write(error) from error
