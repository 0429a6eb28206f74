"""Runs `iris` as a user does: as real processes with a home directory of their own, whose output is kept in files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique
from support.preloaded import Preloaded, PreloadedProcess
from support.terminal import Terminal
from support.waiting import wait_until

from iris.cluster.client.server_process import LocalServer

_DEADLINE_S = 60.0  # after this time a test fails; the time measures no speed


class Started:
    """A running `iris`, whose stdout is read line by line and whose stderr goes to a file."""

    def __init__(self, process: PreloadedProcess, stderr: Path) -> None:
        self.process = process
        self._stderr = stderr

    def line(self) -> str:
        """Return the next line on stdout without its newline. Fail if stdout has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.endswith(b"\n"), f"stdout ended with {line!r}; stderr: {self.stderr}"
        return line[:-1].decode()

    def read(self, size: int) -> bytes:
        """Return `size` bytes of stdout, once that many were written."""
        assert self.process.stdout is not None
        return self.process.stdout.read(size)

    def rest(self) -> list[str]:
        """Return all lines on stdout up to its end."""
        assert self.process.stdout is not None
        return self.process.stdout.read().decode().splitlines()

    @property
    def stderr(self) -> str:
        """The text on stderr up to now."""
        return self._stderr.read_text()

    def says(self, text: str) -> None:
        """Wait until stderr contains a text."""
        wait_until(lambda: text in self.stderr, f"{text!r} on stderr; there is: {self.stderr!r}")

    def interrupt(self) -> None:
        """Send the signal that a terminal sends at Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def exit_code(self) -> int:
        """Wait until the process has ended, and return its exit code."""
        return self.process.wait(_DEADLINE_S)

    def done(self) -> subprocess.CompletedProcess[bytes]:
        """Wait until the process has ended, and return its exit code and output."""
        assert self.process.stdout is not None
        stdout = self.process.stdout.read()
        return subprocess.CompletedProcess([], self.exit_code(), stdout, self._stderr.read_bytes())


def _write_all(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(data)


class Iris:
    """Runs `iris`.

    Args:
        directory: Contains the home directory, the current folder, and files with stderr.
        preloaded: Starts the processes of calls that run to their end.
        address: The address of the cluster in the environment; None leaves the variable out.
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
        unset = ("IRIS_", "NO_COLOR", "XDG_CONFIG_HOME")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
        self.env |= {"HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state")}
        if address is not None:
            self.env |= {"IRIS_CONTROLLER_ADDRESS": address, "IRIS_TOKEN": os.environ["IRIS_TOKEN"]}

    def __call__(self, *words: str, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `iris` to its end, and check the exit code; None accepts any.

        What Python reads while it starts (`PYTHON…`, the locale) has no effect here.
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
        """Run a command with `--json`, and return its document."""
        return json.loads(self(*words, "--json").stdout)

    def lines(self, *words: str, code: int = 0) -> list[Any]:
        """Run `iris logs … --json`, and return the object of each line that tasks wrote."""
        lines = [json.loads(line) for line in self("logs", *words, "--json", code=code).stdout.splitlines()]
        return [line for line in lines if line["source"] != "build"]

    def detach(self, script: str, *options: str) -> str:
        """Submit a job that runs a shell script, and return its id."""
        name = unique("job")
        assert self("run", "--detach", "--name", name, *options, "--", "sh", "-c", script).stdout == f"{name}\n"
        return name

    def wait_for(self, name: str, state: str) -> Any:
        """Wait until a job is in a state, and return its document."""
        # Each question is a process.
        return wait_until(
            lambda: (job := self.json("status", name))["state"] == state and job, f"{name} is {state}", pause_s=0.2
        )

    def start(self, *words: str, stdin: int | None = None, **env: str) -> Started:
        """Start `iris` with a descriptor as standard input, or without input. The process is killed at the end of the
        test if it still runs.

        What Python reads while it starts (`PYTHON…`, the locale) has no effect here.
        """
        stderr = self._said / f"stderr-{len(self._started)}"
        reading, writing = os.pipe()
        with open(os.devnull) as nothing, stderr.open("wb") as said, os.fdopen(writing, "wb"):
            streams = [nothing.fileno() if stdin is None else stdin, writing, said.fileno()]
            process = self._preloaded.start(words, self.env | env, self.folder, streams, new_session=True)
        process.stdout = os.fdopen(reading, "rb")
        self._started.append(Started(process, stderr))
        return self._started[-1]

    def feed(self, data: bytes, *words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run `iris` to its end with a pipe as standard input, and write data to the pipe."""
        reading, writing = os.pipe()
        started = self.start(*words, stdin=reading, **env)
        os.close(reading)
        writer = threading.Thread(target=_write_all, args=[writing, data])
        writer.start()
        done = started.done()
        writer.join()
        return done

    def terminal(self, *words: str, **env: str) -> Terminal:
        """Start `iris` in a terminal."""
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
        """Return the command that starts `iris`."""
        return [sys.executable, "-m", "iris.cli", *words]


@pytest.fixture
def iris(tmp_path: Path, preloaded: Preloaded) -> Iterator[Iris]:
    """Return an `iris` on a machine where no cluster runs."""
    program = Iris(tmp_path / "iris", preloaded)
    yield program
    program("down")
    program.close()


@pytest.fixture
def remote_iris(tmp_path: Path, preloaded: Preloaded, shared_cluster: LocalServer) -> Iterator[Iris]:
    """Return an `iris` with the address of the shared cluster in its environment."""
    program = Iris(tmp_path / "iris", preloaded, shared_cluster.address)
    yield program
    program.close()
