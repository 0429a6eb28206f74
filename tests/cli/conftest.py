"""`iris` as a user runs it: real processes, with a home of their own, and the evidence kept in files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique
from support.preloaded import Preloaded
from support.terminal import Terminal
from support.waiting import wait_until

from iris.cluster.client.server_process import LocalServer

_DEADLINE_S = 60.0  # no measure of speed, only the end of hope


class Started:
    """An `iris` that runs: its stdout is read line by line, its stderr goes to a file."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        self.process = process
        self._stderr = stderr

    def line(self) -> str:
        """Its next line on stdout, without the newline; a failure when there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.endswith(b"\n"), f"stdout ended with {line!r}; stderr: {self.stderr}"
        return line[:-1].decode()

    def read(self, size: int) -> bytes:
        """So many bytes of its stdout, once there are as many."""
        assert self.process.stdout is not None
        return self.process.stdout.read(size)

    def rest(self) -> list[str]:
        """All lines on stdout until its end."""
        assert self.process.stdout is not None
        return self.process.stdout.read().decode().splitlines()

    @property
    def stderr(self) -> str:
        """What it has said so far besides."""
        return self._stderr.read_text()

    def says(self, text: str) -> None:
        """Waits until it has said a text on stderr."""
        wait_until(lambda: text in self.stderr, f"{text!r} on stderr; there is: {self.stderr!r}")

    def interrupt(self) -> None:
        """What a terminal does at Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def exit_code(self) -> int:
        """Waits for its end."""
        return self.process.wait(_DEADLINE_S)


class Iris:
    """Runs `iris`.

    Args:
        directory: Holds its home, its working directory and what it said.
        preloaded: Starts the processes of calls that run to their end.
        address: The cluster that it is told of; None: none.
    """

    def __init__(self, directory: Path, preloaded: Preloaded, address: str | None = None) -> None:
        self._preloaded = preloaded
        self.home = directory / "home"
        self.folder = directory / "work"
        self.home.mkdir(parents=True)
        self.folder.mkdir()
        self._said = directory
        self._started: list[Started] = []
        self._terminals: list[Terminal] = []
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("IRIS_", "NO_COLOR"))}
        self.env |= {"HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state")}
        if address is not None:
            self.env |= {"IRIS_CONTROLLER_ADDRESS": address, "IRIS_TOKEN": os.environ["IRIS_TOKEN"]}

    def __call__(self, *words: str, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `iris` to its end, and check the exit code; None accepts any.

        What Python reads while it starts (`PYTHON…`, the locale) has no effect here; use `start` for such variables.
        """
        with open(os.devnull) as nothing, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            streams = [nothing.fileno(), stdout.fileno(), stderr.fileno()]
            returncode = self._preloaded.run(words, self.env | env, self.folder, streams, _DEADLINE_S)
            for written in (stdout, stderr):
                written.seek(0)
            done = subprocess.CompletedProcess(
                self.command(*words), returncode, stdout.read().decode(), stderr.read().decode()
            )
        assert code is None or done.returncode == code, done
        assert "Traceback" not in done.stderr, done
        return done

    def under_another_home(self, directory: Path) -> Iris:
        """Return an `iris` whose home and working directory lie elsewhere."""
        return Iris(directory, self._preloaded)

    def json(self, *words: str) -> Any:
        """The document that it answers with."""
        return json.loads(self(*words, "--json").stdout)

    def lines(self, *words: str, code: int = 0) -> list[Any]:
        """The documents of `iris logs …`, one for each line that tasks wrote."""
        lines = [json.loads(line) for line in self("logs", *words, "--json", code=code).stdout.splitlines()]
        return [line for line in lines if line["source"] != "build"]

    def detach(self, script: str, *options: str) -> str:
        """Submits a job that runs a shell script, and answers with its id."""
        name = unique("job")
        assert self("run", "--detach", "--name", name, *options, "--", "sh", "-c", script).stdout == f"{name}\n"
        return name

    def wait_for(self, name: str, state: str) -> Any:
        """Waits until a job is in a state, and answers with its document."""
        return wait_until(lambda: (job := self.json("status", name))["state"] == state and job, f"{name} is {state}")

    def start(self, *words: str, **env: str) -> Started:
        """Starts it; it is killed at the end of the test if it still runs."""
        stderr = self._said / f"stderr-{len(self._started)}"
        with stderr.open("wb") as said:
            process = subprocess.Popen(
                self.command(*words),
                env=self.env | env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
        self._started.append(Started(process, stderr))
        return self._started[-1]

    def terminal(self, *words: str, **env: str) -> Terminal:
        """Starts it in a terminal."""
        self._terminals.append(Terminal(self.command(*words), self.env | env, self.folder))
        return self._terminals[-1]

    def close(self) -> None:
        for terminal in self._terminals:
            terminal.close()
            assert b"Traceback" not in terminal.written, terminal.written
        for started in self._started:
            if started.process.poll() is None:
                started.process.kill()
            started.process.wait()
            assert started.process.stdout is not None
            started.process.stdout.close()
            assert "Traceback" not in started.stderr, started.stderr

    def command(self, *words: str) -> list[str]:
        """What starts it."""
        return [sys.executable, "-m", "iris.cli", *words]


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Preloaded]:
    """What starts `iris` in processes that need not load it."""
    with Preloaded() as template:
        yield template


@pytest.fixture
def iris(tmp_path: Path, preloaded: Preloaded) -> Iterator[Iris]:
    """`iris` on a machine where no cluster is up."""
    program = Iris(tmp_path / "iris", preloaded)
    yield program
    program("down")
    program.close()


@pytest.fixture
def remote_iris(tmp_path: Path, preloaded: Preloaded, shared_cluster: LocalServer) -> Iterator[Iris]:
    """`iris` with the address of a cluster that was there before."""
    program = Iris(tmp_path / "iris", preloaded, shared_cluster.address)
    yield program
    program.close()
