"""Programs that end by `quick_exit`."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from iris.interpreter import pause_collector, resume_collector

PROGRAM = """
import atexit, sys, threading
from iris.interpreter import prepare_quick_exit, quick_exit

prepare_quick_exit()
atexit.register(print, "atexit", flush=False)
go = threading.Event()
threading.Thread(target=lambda: (go.wait(), print("thread", end=" "))).start()
threading.Thread(target=lambda: (threading.main_thread().join(), go.set())).start()
print("main", end=" ")
quick_exit(7)
"""


def run(program: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-E", "-c", program], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )


def test_quick_exit_waits_for_threads_runs_atexit_functions_and_flushes() -> None:
    ended = run(PROGRAM)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "main thread atexit\n", "")


def test_quick_exit_does_not_free_the_objects_of_the_program() -> None:
    ended = run(
        "import sys\n"
        "from iris.interpreter import prepare_quick_exit, quick_exit\n"
        "class Kept:\n"
        "    def __del__(self): sys.stderr.write('freed')\n"
        "kept = Kept()\n"
        "prepare_quick_exit()\n"
        "quick_exit(0)\n"
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_program_that_ends_with_a_message_has_the_usual_exit_code_and_stderr() -> None:
    ended = run(
        "from iris.interpreter import prepare_quick_exit\nprepare_quick_exit()\nraise SystemExit('no such file')"
    )
    assert (ended.returncode, ended.stderr) == (1, "no such file\n")


def test_quick_exit_reports_output_that_cannot_be_written() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = run(PROGRAM, stdout=writing)
    finally:
        os.close(writing)
    assert ended.returncode == 120, "the exit code of Python for a failed flush"
    assert "BrokenPipeError" in ended.stderr


@pytest.mark.parametrize("module", ["iris.server", "iris.cluster.worker", "iris.cli"])
def test_program_that_prints_its_help_exits_with_0(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", module, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "usage" in ended.stdout.lower()


def test_resumed_collector_skips_the_objects_that_were_made_while_it_was_paused() -> None:
    before = gc.get_freeze_count()
    pause_collector()
    assert not gc.isenabled()
    made = [[] for _ in range(100)]
    resume_collector()
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)
    gc.unfreeze()
