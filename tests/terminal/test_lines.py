"""The rules of `lines.py` for unfinished lines, with one test for each, and a test that no byte is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from support.seeds import for_each_seed

from iris.cluster.logs.entries.log_entry import EntryOrigin, LogEntry
from iris.cluster.logs.records import SOURCES
from iris.terminal.block import SETTLES_S
from iris.terminal.lines import Lines


def entries(task: int, text: bytes, *, source: str = "stdout", attempt: int = 0) -> list[LogEntry]:
    """Lines; or one that is not finished, when no newline ends the text."""
    partial = not text.endswith(b"\n")
    block = EntryOrigin("job", task, attempt, SOURCES.index(source), 0, (0, 0, 0), partial=partial)
    return [LogEntry(line, 0, block) for line in (text if partial else text[:-1]).split(b"\n")]


def plain(lines: Lines, *parts: tuple[int, bytes] | tuple[int, bytes, str]) -> bytes:
    return b"".join(
        lines.add(entries(part[0], part[1], source=part[2] if len(part) > 2 else "stdout"), b"") for part in parts
    )


def labelled(lines: Lines, *parts: tuple[int, bytes]) -> bytes:
    return b"".join(lines.add(entries(task, text), b"t%d |" % task) for task, text in parts)


def test_output_lines_without_labels_are_written_unchanged() -> None:
    for is_terminal in (False, True):
        lines = Lines(is_terminal)
        written = plain(lines, (0, b"one\ntwo\n"), (0, b"half"), (0, b" of it\n"), (0, b"\r 1%"), (0, b"\r 2%"))
        assert written == b"one\ntwo\nhalf of it\n\r 1%\r 2%"
        assert lines.rows() == []


def test_line_of_another_task_is_not_appended_to_an_unfinished_line() -> None:
    lines = Lines(False)
    assert plain(lines, (0, b"half"), (0, b"warning\n", "stderr"), (0, b" of it\n")) == b"half\nwarning\n of it\n"
    assert plain(lines, (0, b"half")) == b"half"
    assert lines.interrupt() == b"\n"
    assert lines.interrupt() == b""
    assert lines.add(entries(0, b"half", attempt=0), b"") == b"half"
    assert lines.add(entries(0, b"again\n", attempt=1), b"") == b"\nagain\n"


def test_rest_of_an_interrupted_line_is_marked_as_continuation() -> None:
    lines = Lines(False)
    written = labelled(lines, (0, b"a\nb\n"), (0, b"half"), (0, b" of"), (1, b"other\n"), (0, b" it\n"), (0, b"next\n"))
    assert written.decode() == "t0 | a\nt0 | b\nt0 | half of\nt1 | other\nt0 |… it\nt0 | next\n"
    assert (
        labelled(lines, (0, b"half")) + lines.interrupt() + labelled(lines, (0, b"\n"))
        == b"t0 | half\nt0 |\xe2\x80\xa6\n"
    )


def test_unfinished_lines_stay_in_the_bottom_rows_of_a_terminal() -> None:
    now_s = 0.0
    lines = Lines(True, lambda: now_s)
    assert labelled(lines, (1, b"name? "), (0, b"\r 1%"), (0, b"\r 2%"), (1, b"really? ")) == b""
    assert lines.rows() == [b"t0 |  2%", b"t1 | name? really? "]
    assert labelled(lines, (2, b"whole\n"), (1, b"yes\n"), (0, b"\r 3%\n")) == (b"t2 | whole\nt1 | name? really? yes\n")
    assert lines.rows() == [b"t0 |  3%"], "a bar that the task may still go back to"
    assert lines.settle() == b""
    now_s = SETTLES_S
    assert lines.settle() == b"t0 |  3%\n"
    assert lines.rows() == []
    assert labelled(lines, (0, b"CRLF\r\n"), (0, b"CRLF\r"), (0, b"\n")) == b"t0 | CRLF\n" * 2


def test_terminal_rows_contain_no_cursor_movement() -> None:
    lines = Lines(True)
    labelled(lines, (0, b"\x1b[31mred\x1b[0m\x1b[2C\x1b[2J\x1b]0;title\x07\x08\x00 \x1b7\tend\x1b"))
    assert lines.rows() == [b"t0 | \x1b[31mred\x1b[0m \tend"]


def test_erased_progress_bar_leaves_no_row_on_the_terminal() -> None:
    lines = Lines(True)
    assert labelled(lines, (0, b"\r 99%"), (0, b"\r     \r")) == b""
    assert lines.rows() == []
    assert lines.end() == b""


def test_progress_bar_in_a_pipe_is_held_back_until_its_line_ends() -> None:
    lines = Lines(False)
    assert labelled(lines, (0, b"\r 1%"), (1, b"\r 1%"), (0, b"\r 2%"), (2, b"other\n")) == b"t2 | other\n"
    assert labelled(lines, (0, b"\r 3%\n")) == b"t0 | \r 1%\r 2%\r 3%\n"
    assert labelled(lines, (3, b"copying: "), (3, b"\r 1%"), (3, b"\r 2%\n")) == b"t3 | copying: \r 1%\r 2%\n"
    long = b"\r" + b"x" * 40_000
    assert labelled(lines, (4, long)) == b""
    assert labelled(lines, (4, long), (2, b"other\n"), (4, b"\n")) == (
        b"t4 | " + long + long + "\nt2 | other\nt4 |…\n".encode()
    )


@pytest.mark.parametrize("is_terminal", [False, True])
def test_unfinished_line_ends_with_a_newline_when_its_task_ends(is_terminal: bool) -> None:
    lines = Lines(is_terminal)
    assert labelled(lines, (1, b"one"), (0, b"\r 1%")) + lines.end() == (
        b"t0 | \x201%\nt1 | one\n" if is_terminal else b"t1 | one\nt0 | \r 1%\n"
    )
    assert plain(lines, (0, b"half")) + lines.end() == (b"half\n" if is_terminal else b"half")
    assert lines.end() == b""
    labelled(lines, (1, b"one"), (0, b"\r 1%"))
    assert lines.end(0).endswith(b"1%\n")
    assert lines.rows() == ([b"t1 | one"] if is_terminal else [])


@pytest.mark.parametrize("is_terminal", [False, True])
def test_unfinished_line_of_an_attempt_is_ended_when_the_next_attempt_writes(is_terminal: bool) -> None:
    lines = Lines(is_terminal)
    first = lines.add(entries(0, b"\r 1%", source="stderr"), b"t0 |")
    second = lines.add(entries(0, b"again\n", attempt=1), b"t0 |")
    assert first + second == b"t0 | %b 1%%\nt0 | again\n" % (b"" if is_terminal else b"\r")


def test_line_longer_than_the_line_buffer_is_printed_in_pieces() -> None:
    lines = Lines(True)
    long = b"x" * (64 * 1024)
    assert labelled(lines, (0, long), (0, b"y"), (0, b"z\n")) == b"t0 | " + long + "\nt0 |…yz\n".encode()


@for_each_seed(20)
def test_every_output_byte_of_every_task_is_printed_once(seed: int) -> None:
    """In a pipe, with labels, whatever is written in between: labels and marks taken away, the bytes are those."""
    chance = random.Random(seed)
    lines = Lines(False)
    texts = {task: b"".join(_some_lines(chance)) for task in range(3)}
    left = dict(texts)
    written = b""
    while any(left.values()):
        task = chance.choice([task for task in left if left[task]])
        piece = left[task][: chance.choice((1, 3, 10, 50))]
        whole = piece[: piece.rfind(b"\n") + 1] or piece
        left[task] = left[task][len(whole) :]
        written += labelled(lines, (task, whole))
    written += lines.end()
    for task, text in texts.items():
        shown = b""
        for line in written.split(b"\n"):
            if line.startswith(b"t%d |\xe2\x80\xa6" % task):
                shown = shown.removesuffix(b"\n") + line[7:] + b"\n"
            elif line.startswith(b"t%d | " % task):
                shown += line[5:] + b"\n"
        assert shown == text


def _some_lines(chance: random.Random) -> Iterator[bytes]:
    for _ in range(20):
        yield bytes(chance.choices(b"ab \r", k=chance.choice((0, 1, 5, 40)))) + b"\n"
