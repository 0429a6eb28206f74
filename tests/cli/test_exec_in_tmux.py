"""Full-screen programs that run in a task, with `iris exec` in a real terminal (tmux)."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.cluster.client.server_process import LocalServer

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.

pytestmark = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("tmux", "vim", "top")), reason="tmux, vim or top is not installed"
)


class Tmux:
    """A terminal of 80 columns and 24 rows that tmux draws.

    Args:
        directory: Contains the socket of tmux.
        env: The environment of programs in the terminal.
    """

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self._socket = str(directory / "tmux")
        self._env = env | {"LC_ALL": "C.UTF-8", "TERM": "xterm"}
        self.call("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh")

    def call(self, *words: str) -> str:
        command = ["tmux", "-S", self._socket, *words]
        return subprocess.run(command, env=self._env, stdout=subprocess.PIPE, text=True, check=True).stdout

    def screen(self) -> list[str]:
        return self.call("capture-pane", "-p").splitlines()

    def type(self, *keys: str) -> None:
        self.call("send-keys", *keys)

    def shows(self, text: str) -> None:
        wait_until(lambda: any(text in line for line in self.screen()) or self.screen() is None, f"{text!r} in tmux")


@pytest.fixture
def tmux(tmp_path: Path, remote_iris: Iris) -> Iterator[Tmux]:
    started = Tmux(tmp_path, remote_iris.env)
    yield started
    started.call("kill-server")


@pytest.fixture(scope="module")
def job(shared_cluster: LocalServer) -> Iterator[Job]:
    """A job that runs until the end of the module."""
    with IrisClient.remote(shared_cluster.address) as client:
        started = client.run(["sleep", "600"], name=unique("tmux"))
        yield started
        started.terminate()


def test_shell_runs_vim_and_top_one_after_the_other(remote_iris: Iris, tmux: Tmux, job: Job) -> None:
    prompt = "in-task>"

    def run(command: str) -> None:
        # Keys that are typed too early are lost, because a program that ends drops the rest of its input.
        wait_until(lambda: [line for line in tmux.screen() if line][-1:] == [prompt], f"{prompt!r} in tmux")
        tmux.type(command, "Enter")

    words = remote_iris.command("shell", "-e", "SHELL=/bin/sh", "-e", f"PS1={prompt} ", job.job_id)
    tmux.type(f"clear; {shlex.join(words)}; echo code=$?", "Enter")
    run("vim -u NONE of-shell")
    tmux.shows("~")
    tmux.type("i", "typed in vim", "Escape", ":wq", "Enter")
    run("top")
    tmux.shows("load average")
    tmux.type("q")
    run("cat of-shell; stty size")
    tmux.shows("typed in vim")
    tmux.shows("24 80")
    run("clear; exit 3")
    tmux.shows("code=3")


def start(tmux: Tmux, remote_iris: Iris, job: Job, *command: str) -> None:
    words = remote_iris.command("exec", "-it", job.job_id, "--", *command)
    tmux.type(f"{shlex.join(words)}; echo code=$?", "Enter")


def test_vim_edits_a_file_of_the_task_and_follows_the_size_of_the_terminal(
    remote_iris: Iris, tmux: Tmux, job: Job
) -> None:
    start(tmux, remote_iris, job, "vim", "-u", "NONE", "note")
    tmux.shows("~")
    tmux.call("resize-window", "-x", "100", "-y", "40")
    wait_until(lambda: len(tmux.screen()) == 40, "the larger terminal")
    tmux.type("i", "from vim", "Escape")

    def size() -> bool:
        tmux.type(":echo &lines 'x' &columns", "Enter")
        return "40 x 100" in "".join(tmux.screen())

    wait_until(size, "vim has 40 lines of 100 columns")
    tmux.type(":wq", "Enter")
    tmux.shows("code=0")
    assert job.tasks()[0].exec(["cat", "note"]).stdout == b"from vim\n"


def test_top_shows_processes_until_a_key_ends_it(remote_iris: Iris, tmux: Tmux, job: Job) -> None:
    start(tmux, remote_iris, job, "top")
    tmux.shows("load average")
    tmux.type("q")
    tmux.shows("code=0")
