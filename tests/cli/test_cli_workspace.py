"""`iris run` on another cluster sends a copy of the folder: which files are left out, and the progress bar."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.terminal import Terminal
from support.waiting import wait_until

from iris.cli.attach import QuickPreparation
from iris.cli.output.printer import Output
from iris.cli.output.upload_display import show_progress
from iris.cluster.logs.entries.log_entry import EntryOrigin, LogEntry
from iris.cluster.logs.records import SOURCES

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def test_link_that_leads_out_of_the_workspace_is_left_out_and_named_in_a_notice(remote_iris: Iris) -> None:
    (remote_iris.folder / "data").symlink_to("/mnt")
    (remote_iris.folder / "self").symlink_to("self")
    (remote_iris.folder / "a.py").write_text("")
    done = remote_iris("run", "--", "sh", "-c", "ls -A")
    assert done.stdout == "a.py\n"
    notices = [line for line in done.stderr.splitlines() if "not sent with the workspace" in line]
    assert notices == [
        "iris: not sent with the workspace: 'data' (a link that leads out of the folder, to '/mnt'),"
        " 'self' (a link that cannot be followed, to 'self')"
    ]


def test_run_with_no_workspace_sends_no_files(remote_iris: Iris) -> None:
    (remote_iris.folder / "data").symlink_to("/mnt")
    with open(remote_iris.folder / "huge", "wb") as sparse:
        sparse.truncate(2**40)  # over the limit
    done = remote_iris("run", "--no-workspace", "--", "sh", "-c", "ls -A; echo end")
    assert done.stdout == "end\n"
    assert "not sent" not in done.stderr
    assert "exclude each other" in remote_iris("run", "--no-workspace", "--workspace", ".", "true", code=2).stderr


def build_line(message: str, timestamp_ms: int, source: str = "build") -> LogEntry:
    block = EntryOrigin("job", 0, 0, SOURCES.index(source), timestamp_ms, (0, 0, 0))
    return LogEntry(message.encode(), len(message) + 1, block)


def test_run_shows_the_preparation_of_a_task_after_one_second() -> None:
    is_quick = QuickPreparation()
    assert is_quick([build_line("fetching", 10_000)])
    assert is_quick([build_line("copying", 10_999)])
    assert not is_quick([build_line("still copying", 11_000)])
    assert not is_quick([build_line("output", 10_001, "stdout")])


def tell_until(told: Callable[[], object], what: str) -> None:
    """Reports progress until it is shown: what takes less than a second is not."""
    show = show_progress(Output())
    show("sending", 0, 60_000_000)
    wait_until(lambda: show("sending", 30_000_000, 60_000_000) or told(), what)
    for _ in range(3):
        show("sending", 45_000_000, 60_000_000)


def test_upload_progress_is_one_line_if_stderr_is_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    tell_until(lambda: said.append(capfd.readouterr().err) or "".join(said), "a line on stderr")
    said.append(capfd.readouterr().err)
    assert "".join(said) == "iris: sending the workspace: 30 of 60 MB so far\n"


def test_upload_of_a_large_workspace_shows_a_bar_that_disappears(remote_iris: Iris) -> None:
    """Not all of it is seen where it takes less than a second; what remains on the screen is the same."""
    (remote_iris.folder / "weights").write_bytes(os.urandom(20 * 1024**2))
    terminal: Terminal = remote_iris.terminal("run", "--", "sh", "-c", "wc -c < weights")
    assert terminal.exit_code() == 0
    # A slow machine also shows lines about the preparation, and a summary of the job.
    assert str(20 * 1024**2) in terminal.screen
    assert not [line for line in terminal.screen if " MB" in line]
    assert not [line for line in terminal.screen if "of 20 MB" in line]


def test_upload_bar_on_a_terminal_shows_the_progress(tmp_path: Path) -> None:
    program = """
import time
from iris.cli.attach import QuickPreparation
from iris.cli.output.printer import Output
from iris.cli.output.upload_display import show_progress
from iris.cluster.logs.entries.log_entry import EntryOrigin, LogEntry
from iris.cluster.logs.records import SOURCES
output = Output()
show = show_progress(output)
show("packing", 0, 60_000_000)
end = time.monotonic() + 60
while not output._screen.status and time.monotonic() < end:
    show("packing", 30_000_000, 60_000_000)
input()
show("packing", 60_000_000, 60_000_000)
print("done")
"""
    terminal = Terminal([sys.executable, "-c", program], dict(os.environ), tmp_path, columns=80)
    terminal.shows("iris: packing the workspace [############            ] 30 of 60 MB")
    terminal.type("\n")
    assert terminal.exit_code() == 0
    assert terminal.screen[-2:] == ["done", ""]
    terminal.close()
