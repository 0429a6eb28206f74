"""Lays out tables for terminals of any width without cutting values that a person may want to copy.

The first column holds ids, which are never cut. If an id is too long for its column, the rest of its row follows on the
next line, so that one long id does not narrow the other columns. The middle columns are never cut either. The last
column gets the remaining width: a reason is cut to one line, and a list continues on further lines. In a pipe or a
file, which has no width, each row is one complete line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

_GAP = 2
_INDENT = 2
# The smallest width of the last column. A column with shorter text may be narrower.
_LEAST_LAST = {"cut": 16, "wrap": 24}


class Columns:
    """A table without borders, which `rich` can print.

    Args:
        names: The headers of the columns.
        last: Whether text that is too long for the last column is cut ("cut") or continues on further lines ("wrap").
    """

    def __init__(self, *names: str, last: Literal["cut", "wrap"] = "cut") -> None:
        self._names = names
        self._last = last
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row with a cell for each column."""
        self._rows.append([_text(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of the table. `rich` calls this method to print the table."""
        header = [_text(name, "dim") for name in self._names]
        layout = _Layout([header, *self._rows], options.max_width, self._last)
        for row in [header, *self._rows]:
            yield from layout.lines(row)


class _Layout:
    """Where the columns of a printed table begin.

    Attributes:
        lead: The position in the row at which the second column begins.
        middle: The widths of the columns between the first and the last.
        is_narrow: Whether the middle columns do not fit next to each other.
    """

    def __init__(self, rows: Sequence[Sequence[Text]], width: int, last: Literal["cut", "wrap"]) -> None:
        self._width = width
        self._cuts = last == "cut"
        widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
        self.middle = widths[1:-1]
        others = sum(size + _GAP for size in self.middle)
        room = width - others - min(widths[-1], _LEAST_LAST[last])
        fitting = [row[0].cell_len + _GAP for row in rows if row[0].cell_len + _GAP <= room]
        # If most ids are too long for their column, every id gets a line of its own. All rows then have the same
        # indent, which is easier to read.
        self.lead = max(fitting) if len(fitting) * 2 > len(rows) else _INDENT
        self.is_narrow = self.lead + others > width

    def lines(self, row: Sequence[Text]) -> Iterator[Text]:
        """Yield the lines of a row."""
        first, *middle, last = row
        if first.cell_len + _GAP > self.lead:
            yield _line(first)
            begin = _text(" " * self.lead)
        else:
            begin = _padded(first, self.lead)
        if self.is_narrow:
            yield from self._stacked(middle, last)
            return
        for cell, size in zip(middle, self.middle, strict=True):
            begin.append_text(_padded(cell, size + _GAP))
        room = self._width - begin.cell_len
        longest = _LEAST_LAST["cut"] if self._cuts else max(word.cell_len for word in last.split(" "))
        if last.cell_len > room and room < longest:
            yield _line(begin)
            begin = _text(" " * _INDENT)
        parts = self._last_lines(last, self._width - begin.cell_len)
        yield _line(_joined(begin, parts[0]))
        for part in parts[1:]:
            yield _line(_joined(_text(" " * begin.cell_len), part))

    def _stacked(self, middle: Sequence[Text], last: Text) -> Iterator[Text]:
        """Yield the lines of a row whose columns do not fit next to each other. Each line contains as many of the
        middle columns as fit. The last column follows on its own lines."""
        line = _text(" " * _INDENT)
        for cell in middle:
            if not cell.cell_len:
                continue
            if line.cell_len > _INDENT and line.cell_len + cell.cell_len > self._width:
                yield _line(line)
                line = _text(" " * _INDENT)
            line.append_text(cell)
            line.append(" " * _GAP)
        if line.cell_len > _INDENT:
            yield _line(line)
        if last.cell_len:
            for part in self._last_lines(last, self._width - _INDENT):
                yield _line(_joined(_text(" " * _INDENT), part))

    def _last_lines(self, text: Text, room: int) -> list[Text]:
        if text.cell_len <= room:
            return [text]
        if self._cuts:
            cut = text.copy()
            cut.truncate(max(room, 1), overflow="ellipsis")
            return [cut]
        return words_in_lines(text, room)


def words_in_lines(text: Text, room: int) -> list[Text]:
    """Split a text into lines between words. A word that is longer than a line is not split."""
    lines: list[Text] = []
    for word in text.split(" "):
        if lines and lines[-1].cell_len + 1 + word.cell_len <= room:
            lines[-1].append(" ")
            lines[-1].append_text(word)
        else:
            lines.append(word.copy())
    return lines


def facts(pairs: Sequence[tuple[str, str | Text]]) -> Facts:
    """Return a `Facts` table of names and their values."""
    return Facts([(name, _text(value)) for name, value in pairs])


class Facts:
    """A list of names with their values, one pair below the other. Long values continue on further lines."""

    def __init__(self, pairs: Sequence[tuple[str, Text]]) -> None:
        self._pairs = pairs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of the list. `rich` calls this method to print the list."""
        size = max((len(name) for name, _ in self._pairs), default=0) + _GAP
        for name, value in self._pairs:
            parts = words_in_lines(value, max(1, options.max_width - size))
            yield _line(_joined(_padded(_text(name, "dim"), size), parts[0]))
            for part in parts[1:]:
                yield _line(_joined(_text(" " * size), part))


def _text(cell: str | Text, style: str = "") -> Text:
    from rich.text import Text

    return Text(cell, style=style) if isinstance(cell, str) else cell.copy()


def _joined(begin: Text, end: Text) -> Text:
    joined = begin.copy()
    joined.append_text(end)
    return joined


def _padded(cell: Text, size: int) -> Text:
    return _joined(_text(""), cell).append(" " * (size - cell.cell_len))


def _line(text: Text) -> Text:
    """Return a line that the console neither wraps nor cuts."""
    text.rstrip()
    text.no_wrap, text.overflow = True, "ignore"
    return text
