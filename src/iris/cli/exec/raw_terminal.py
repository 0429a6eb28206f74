"""Sets the user's terminal to raw mode, so that each key goes to the command in the task, and restores it."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Any, Self


class RawTerminal:
    """A context manager for the user's terminal. Inside the block, the terminal can be set to raw mode. The end of the
    block restores the earlier mode, even after an error.

    Args:
        descriptor: The descriptor of the terminal. None if there is no terminal. The block then changes nothing.

    Attributes:
        is_raw: Whether the terminal is in raw mode, in which it passes each key on at once.
    """

    def __init__(self, descriptor: int | None) -> None:
        self.is_raw = False
        self._descriptor = descriptor
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        if self._descriptor is not None:
            import termios

            with contextlib.suppress(termios.error):
                self._before = termios.tcgetattr(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None and self._before is not None:
            import termios

            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
            self._before, self.is_raw = None, False

    def set_raw(self) -> None:
        """Set the terminal to raw mode. This method must be called again after the shell has stopped and continued this
        process."""
        if self._descriptor is not None and self._before is not None:
            import termios
            import tty

            with contextlib.suppress(termios.error):
                tty.setraw(self._descriptor, termios.TCSADRAIN)
                self.is_raw = True


def terminal_size() -> tuple[int, int] | None:
    """Return the rows and columns of this process's terminal, or None without a terminal."""
    for descriptor in (1, 0, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(descriptor)
            if size.lines and size.columns:
                return size.lines, size.columns
    return None
