r"""Filters control sequences out of the output of tasks before it reaches a terminal. Colours are kept.

The filter drops sequences that move the cursor, clear, scroll, set modes, titles, links, or character sets, or make the
terminal answer, in their 7-bit and 8-bit forms. The filter also drops all control characters except tab, `\r`, and
newline. The text of a link (OSC 8) is kept. A sequence may arrive in several pieces.
"""

from __future__ import annotations

import codecs
import re
from typing import TypeVar

T = TypeVar("T", str, bytes)
RESET = b"\x1b[0m"
_RESETS = (RESET, b"\x1b[m")
# The largest number of colour sequences that are repeated at the start of a line.
_MOST_COLOURS = 16
# The largest number of characters kept of a control sequence whose end has not arrived.
_LONGEST_PENDING = 64
_CSI = "(?:\x1b\\[|\x9b)"
_STRING = "(?:\x1b[\\]PX^_]|[\x90\x98\x9d\x9e\x9f])"  # OSC, DCS, SOS, PM, APC
_TOKENS = re.compile(
    f"(?P<colour>{_CSI}[0-9;:]*m)"
    f"|(?P<pending>{_CSI}[0-?]*[ -/]*\\Z|\x1b[ -/]*\\Z|(?P<string>{_STRING})[^\x07\x1b\x9c]*(?P<escape>\x1b?)\\Z)"
    f"|{_CSI}[0-?]*[ -/]*[@-~]?"
    f"|{_STRING}[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)?"
    "|\x1b[ -/]*[0-~]?"
    "|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\udc80-\udc9f]"
)
# All bytes except control characters of 7 bits. Tabs, newlines and carriage returns are harmless, too.
_HARMLESS = bytes([*b"\t\n\r", *range(0x20, 0x7F), *range(0x80, 0x100)])
_C1 = re.compile(b"\xc2[\x80-\x9f]")
_COLOURS = re.compile(rb"\x1b\[([0-9;:]*)m")


def is_harmless(data: bytes) -> bool:
    """Return whether the data contains no control sequences and no colours. This check is fast."""
    if data.translate(None, _HARMLESS):
        return False
    if data.isascii():
        return True
    if _C1.search(data):
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False  # A byte that is not UTF-8 may be an 8-bit control character, which the filter must remove.
    return True


def active_colours(data: bytes) -> bytes:
    """Return the colour sequences that are active at the end of the data."""
    active: list[bytes] = []
    for found in _COLOURS.finditer(data):
        _apply(found.group(1).decode(), found.group(), active)
    return b"".join(active)


def _has_only_colours(data: bytes) -> bool:
    if not is_harmless(_COLOURS.sub(b"", data)):
        return False
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        # A colour sequence stands between the bytes of one character. Only the slow path can filter such a line.
        return False
    return True


class ControlFilter:
    """Filters the output of one task and source line by line.

    Each returned line sets and resets its own colours. If colours are still active at the end of a line, the filter
    resets them there and sets them again at the start of the next line.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._pending = ""
        self._colours: list[str] = []
        self._is_in_line = False

    def filter(self, data: bytes, *, ends_line: bool) -> bytes:
        """Return the filtered text of a line or of a piece of a line.

        Args:
            data: The text without the newline.
            ends_line: Whether `data` completes the line. If not, more pieces of the line follow.
        """
        begin = "" if self._is_in_line else "".join(self._colours)
        # This fast path handles lines that contain only colours. The code below handles all control sequences, but is
        # ten times slower.
        if ends_line and not self._is_in_line and _has_only_colours(data):
            # If the last sequence resets all colours, as in most lines, no colour stays active.
            if data.startswith(_RESETS, data.rfind(b"\x1b[")):
                self._colours.clear()
                return begin.encode() + data
            for found in _COLOURS.finditer(data):
                _apply(found[1].decode(), found[0].decode(), self._colours)
            return begin.encode() + data + (RESET if self._colours else b"")
        text, self._pending = self._pending + self._decoder.decode(data, final=ends_line), ""
        shown = begin + _TOKENS.sub(self._keep, text)
        self._is_in_line = not ends_line
        if ends_line:
            self._pending = ""
            self._decoder.reset()
            if self._colours:
                shown += RESET.decode()
        return shown.encode("utf-8", "surrogateescape")

    def _keep(self, found: re.Match[str]) -> str:
        sequence = found.group()
        if found["colour"] is not None:
            parameters = sequence.removeprefix("\x1b[").removeprefix("\x9b")[:-1]
            colour = f"\x1b[{parameters}m"
            _apply(parameters, colour, self._colours)
            return colour
        if found["string"] is not None:
            # The control sequence contains a string, which a terminal does not show. Therefore the string is dropped.
            self._pending = found["string"] + found["escape"]
        elif found["pending"] is not None and len(sequence) <= _LONGEST_PENDING:
            self._pending = sequence
        return ""


def _apply(parameters: str, colour: T, active: list[T]) -> None:
    """Add a colour sequence to the active sequences. A sequence that resets all colours clears the list."""
    numbers = parameters.split(";")
    if not numbers[0].strip("0"):  # In a colour sequence, the number 0 or an empty number resets all colours.
        active.clear()
        if len(numbers) == 1:
            return
    if active[-1:] != [colour]:
        active.append(colour)
    del active[:-_MOST_COLOURS]
