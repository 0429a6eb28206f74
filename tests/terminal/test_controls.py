"""Colours of a task are kept, and all other control sequences are dropped, however the bytes are split."""

from __future__ import annotations

import random

import pytest

from iris.errors import visible
from iris.terminal.controls import ControlFilter, active_colours, is_harmless

RED, RESET = b"\x1b[31m", b"\x1b[0m"
KEPT = [
    b"plain",
    b"tab\tand \r return",
    "grüße € 世 🙂 e\u0301".encode(),
    b"\x1b[1;31mred\x1b[0m",
    b"\x1b[38;5;208morange\x1b[38:2::1:2:3mrgb\x1b[m",
    b"\xff\xfe no text \xe2",
]
DROPPED = [
    b"\x1b[2J",
    b"\x1b[H",
    b"\x1b[3;4H",
    b"\x1b[2A",
    b"\x1b[K",
    b"\x1b[?25l",
    b"\x1b[?1049h",
    b"\x1b[6n",
    b"\x1b[>4;2m",
    b"\x1b[?4m",
    b"\x1b[!p",
    b"\x1b[ q",
    b"\x1b7",
    b"\x1b8",
    b"\x1bc",
    b"\x1bM",
    b"\x1b(0",
    b"\x1b%G",
    b"\x1b#8",
    b"\x0e",
    b"\x0f",
    b"\x07",
    b"\x08",
    b"\x0b",
    b"\x0c",
    b"\x00",
    b"\x7f",
    b"\x1b]0;title\x07",
    b"\x1b]2;title\x1b\\",
    "\x1b]0;tïtle €\x07".encode(),
    b"\x1b]52;c;aGVsbG8=\x07",
    b"\x1b]8;;http://example.org\x1b\\",
    b"\x1bPq#0;2;0;0;0\x1b\\",
    b"\x1b_Gf=100;AAAA\x1b\\",
    b"\x1b^private\x1b\\",
    b"\x1bXstring\x1b\\",
    b"\x1bkscreen title\x1b\\"[:2],
    "\x9b2J".encode(),
    "\x9d0;title\x9c".encode(),
    "\x84\x85\x8d\x90q\x9c".encode(),
    b"\x84\x8d",
]


def whole(data: bytes) -> bytes:
    return ControlFilter().filter(data, ends_line=True)


@pytest.mark.parametrize("data", KEPT)
def test_control_filter_keeps_text_and_colours(data: bytes) -> None:
    assert whole(data) == data


@pytest.mark.parametrize("sequence", DROPPED)
def test_control_sequence_for_the_terminal_is_removed(sequence: bytes) -> None:
    assert whole(b"a" + sequence + b"b") == b"ab"
    assert not is_harmless(b"a" + sequence + b"b")


@pytest.mark.parametrize("data", [b"plain", b"a\tb\rc\nd", "grüße € 世".encode()])
def test_plain_text_contains_no_control_sequences(data: bytes) -> None:
    assert is_harmless(data)
    assert not is_harmless(data + b"\x1b[31m")


@pytest.mark.parametrize("sequence", [*DROPPED, "é€🙂".encode(), RED + b"x" + RESET])
def test_line_that_arrives_in_pieces_is_printed_like_a_whole_line(sequence: bytes) -> None:
    data = b"a" + sequence + b"b" + sequence + b"c"
    for seed in range(20):
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(len(data) + 1), k=min(4, len(data))))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        parts = ControlFilter()
        shown = [parts.filter(piece, ends_line=False) for piece in pieces[:-1]]
        assert b"".join([*shown, parts.filter(pieces[-1], ends_line=True)]) == whole(data)


def test_control_filter_keeps_only_the_colours_of_random_bytes() -> None:
    chance = random.Random(7)
    alphabet = [b"\x1b", b"[", b"]", b"P", b"m", b"3", b";", b"J", b"\x07", b"\\", b"\xc2", b"\x9b", b"a", b"?", b"\r"]
    for _ in range(3000):
        lines = ControlFilter()
        for _ in range(3):
            pieces = [b"".join(chance.choices(alphabet, k=chance.randrange(12))) for _ in range(3)]
            shown = b"".join(lines.filter(piece, ends_line=piece is pieces[-1]) for piece in pieces)
            text = shown.decode(errors="surrogateescape")
            rest = whole(shown)
            assert rest == shown, (pieces, shown)
            assert not any(character in text for character in "\x07\x9b")
            assert active_colours(shown) == b""


def test_colours_end_with_their_line_and_begin_again_in_the_next() -> None:
    lines = ControlFilter()
    assert lines.filter(b"a\x1b[31mred", ends_line=True) == b"a" + RED + b"red" + RESET
    assert lines.filter(b"still", ends_line=True) == RED + b"still" + RESET
    assert lines.filter(b"end\x1b[0m none", ends_line=True) == RED + b"end" + RESET + b" none"
    assert lines.filter(b"none", ends_line=True) == b"none"


def test_unfinished_control_string_hides_no_text_of_later_lines() -> None:
    lines = ControlFilter()
    assert lines.filter(b"a\x1b]0;never ended", ends_line=False) == b"a"
    assert lines.filter(b" hidden" * 1000, ends_line=False) == b""
    assert lines.filter(b" hidden", ends_line=True) == b""
    assert lines.filter(b"next", ends_line=True) == b"next"


def test_number_of_repeated_colour_sequences_is_bounded() -> None:
    lines = ControlFilter()
    lines.filter(b"".join(b"\x1b[38;5;%dm" % n for n in range(1000)), ends_line=True)
    assert len(lines.filter(b"", ends_line=True)) < 300


def test_foreign_text_in_a_message_is_visible_and_cannot_control_the_terminal() -> None:
    assert visible("a\x1b[2J\x9b\u202eb\nc\td") == "a\\x1b[2J\\x9b\\u202eb\nc\td"
