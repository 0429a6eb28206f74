"""Prints notices for the user on stderr. This is the default of every `on_notice` argument."""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO

from iris.errors import visible
from iris.terminal.encoding import encode_text


def print_notice(text: str) -> None:
    """Print a notice on stderr. Do nothing if the program has no stderr or has closed stderr."""
    with contextlib.suppress(OSError):  # A notice that cannot be written must not end the program.
        write_text(sys.stderr, f"iris: {visible(text)}\n")


def write_text(stream: TextIO | None, text: str) -> bool:
    """Write text and flush it. Characters that the stream cannot encode are replaced.

    Args:
        stream: The stream to write to. If it is None, nothing is written. For example, `sys.stderr` is None in a
            program without stderr.
        text: The text to write.

    Returns:
        False if the stream was closed, or if its reader has closed the pipe.
    """
    if stream is None:
        return True
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(encode_text(text, encoding).decode(encoding))
        stream.flush()
    except (BrokenPipeError, ValueError):
        return False
    return True
