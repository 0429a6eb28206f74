"""Rows of unfinished lines on a real terminal that becomes narrower, with all kinds of characters."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cluster import unique
from support.terminal import Terminal
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer

# Shows what comes on stdin: a label, a tab, and a piece of a line, or a line where a newline ends it.
SHOWS = """
import sys
from iris.cluster.logs.entries.log_entry import EntryOrigin, LogEntry
from iris.terminal.outlet import Outlet
from iris.terminal.screen import Screen

screen = Screen(Outlet(sys.stdout), Outlet(sys.stderr))
for command in sys.stdin:
    task, text = eval(command)
    if task is None:
        screen.emit(screen.stdout, screen.lines.end())
        break
    partial = not text.endswith("\\n")
    block = EntryOrigin("job", task, 0, 0, 0, (0, 0, 0), partial=partial)
    entries = [LogEntry(line.encode(), 0, block) for line in (text if partial else text[:-1]).split("\\n")]
    screen.emit(screen.stdout, screen.lines.add(entries, b"t%d |" % task))
"""


class Shown:
    """A terminal in which `SHOWS` runs."""

    def __init__(self, folder: Path, columns: int) -> None:
        reads, self._writes = os.pipe()
        program = f"import os; os.dup2({reads}, 0)\n{SHOWS}"
        env = {name: value for name, value in os.environ.items() if name not in ("XTERM_VERSION", "STY")}
        self.terminal = Terminal(
            [sys.executable, "-c", program], env | {"NO_COLOR": "1"}, folder, columns=columns, pass_fds=(reads,)
        )
        os.close(reads)

    def add(self, task: int | None, text: str) -> None:
        os.write(self._writes, repr((task, text)).encode() + b"\n")

    def close(self) -> None:
        os.close(self._writes)
        self.terminal.close()


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Callable[[int], Shown]]:
    opened: list[Shown] = []

    def begin(columns: int) -> Shown:
        opened.append(Shown(tmp_path, columns))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()


@pytest.mark.parametrize("narrow", [7, 10, 15, 19, 20, 21, 39])
def test_terminal_that_becomes_narrower_keeps_no_stale_rows(shown: Callable[[int], Shown], narrow: int) -> None:
    view = shown(40)
    view.add(2, "whole\n")
    view.add(0, "a" * 60)
    view.add(1, "b" * 20)
    view.terminal.shows("t2 | whole", "t0 | " + "a" * 35, "t1 | " + "b" * 20)
    view.terminal.resize(narrow)
    view.add(1, "b")
    rows = [f"t0 | {'a' * 35}"[:narrow], f"t1 | {'b' * 21}"[:narrow]]
    above = ["t2 | whole"[start : start + narrow] for start in range(0, len("t2 | whole"), narrow)]
    view.terminal.shows(*(part.rstrip() for part in above), *rows)
    assert len(view.terminal.screen) == len(above) + 2
    view.terminal.resize(40)
    view.add(1, "b")
    view.terminal.shows("t0 | " + "a" * 35, "t1 | " + "b" * 22)
    assert len(view.terminal.screen) == len(above) + 2


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("世" * 20, "t0 | " + "世" * 7),
        ("a" + "世" * 20, "t0 | a" + "世" * 7),
        ("e\u0301" * 20, "t0 | " + "e\u0301" * 15),
        ("a" * 14 + "世b", "t0 | " + "a" * 14),
        ("\x1b[31m" + "a" * 30 + "\x1b[0mb", "t0 | " + "a" * 15),
        ("a" * 30 + "z", "t0 | " + "a" * 15),
        ("\x1b[2J\x1b]0;title\x07\x1b[5Ahere", "t0 | here"),
    ],
)
def test_terminal_row_that_is_cut_ends_with_a_whole_character(
    shown: Callable[[int], Shown], text: str, row: str
) -> None:
    view = shown(20)
    view.add(1, "whole\n")
    view.add(0, text)
    view.terminal.shows("t1 | whole", row)
    view.add(1, "next\n")
    view.terminal.shows("t1 | whole", "t1 | next", row)


WAITS = """
import sys
from iris.client import IrisClient
print("before", end="")
print()
with IrisClient.remote(sys.argv[1]) as client:
    client.wait(sys.argv[2], stream_logs=True, stream_task_index=0)
print("after")
"""


def test_wait_on_a_terminal_redraws_progress_bars_and_shows_prompts(
    shared_cluster: LocalServer, client: IrisClient, tmp_path: Path
) -> None:
    wait = "while [ ! -e %s ]; do sleep 0.05; done"
    gates = [tmp_path / str(n) for n in range(3)]
    script = (
        "printf 'line\\n\\r 10%%'; " + wait % gates[0] + "; printf '\\r 20%%'; printf 'name? ' >&2; " + wait % gates[1]
    )
    job = client.run(
        ["sh", "-c", f"{script}; printf 'me\\n' >&2; {wait % gates[2]}; printf '\\033[2J\\r100%%\\nend'"],
        name=unique("bar"),
    )
    terminal = Terminal(
        [sys.executable, "-c", WAITS, shared_cluster.address, job.job_id], os.environ, tmp_path, columns=60
    )
    try:
        terminal.shows("before", "[task-0:stdout] line", "[task-0:stdout]  10%")
        gates[0].touch()
        terminal.shows("before", "[task-0:stdout] line", "[task-0:stderr] name?", "[task-0:stdout]  20%")
        gates[1].touch()
        terminal.shows("before", "[task-0:stdout] line", "[task-0:stderr] name? me", "[task-0:stdout]  20%")
        gates[2].touch()
        assert terminal.exit_code() == 0
        terminal.shows("[task-0:stderr] name? me", "[task-0:stdout] 100%", "[task-0:stdout] end", "after", "")
        assert b"\x1b[2J" not in terminal.written
    finally:
        terminal.close()


def test_wait_prints_to_the_object_that_replaces_stdout(
    shared_cluster: LocalServer, client: IrisClient, tmp_path: Path
) -> None:
    job = client.run(["sh", "-c", "printf '\\r 10%%\\r 20%%\\n'"])
    program = (
        "import io, sys\n"
        "class Notebook(io.StringIO):\n"
        "    def fileno(self): return 1\n"
        "shown, sys.stdout = sys.stdout, Notebook()\n"
        "from iris.client import IrisClient\n"
        "with IrisClient.remote(sys.argv[1]) as client: client.wait(sys.argv[2], stream_logs=True)\n"
        "shown.write(repr(sys.stdout.getvalue()))\n"
    )
    terminal = Terminal([sys.executable, "-c", program, shared_cluster.address, job.job_id], os.environ, tmp_path)
    try:
        assert terminal.exit_code() == 0
        terminal.shows(r"'[task-0:stdout] \r 10%\r 20%\n'")
    finally:
        terminal.close()


def test_labelled_output_keeps_colours_and_cannot_control_the_terminal(
    shared_cluster: LocalServer, client: IrisClient, tmp_path: Path
) -> None:
    odd = r"\033[2J\033[H\033]0;stolen\007\033[31mred\033[5;5H\033[6n\n\233plain\302\2332J\033"
    command = ["sh", "-c", f"printf '{odd}'; printf '[1mbold\\n'; exit 3"]
    job = client.run(command, replicas=2, coscheduled=False, max_task_failures=1)  # Both tasks run to their ends.
    job.wait(raise_on_failure=False)
    env = dict(os.environ) | {"IRIS_CONTROLLER_ADDRESS": shared_cluster.address}
    terminal = Terminal([sys.executable, "-m", "iris.cli", "logs", "-f", job.job_id], env, tmp_path)
    try:
        assert terminal.exit_code() == 3
        for dropped in (b"\x1b[2J", b"\x1b[H", b"stolen", b"\x1b[5;5H", b"\x1b[6n", b"\x9b"):
            assert dropped not in terminal.written
        assert terminal.written.count(b" \x1b[31mred\x1b[0m\r\n") == 2
        assert terminal.written.count(b"plain\x1b[1mbold\x1b[0m\r\n") == 2
    finally:
        terminal.close()


def test_names_and_errors_of_tasks_cannot_control_the_terminal(
    shared_cluster: LocalServer, client: IrisClient, tmp_path: Path
) -> None:
    def fail() -> None:
        print("\x1b[2Jlast line")
        raise RuntimeError("\x1b[2J\x1b]0;stolen\x07 \x9b2J")

    job = client.run(fail, name=unique("odd"))
    with pytest.raises(Exception, match="ended as FAILED") as caught:
        job.wait()
    assert "\x1b" not in str(caught.value)
    assert "\x9b" not in str(caught.value)
    env = dict(os.environ) | {"IRIS_CONTROLLER_ADDRESS": shared_cluster.address, "NO_COLOR": "1"}
    for words in (["ps"], ["status", job.job_id], ["logs", "-f", "--timestamps", job.job_id]):
        terminal = Terminal([sys.executable, "-m", "iris.cli", *words], env, tmp_path, columns=200)
        try:
            wait_until(lambda terminal=terminal: terminal.process.poll() is not None, "the end")
            assert terminal.screen
            for dropped in (b"\x1b[2J", b"\x1b]0", b"\x9b", b"\x07"):
                assert dropped not in terminal.written, words
        finally:
            terminal.close()


NESTED = r"""
import sys, time
def put(text): sys.stderr.write(text); sys.stderr.flush(); time.sleep(0.02)
for outer in range(3):
    put(f"\router {outer}")
    for inner in range(5):
        for part in ("\n", f"\rinner {inner}", "\x1b[A"): put(part)
    for part in ("\n", "\r       \r", "\x1b[A"): put(part)
put("\router 3\n")
print("done")
"""


def test_nested_progress_bars_of_tasks_leave_no_row_behind(
    shared_cluster: LocalServer, client: IrisClient, tmp_path: Path
) -> None:
    job = client.run([sys.executable, "-c", NESTED], replicas=2)
    env = dict(os.environ) | {"IRIS_CONTROLLER_ADDRESS": shared_cluster.address, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "iris.cli", "logs", "-f", "--source", "stdout", "--source", "stderr", job.job_id]
    terminal = Terminal(command, env, tmp_path)
    try:
        assert terminal.exit_code() == 0
        lines = sorted(line for line in terminal.screen if line)
        assert lines == [f"task-{task} | {text}" for task in (0, 1) for text in ("done", "outer 3")]
    finally:
        terminal.close()
