"""Progress on a terminal, in a pipe, and in a notebook."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.terminal_program import GO_ON, TerminalProgram

from iris.display.board import progress_kind, show_progress
from iris.display.progress import Progress
from iris.errors import InvalidArgumentError

BEGIN = """
from iris.display.board import show_progress
from iris.display.progress import Progress
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], TerminalProgram]]:
    programs: list[TerminalProgram] = []

    def start_program(text: str) -> TerminalProgram:
        programs.append(TerminalProgram(BEGIN + text, tmp_path))
        return programs[-1]

    yield start_program
    for program in programs:
        program.close()


def test_progress_line_on_a_terminal_is_updated_in_place_and_replaced_by_the_final_text(
    start: Callable[[str], TerminalProgram],
) -> None:
    program = start(
        """
print("before")
with show_progress(None, Progress("map", total=4, unit="inputs"), quiet_s=0) as shown:
    go_on()
    shown.update(Progress("map", total=4, done=3, unit="inputs"))
    go_on()
    shown.print("a notice")
    go_on()
    shown.finish("map: done")
print("after")
"""
    )
    program.shows("before", "map  [........................]  0/4 inputs")
    program.go_on()
    program.shows("before", "3/4 inputs")
    program.go_on()
    program.shows("before", "iris: a notice", "3/4 inputs")
    program.go_on()
    assert program.terminal.exit_code() == 0
    assert program.terminal.screen == ["before", "iris: a notice", "iris: map: done", "after", ""]


def test_two_progress_displays_on_a_terminal_have_a_row_each(start: Callable[[str], TerminalProgram]) -> None:
    program = start(
        """
with show_progress(None, Progress("first", total=1), quiet_s=0):
    with show_progress(None, Progress("second", total=1), quiet_s=0) as shown:
        go_on()
        shown.finish("second is done")
    go_on()
"""
    )
    program.shows("first", "second")
    program.go_on()
    program.shows("iris: second is done", "first")
    program.go_on()
    assert program.terminal.exit_code() == 0
    assert program.terminal.screen == ["iris: second is done", ""]


def test_progress_after_a_fork_is_shown_by_the_child(start: Callable[[str], TerminalProgram]) -> None:
    program = start(
        """
with show_progress(None, Progress("parent", total=1), quiet_s=0):
    go_on()
if os.fork() == 0:
    with show_progress(None, Progress("child", total=1), quiet_s=0):
        go_on()
    os._exit(0)
os.wait()
"""
    )
    program.shows("parent")
    program.go_on()
    program.shows("child")
    program.go_on()
    assert program.terminal.exit_code() == 0


def test_error_inside_a_progress_block_removes_the_progress_line(start: Callable[[str], TerminalProgram]) -> None:
    program = start(
        """
try:
    with show_progress(None, Progress("work", total=1), quiet_s=0):
        go_on()
        raise KeyError("lost")
except KeyError:
    print("failed")
"""
    )
    program.shows("work")
    program.go_on()
    assert program.terminal.exit_code() == 0
    assert program.terminal.screen == ["failed", ""]


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", GO_ON + BEGIN + program, "0"], capture_output=True, text=True, check=True
    )


def test_broken_stderr_ends_the_progress_display_and_not_the_program(start: Callable[[str], TerminalProgram]) -> None:
    program = start(
        """
class Broken:
    encoding = "utf-8"
    def isatty(self): return True
    def flush(self): pass
    def fileno(self):
        if len(calls) > 3:
            raise RuntimeError("broken")
        calls.append(1)
        return 2
calls = []
sys.stderr = Broken()
with show_progress(None, Progress("work", total=2), quiet_s=0) as shown:
    go_on()
    shown.update(Progress("work", total=2, done=1))
    shown.finish("done")
print("\\nthe work is done")
"""
    )
    program.go_on()
    assert program.terminal.exit_code() == 0
    assert "the work is done" in program.terminal.screen


def test_progress_in_a_pipe_is_not_shown_by_default() -> None:
    program = 'with show_progress(None, Progress("work"), quiet_s=0) as shown:\n    print(shown.is_shown)'
    done = run(program)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_requested_progress_in_a_pipe_is_printed_as_lines() -> None:
    done = run(
        """
import threading
written = threading.Event()
class Stream:
    encoding = "utf-8"
    def write(self, text): sys.__stderr__.write(text); written.set()
    def flush(self): sys.__stderr__.flush()
    def isatty(self): return False
sys.stderr = Stream()
with show_progress(True, Progress("work", total=2, state="PENDING"), quiet_s=0) as shown:
    assert written.wait(60)
    written.clear()
    shown.update(Progress("work", total=2, done=1, state="RUNNING"))
    assert written.wait(60)
    shown.finish("work is done")
"""
    )
    lines = done.stderr.splitlines()
    assert [line.partition(" tasks")[0] for line in lines] == [
        "iris: work: PENDING; 0/2",
        "iris: work: RUNNING; 1/2",
        "iris: work is done",
    ]


@pytest.mark.parametrize("wanted", ["yes", 1, 0, [], object()])
def test_wrong_value_of_progress_is_refused(wanted: object) -> None:
    with pytest.raises(InvalidArgumentError, match="progress must be True, False, or None"):
        show_progress(wanted, Progress("work"))  # type: ignore[arg-type]


def test_progress_with_the_value_false_is_never_shown() -> None:
    assert progress_kind(False) is None
