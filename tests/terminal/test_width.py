"""A row that is cut shows only the characters that fit."""

from __future__ import annotations

import pytest

from iris.terminal.width import cut_row

RESET = "\x1b[0m"


@pytest.mark.parametrize(
    ("row", "columns", "shown", "width"),
    [
        ("", 5, "", 0),
        ("abc", 5, "abc", 3),
        ("abcde", 5, "abcde", 5),
        ("abcdef", 5, "abcde", 5),
        ("世界世界", 5, "世界", 4),
        ("a世界x", 5, "a世界", 5),
        ("abcde\u0301f", 5, "abcde\u0301", 5),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301e\u0301", 2),
        ("abcd世\u0301", 5, "abcd", 4),
        ("👩\u200d👩x", 2, "👩\u200d👩", 2),
        ("\x1b[31mabcdef\x1b[0m", 3, f"\x1b[31mabc{RESET}", 3),
        ("\x1b[31mab\x1b[0m", 3, f"\x1b[31mab{RESET}", 2),
        ("ab\x1b[31m\x1b[1mc", 2, f"ab\x1b[31m\x1b[1m{RESET}", 2),
        ("a\tb", 20, "a       b", 9),
        ("a\tb", 5, "a    ", 5),
        ("abcde\tb", 5, "abcde", 5),
    ],
)
def test_terminal_row_is_cut_at_the_width_of_the_terminal(row: str, columns: int, shown: str, width: int) -> None:
    cut, at = cut_row(row.encode(), columns)
    assert (cut.decode(), at) == (shown, width)
