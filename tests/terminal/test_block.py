"""Nested progress bars of a task are redrawn in place, and become ordinary lines in the end."""

from __future__ import annotations

import random

import pytest
from support.seeds import for_each_seed

from iris.cluster.logs.entries.log_entry import EntryOrigin, LogEntry
from iris.terminal.block import SETTLES_S
from iris.terminal.lines import Lines

UP = b"\x1b[A"


def tqdm_bars(outer: int, inner: int, *, leaves: bool) -> bytes:
    """What tqdm writes for two nested bars; `leaves`: the inner one stays."""
    text = b""
    for at in range(outer):
        text += b"\r%s outer" % str(at).encode()
        for part in range(inner + 1):
            text += b"\n\r%d inner" % part + UP
        text += b"\n\r" + (b"%d inner" % inner if leaves else b"       \r") + UP
    return text + b"\r%d outer\n" % outer


def rich_bars(steps: int) -> bytes:
    """What rich writes for two bars that it draws anew."""
    text = b"\x1b[?25l"
    for step in range(steps):
        if step:
            text += b"\r\x1b[2K\x1b[1A\x1b[2K"
        text += b"\x1b[31mone\x1b[0m %d\ntwo %d" % (step, step)
    return text + b"\n\x1b[?25h"


class View:
    """Lines on a terminal, and what was written of them."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lines = Lines(True, lambda: self.now_s)
        self.written = b""

    def add(self, data: bytes, task: int = 0) -> None:
        """Bytes of a task as a reader of pieces gets them: finished lines, then what is not finished."""
        whole, newline, rest = data.rpartition(b"\n")
        for text, partial in ((whole, False), (rest, True)):
            if newline if not partial else text:
                block = EntryOrigin("job", task, 0, 0, 0, (0, 0, 0), partial=partial)
                entries = [LogEntry(line, 0, block) for line in ([text] if partial else text.split(b"\n"))]
                self.written += self.lines.add(entries, b"t%d |" % task)

    def text(self) -> list[str]:
        return self.written.decode().splitlines()


def pieces(data: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted(chance.sample(range(len(data)), k=min(len(data), 40)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@for_each_seed(20)
@pytest.mark.parametrize("leaves", [False, True])
def test_nested_progress_bars_leave_only_their_last_states(seed: int, leaves: bool) -> None:
    view = View()
    data = b"before\n" + tqdm_bars(3, 4, leaves=leaves)
    for piece in [data] if seed == 0 else pieces(data, random.Random(seed)):
        view.add(piece)
        assert len(view.lines.rows()) <= 3
    view.written += view.lines.end()
    assert view.text() == ["t0 | before", "t0 | 3 outer", *(["t0 | 4 inner"] if leaves else [])]
    assert view.lines.rows() == []


@for_each_seed(20)
def test_redrawn_bars_leave_only_their_last_states(seed: int) -> None:
    view = View()
    data = rich_bars(9)
    for piece in [data] if seed == 0 else pieces(data, random.Random(seed)):
        view.add(piece)
    view.written += view.lines.end()
    assert view.text() == ["t0 | \x1b[31mone\x1b[0m 8", "t0 | two 8"]


def test_lines_after_nested_progress_bars_are_written_at_once() -> None:
    view = View()
    view.add(tqdm_bars(1, 1, leaves=False))
    for number in range(5):
        view.add(b"line %d\n" % number)
    assert view.text() == ["t0 | 1 outer", *(f"t0 | line {number}" for number in range(5))]
    assert view.lines.rows() == []


def test_lines_of_other_tasks_are_printed_above_nested_progress_bars() -> None:
    view = View()
    view.add(b"\r0 outer\n\r0 inner" + UP)
    view.add(b"other\n", task=1)
    assert view.text() == ["t1 | other"]
    assert view.lines.rows() == [b"t0 | 0 outer", b"t0 | 0 inner"]
    view.add(b"\n\r1 inner" + UP)
    assert view.lines.rows() == [b"t0 | 0 outer", b"t0 | 1 inner"]
    assert view.lines.settle() == b""


def test_ended_progress_bar_becomes_a_line_when_other_output_or_a_pause_follows() -> None:
    view = View()
    view.add(b"\r 99%\r100%\n")
    view.add(b"next\n")
    assert view.text() == ["t0 | 100%", "t0 | next"]
    view.add(b"\r 99%\r100%\n")
    assert view.lines.rows() == [b"t0 | 100%"]
    view.now_s += SETTLES_S
    assert view.lines.settle() == b"t0 | 100%\n"
    assert view.lines.rows() == []
    view.add(b"plain\n")
    assert view.text()[-1] == "t0 | plain"


def test_number_of_rows_is_bounded_if_a_task_moves_the_cursor_up_endlessly() -> None:
    view = View()
    chance = random.Random(3)
    for _ in range(2000):
        view.add(
            chance.choice([b"\n", b"\r", UP, b"\x1b[99A", b"\x1b[3B", b"x" * 1000, b"\x1b[2K", b"\x1b", b"[", b"A"])
        )
        assert len(view.lines.rows()) <= 20
    view.written += view.lines.end()
    assert view.lines.rows() == []
    assert UP not in view.written
