"""Draws a table as text or as HTML. This module writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from iris.terminal.width import width_of

_GAP = "  "
_LONGEST_LAST = 100  # In text, the last column is cut to this many characters.


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a title.

    Attributes:
        title: What the table shows, in one line.
        columns: The names of the columns.
        rows: The rows, each with a text for each column. The text may come from tasks and is escaped.
        note: A remark below the table, for example how many rows are left out. An empty string if there is no remark.
        colours: The colours in HTML of texts that fill a cell, for example `{"FAILED": "#c0392b"}`.
    """

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""
    colours: Mapping[str, str] = field(default_factory=dict)


def table_text(*tables: Table) -> str:
    """Return tables as text, one below the other. Each row is one line, without control characters."""
    return "\n\n".join("\n".join(_text_lines(table)) for table in tables)


def table_html(*tables: Table) -> str:
    """Return tables as a fragment of HTML without scripts. All text of the tables is escaped."""
    return "<div>" + "".join(_html_of(table) for table in tables) + "</div>"


def _text_lines(table: Table) -> list[str]:
    lines = [plain_line(table.title)] if table.title else []
    # A column without any text is left out.
    used = [number for number in range(len(table.columns)) if any(row[number] for row in table.rows)]
    if table.rows and used:
        header = [table.columns[number].upper() for number in used]
        cells = [header, *([plain_line(row[number]) for number in used] for row in table.rows)]
        for row in cells[1:]:
            row[-1] = row[-1] if len(row[-1]) <= _LONGEST_LAST else row[-1][: _LONGEST_LAST - 1] + "…"
        widths = [max(_width(row[number]) for row in cells) for number in range(len(used))]
        lines += [
            _GAP.join(_padded(cell, size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
    if table.note:
        lines.append(plain_line(table.note))
    return lines


def _html_of(table: Table) -> str:
    parts = [f"<div><b>{escaped(table.title)}</b></div>"] if table.title else []
    used = [number for number in range(len(table.columns)) if any(row[number] for row in table.rows)]
    if table.rows and used:
        header = "".join(f'<th style="text-align:left">{escaped(table.columns[number])}</th>' for number in used)
        rows = "".join(f"<tr>{''.join(_cell(table, row[number]) for number in used)}</tr>" for row in table.rows)
        parts.append(f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>")
    if table.note:
        parts.append(f"<div><i>{escaped(table.note)}</i></div>")
    return "".join(parts)


def _cell(table: Table, text: str) -> str:
    colour = table.colours.get(text)
    style = "text-align:left" + (f";color:{colour};font-weight:bold" if colour else "")
    return f'<td style="{style}">{escaped(text)}</td>'


def escaped(text: str) -> str:
    """Return text as one line of HTML."""
    import html  # Imported here, because it takes milliseconds and few programs show HTML.

    return html.escape(plain_line(text))


def plain_line(text: str) -> str:
    """Return text as one line, with `?` for characters that a terminal or a page would not print."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def _width(text: str) -> int:
    return sum(map(width_of, text))


def _padded(text: str, size: int) -> str:
    return text + " " * (size - _width(text))
