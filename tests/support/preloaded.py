"""Runs `iris` and programs that use it in processes that are forked from a process which has loaded `iris` already.

Loading `iris` takes 0.3 s of CPU time, and the tests run it a thousand times. A forked process is a real process with
arguments, environment, folder and descriptors of its own; only its imports have happened before.

    with Preloaded() as preloaded:
        code = preloaded.run(["ps", "--json"], env, folder, [stdin, stdout, stderr], timeout_s=60)

The template (`python -m support.preloaded FD`) gets each request over a socket. It forks a process that waits, and that
process forks the program: the template itself never waits for a program.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, Self

from iris.interpreter import prepare_quick_exit

_REQUEST_BYTES = 1024 * 1024


class PreloadedProcess:
    """A program that a template has started. The methods are those of `subprocess.Popen`.

    Attributes:
        pid: The process id of the program.
        stdout: The end of a pipe, if the caller has set it.
    """

    def __init__(self, pid: int, answer: socket.socket) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = None
        self._answer = answer
        self._returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the program, and return its exit code, or minus the number of the signal that ended it.

        Raises:
            TimeoutExpired: The program still runs after `timeout` seconds.
        """
        if self._returncode is None:
            self._answer.settimeout(timeout)
            try:
                self._returncode = int(self._answer.recv(100))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0) from None
            self._answer.close()
        return self._returncode

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

    def kill(self) -> None:
        """Kill the program."""
        self.send_signal(signal.SIGKILL)


class Preloaded:
    """A template process, which ends with the process that made it."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._template = subprocess.Popen(
            [sys.executable, "-m", "support.preloaded", str(theirs.fileno())],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

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
        answer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request: dict[str, Any] = {"words": list(words), "env": dict(env), "folder": str(folder)}
        request |= {"new_session": new_session, "script": None if script is None else str(script)}
        with theirs:
            socket.send_fds(self._ours, [json.dumps(request).encode()], [theirs.fileno(), *streams])
        pid = int(answer.recv(100) or b"0")
        assert pid, "the template has ended"
        return PreloadedProcess(pid, answer)

    def close(self) -> None:
        """End the template."""
        self._ours.close()
        self._template.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _main() -> None:
    # This call comes before the imports, because `atexit` functions of imported modules must run in a program.
    prepare_quick_exit()
    for package in ("iris.cli", "iris.client"):
        _load_all(package)
    # Otherwise each forked process would search all modules for garbage at its exit, and copy their memory by that.
    gc.collect()
    gc.freeze()
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system collects the processes that wait
    while True:
        data, streams, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 4)
        if not data:
            return
        if os.fork() == 0:
            requests.close()
            request = json.loads(data)
            if _fork_program(request, socket.socket(fileno=streams[0]), streams[1:]):
                break
        for descriptor in streams:
            os.close(descriptor)
    # Here, not deeper: the program ends as any program does, with all that Python does at an exit.
    if request["script"] is None:
        runpy.run_module("iris.cli", run_name="__main__", alter_sys=True)
    else:
        _run_script(Path(request["script"]))


def _run_script(path: Path) -> None:
    main = ModuleType("__main__")
    main.__file__ = str(path)
    sys.modules["__main__"] = main
    sys.argv[0] = str(path)
    exec(compile(path.read_bytes(), path, "exec"), vars(main))


def _load_all(name: str) -> None:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _fork_program(request: Mapping[str, Any], answer: socket.socket, streams: Sequence[int]) -> bool:
    """Return True in the process that is to become the program; the process that waits for it ends here."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        answer.send(b"%d" % pid)
        _, status = os.waitpid(pid, 0)
        answer.send(b"%d" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    answer.close()
    if request["new_session"]:
        os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    _open_standard_streams()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[1:] = request["words"]
    sys.path[0] = request["folder"]
    return True


def _open_standard_streams() -> None:
    """Open the text streams of Python again. The streams of the template know for example whether its own descriptors
    can seek."""
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, closefd=False)), encoding=sys.stdin.encoding, errors=sys.stdin.errors
    )
    for name, number in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        new = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(number, "w", closefd=False)), encoding=old.encoding, errors=old.errors
        )
        new.reconfigure(line_buffering=name == "stderr" or new.isatty())
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


if __name__ == "__main__":
    _main()
