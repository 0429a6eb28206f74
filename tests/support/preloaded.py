"""Runs the programs of Iris in processes that are forked from a process which has loaded the modules already.

Loading `iris` takes 0.3 s of CPU time, and loading a server takes 0.6 s. The tests run `iris` a thousand times, and
start some hundred servers and workers. A forked process is a real process with its own arguments, environment, folder
and descriptors. Only its imports have happened before.

    with Preloaded() as preloaded:
        code = preloaded.run(["ps", "--json"], env, folder, [stdin, stdout, stderr], timeout_s=60)

The template (preloaded_template.py) gets each request over a socket. The template forks a process that waits, and the
waiting process forks the program. Therefore the template itself never waits for a program. The waiting process ends as
soon as the process that has requested the program ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from support.inherited_state import inherited_state, read_when_loaded

# The command line of the template ends with a word of this length. A forked process writes its own command line there.
COMMAND_LINE_BYTES = 4096


class PreloadedProcess:
    """A program that a template has started. The methods are those of `subprocess.Popen`.

    Attributes:
        args: The command line.
        pid: The process id of the program.
        returncode: The exit code, as `wait` returns it. None until `wait` or `poll` has noticed the end.
        stdout: The end of a pipe, if the caller has set it.
    """

    def __init__(self, args: Sequence[str], pid: int, answer: socket.socket) -> None:
        self.args = args
        self.pid = pid
        self.returncode: int | None = None
        self.stdout: IO[bytes] | None = None
        self._answer = answer

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the program, and return its exit code, or minus the number of the signal that ended it.

        Raises:
            TimeoutExpired: The program still runs after `timeout` seconds.
        """
        if self.returncode is None:
            self._answer.settimeout(timeout)
            try:
                self.returncode = int(self._answer.recv(100))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0) from None
            self._answer.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code. None while the program runs."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal to the program, unless the program has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM to the program."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the program."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.wait()


class Preloaded:
    """A template process, which starts with the first program and ends with the process that made it.

    The template has the environment that this process has when this object is made.
    """

    def __init__(self) -> None:
        self._connection: socket.socket | None = None
        self._template: subprocess.Popen[bytes] | None = None
        self._env = dict(os.environ)
        self._state = inherited_state()

    def run(
        self, words: Sequence[str], env: Mapping[str, str], folder: Path, streams: Sequence[int], timeout_s: float
    ) -> int:
        """Run `iris` to its end.

        Args:
            words: The arguments of `iris`.
            env: The whole environment.
            folder: The working directory.
            streams: The descriptors of standard input, output and error.
            timeout_s: The program is killed after so many seconds.

        Returns:
            The exit code, or minus the number of the signal that ended the program.

        Raises:
            TimeoutExpired: The program was killed.
        """
        process = self.start(words, env, folder, streams)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    def start(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        streams: Sequence[int],
        *,
        new_session: bool = False,
        script: Path | None = None,
    ) -> PreloadedProcess:
        """Start `iris`, or a Python program that imports `iris`. The arguments are those of `run`.

        Args:
            new_session: Whether the program leads a session of its own.
            script: The file of a Python program. None: `iris`.
        """
        source = {"module": "iris.cli"} if script is None else {"script": str(script)}
        request = {**source, "words": list(words), "env": dict(env), "folder": str(folder), "new_session": new_session}
        return self._start(["iris", *words], request, streams)

    def start_server(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        streams: Sequence[int],
        passed: Sequence[int],
        *,
        new_session: bool,
        umask: int,
        limits: Sequence[tuple[int, int, int]],
    ) -> PreloadedProcess:
        """Start a server or a worker, with the given command line.

        Args:
            command: The command line: Python, its options, `-m`, the module, and the arguments of the module.
            env: The whole environment.
            folder: The working directory.
            streams: The descriptors of standard input, output and error.
            passed: Descriptors that have the same numbers in the program.
            new_session: Whether the program leads a session of its own.
            umask: The umask.
            limits: The resource limits: the number of each, its soft limit and its hard limit.
        """
        module = command.index("-m") + 1
        request = {
            "module": command[module],
            "words": list(command[module + 1 :]),
            "env": dict(env),
            "folder": str(folder),
            "new_session": new_session,
            "command": list(command),
            "passed": list(passed),
            "caller": os.getpid(),
            "umask": umask,
            "limits": list(limits),
        }
        return self._start(command, request, [*streams, *passed])

    def load_servers(self) -> None:
        """Wait until the template has loaded all modules of servers. After that, a start takes only milliseconds."""
        connection = self._connect()
        answer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with answer:
            with theirs:
                request = {"module": "iris.server", "only_loads": True}
                socket.send_fds(connection, [json.dumps(request).encode()], [theirs.fileno()])
            assert answer.recv(100), "the template has ended"

    def connect_to(self, connection: socket.socket) -> None:
        """Use a template that another process has started. This process was forked from the template."""
        self._connection = connection

    def fits(self, env: Mapping[str, str]) -> bool:
        """Return whether a forked program would be the same as a program that this process starts now.

        Args:
            env: The environment of the program.
        """
        return read_when_loaded(env) == read_when_loaded(self._env) and inherited_state() == self._state

    def _start(
        self, command: Sequence[str], request: Mapping[str, Any], descriptors: Sequence[int]
    ) -> PreloadedProcess:
        connection = self._connect()
        answer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            sent = [theirs.fileno(), connection.fileno(), *descriptors]
            socket.send_fds(connection, [json.dumps(request).encode()], sent)
        pid = int(answer.recv(100) or b"0")
        assert pid, "the template has ended"
        return PreloadedProcess(command, pid, answer)

    def _connect(self) -> socket.socket:
        if self._connection is None:
            self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._template = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "support.preloaded_template"),
                        *(str(theirs.fileno()), "-" * COMMAND_LINE_BYTES),
                    ],
                    cwd=Path(__file__).parents[1],
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
        return self._connection

    def close(self) -> None:
        """End the template."""
        if self._connection is not None:
            # The template ends although a program that is still running has a copy of the connection.
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.close()
        if self._template is not None:
            self._template.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
