"""How wide text is on a terminal, and where a row has to be cut."""

from __future__ import annotations

import re
import unicodedata

from iris.terminal.controls import RESET

_PARTS = re.compile("\x1b\\[[0-9;:]*m|.", re.DOTALL)
_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"
_TAB = 8


def width_of(character: str) -> int:
    """Return how many columns a character takes: none, one or two."""
    if " " <= character <= "~":
        return 1
    if character == "\xad":
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf", "Cc") or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut_row(row: bytes, columns: int) -> tuple[bytes, int]:
    """Cut a row at the width of a terminal.

    A character of two columns that does not fit is left out, marks stay with the character that they belong to, and
    colours end with the row. Tabs become spaces.

    Args:
        row: Text in UTF-8, with colour sequences and no other controls.
        columns: The width.

    Returns:
        The row, and how many columns it takes.
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
            last = min(2 - last, columns - at) if last == 1 else 0  # it makes the character before it wide
        else:
            last = 0 if is_joined else width_of(part)
        is_joined = part == _JOINER
        if at + last > columns or not part:
            break
        kept.append(part)
        at += last
    text = "".join(kept)
    return text.encode() + (RESET if has_colour and not text.endswith(RESET.decode()) else b""), at
