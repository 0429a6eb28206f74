"""Runs the program `iris` in processes that are forked from a process which has loaded it already.

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
from types import TracebackType
from typing import Any, Self

from iris.interpreter import prepare_quick_exit

_REQUEST_BYTES = 1024 * 1024


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
        """
        answer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with answer:
            with theirs:
                request = json.dumps({"words": list(words), "env": dict(env), "folder": str(folder)}).encode()
                socket.send_fds(self._ours, [request], [theirs.fileno(), *streams])
            pid = int(answer.recv(100) or b"0")
            assert pid, "the template has ended"
            answer.settimeout(timeout_s)
            try:
                return int(answer.recv(100))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise

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
            if _fork_program(json.loads(data), socket.socket(fileno=streams[0]), streams[1:]):
                break
        for descriptor in streams:
            os.close(descriptor)
    # Here, not deeper: the program ends as any program does, with all that Python does at an exit.
    runpy.run_module("iris.cli", run_name="__main__", alter_sys=True)


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
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[1:] = request["words"]
    sys.path[0] = request["folder"]
    return True


if __name__ == "__main__":
    _main()
