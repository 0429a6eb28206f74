"""Writes stdout and stderr without a buffer, directly to their file descriptors."""

from __future__ import annotations

import os
import select
from typing import TextIO

from iris.terminal.encoding import cannot_write, encode_text, has_all_characters

RED, DIM = "\x1b[31m", "\x1b[2m"
_RESET = "\x1b[0m"


class OutputClosedError(BaseException):
    """The reader of the output, for example `head`, has closed the pipe. The program should end without a message.

    Like `KeyboardInterrupt`, this error is not an `Exception`. `closed_reader.py` may raise this error in the middle of
    a call to the cluster, and the call must not treat this error as a broken connection.
    """


class Outlet:
    """An unbuffered output: stdout or stderr.

    Attributes:
        is_terminal: Whether the output is a terminal that can erase text.
        has_colour: Whether `paint` adds colours.
        place: The identity of the terminal, pipe, or file. Two outlets with the same place write to the same output.
        is_unicode: Whether the encoding has every character.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self.is_unicode = has_all_characters(self._encoding)
        try:
            self._fd = -1 if stream is None else stream.fileno()  # A closed stream is None.
            status = os.fstat(self._fd)
            self.place: object = (status.st_dev, status.st_ino)
        except (OSError, ValueError):
            self._fd = -1
            self.place = self
        self.is_terminal = self._fd >= 0 and os.isatty(self._fd) and os.environ.get("TERM") != "dumb"
        self.has_colour = self.is_terminal and not os.environ.get("NO_COLOR")

    def paint(self, text: str, style: str) -> str:
        """Return the text in a colour, or unchanged if the output has no colours."""
        return f"{style}{text}{_RESET}" if self.has_colour else text

    def size(self) -> os.terminal_size:
        """Return the present size of the terminal. An unknown size counts as 80 columns and 24 lines."""
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            size = os.terminal_size((0, 0))
        return os.terminal_size((size.columns or 80, size.lines or 24))

    def encode(self, text: str) -> bytes:
        """Return the text in the outlet's encoding, with missing characters replaced."""
        return encode_text(text, self._encoding)

    def write(self, data: bytes) -> None:
        """Write all of the data. If the reader of a pipe is slow, wait for the reader.

        Raises:
            OutputClosedError: The reader has closed the output.
            IrisError: The data cannot be written, for example because the disk is full.
        """
        if self._fd < 0 or not data:
            return
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                # Another process has set the pipe to non-blocking mode. Therefore this loop waits until the pipe is
                # writable.
                select.select([], [self._fd], [])
            except BrokenPipeError as error:
                raise OutputClosedError from error
            except OSError as error:
                raise cannot_write(error) from error
