"""Measures and cuts text by its width on a terminal."""

from __future__ import annotations

import re
import unicodedata

from iris.terminal.controls import RESET

_PARTS = re.compile("\x1b\\[[0-9;:]*m|.", re.DOTALL)
_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"
_TAB = 8


def width_of(character: str) -> int:
    """Return the number of columns that a character occupies: 0, 1, or 2."""
    if " " <= character <= "~":
        return 1
    if character == "\xad":
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf", "Cc") or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut_row(row: bytes, columns: int) -> tuple[bytes, int]:
    """Cut a row at the width of a terminal.

    A wide character that does not fit into the row is left out. Combining marks stay with their character. Colours are
    reset at the end of the row. Tabs become spaces.

    Args:
        row: UTF-8 text with colour sequences and no other control characters.
        columns: The width of the terminal.

    Returns:
        The row, and the number of columns that it occupies.
    """
    kept: list[str] = []
    at = last = 0
    is_joined = has_colour = False
    for part in _PARTS.findall(row.decode("utf-8", "replace")):
        if part[0] == "\x1b":
            kept.append(part)
            has_colour = True
            continue
        if part == "\t":
            part = " " * min(_TAB - at % _TAB, columns - at)
            last = len(part)
        elif part == _EMOJI_STYLE:
            # A variation selector for emoji makes the character before it two columns wide.
            last = min(2 - last, columns - at) if last == 1 else 0
        else:
            last = 0 if is_joined else width_of(part)
        is_joined = part == _JOINER
        if at + last > columns or not part:
            break
        kept.append(part)
        at += last
    text = "".join(kept)
    return text.encode() + (RESET if has_colour and not text.endswith(RESET.decode()) else b""), at
