"""`iris` that is started with closed descriptors or ignored signals works as usual."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest
from support.waiting import wait_until

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def in_shell(iris: Iris, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script in which `$@` is an iris command."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *iris.command(*words)],
        env=iris.env,
        cwd=iris.folder,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_run_with_closed_descriptors_exits_with_the_code_of_the_job(iris: Iris, closed: str) -> None:
    done = in_shell(iris, f'"$@" {closed}', "run", "--", "sh", "-c", "echo out; exit 7")
    assert done.returncode == 7, done
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "out\n")


def test_run_with_ignored_signals_exits_with_the_code_of_the_job(iris: Iris) -> None:
    prepare = "trap '' HUP INT TERM QUIT PIPE CHLD USR1"
    done = in_shell(iris, f'{prepare}; "$@"', "run", "--", "sh", "-c", "grep ^SigIgn /proc/self/status; exit 7")
    assert (done.returncode, done.stdout) == (7, "SigIgn:\t0000000000000000\n"), done


def test_up_with_closed_descriptors_and_ignored_signals_starts_a_working_cluster(iris: Iris) -> None:
    up = in_shell(iris, """trap '' CHLD HUP TERM; nohup "$@" <&- >&- 2>&-""", "up", "--port", "0")
    assert up.returncode == 0, up
    job = iris.detach("grep ^SigIgn /proc/self/status; exec sleep 600")
    iris.wait_for(job, "RUNNING")
    wait_until(lambda: iris.lines(job), "its first line")
    assert iris.lines(job)[0]["message"] == "SigIgn:\t0000000000000000"
    iris("kill", "--wait", job)
    assert iris.json("status", job)["tasks"][0]["term_signal"] == signal.SIGTERM
