"""Runs a Python program in a simulated terminal, and lets the test decide when the program continues."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from support.terminal import Terminal
from support.waiting import wait_until

# A program calls `go_on` to wait for `go_on` of the test.
GO_ON = """
import os, sys

def go_on():
    assert os.read(int(sys.argv[1]), 1)
"""


class TerminalProgram:
    """A Python program in a terminal that waits for the test whenever it calls `go_on()`.

    Args:
        text: The program. It begins after the definition of `go_on`.
        directory: The directory in which the program starts.
        words: Further arguments of the program, from `sys.argv[2]` on.
    """

    def __init__(self, text: str, directory: Path, *words: str) -> None:
        ours, self._wake = os.pipe()
        command = [sys.executable, "-c", GO_ON + text, str(ours), *words]
        env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self.terminal = Terminal(command, env, directory, columns=100, pass_fds=[ours])
        os.close(ours)

    def go_on(self) -> None:
        """Let the program continue after its next `go_on()`."""
        os.write(self._wake, b"!")

    def shows(self, *parts: str) -> None:
        """Wait until the last lines of the screen contain these texts, one for each line."""

        def is_shown() -> bool:
            last = self.terminal.screen[-len(parts) :]
            return len(last) == len(parts) and all(part in line for part, line in zip(parts, last, strict=True))

        try:
            wait_until(is_shown)
        except AssertionError:
            raise AssertionError(f"waited in vain for {parts}; the screen is {self.terminal.screen}") from None

    def close(self) -> None:
        """End the program."""
        os.close(self._wake)
        self.terminal.close()
