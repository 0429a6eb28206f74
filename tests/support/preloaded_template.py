"""The template process of preloaded.py: loads the modules of Iris, and forks a process for each requested program."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from support import forked_servers
from support.preloaded import COMMAND_LINE_BYTES, Preloaded

from iris.interpreter import prepare_quick_exit

_REQUEST_BYTES = 1024 * 1024
_MOST_DESCRIPTORS = 20
# Received descriptors move to numbers from this one up, before each of them gets its final number.
_HIGH_DESCRIPTOR = 200
# The fields of /proc/self/stat after the name of the process: see proc(5).
_ARG_START, _ARG_END = 45, 46


def main() -> None:
    # This call comes before the imports, because `atexit` functions of imported modules must run in a program.
    prepare_quick_exit()
    for package in ("iris.cli", "iris.client"):
        _load_all(package)
    _skip_in_collections()
    template = Preloaded()  # for the programs, which are forked from this process
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system collects the processes that wait
    has_servers = False
    while True:
        data, received, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        request = json.loads(data)
        if forked_servers.is_server(request.get("module")) and not has_servers:
            _load_servers()
            has_servers = True
        if request.get("only_loads"):
            with socket.socket(fileno=received[0]) as answer_socket:
                answer_socket.send(b"loaded")
            continue
        if os.fork() == 0:
            requests.close()
            answer, connection, *descriptors = received
            if _fork_program(request, socket.socket(fileno=answer), connection, descriptors):
                break
        for descriptor in received:
            os.close(descriptor)
    # Here, not deeper: the program ends as any program does, with all that Python does at an exit.
    if forked_servers.is_server(request.get("module")):
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        return
    # Servers that the program starts are forked, too.
    template.connect_to(socket.socket(fileno=connection))
    forked_servers.install(template)
    if "script" in request:
        _run_script(Path(request["script"]))
    else:
        runpy.run_module("iris.cli", run_name="__main__", alter_sys=True)


def _load_all(name: str) -> None:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _load_servers() -> None:
    """Load the modules that a server and its workers use in their first second."""
    import encodings.idna  # noqa: F401

    import iris.cluster.engine.local.engine
    import iris.server.application
    import iris.server.program  # noqa: F401
    from iris.cluster.worker.supervision.forked_program import load_worker

    load_worker()
    _skip_in_collections()


def _skip_in_collections() -> None:
    """Make the garbage collector skip the objects that exist now. Otherwise each forked process would search all
    modules for garbage at its exit, and copy their memory by that."""
    gc.collect()
    gc.freeze()


def _run_script(path: Path) -> None:
    main = ModuleType("__main__")
    main.__file__ = str(path)
    sys.modules["__main__"] = main
    sys.argv[0] = str(path)
    exec(compile(path.read_bytes(), path, "exec"), vars(main))


def _fork_program(
    request: Mapping[str, Any], answer: socket.socket, connection: int, descriptors: Sequence[int]
) -> bool:
    """Return True in the process that is to become the program; the process that waits for it ends here."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        os.close(connection)  # The template ends with the last copy of this descriptor, and the program may run longer.
        _wait_for_program(pid, answer)
    answer.close()
    if "command" in request:
        os.close(connection)  # Only programs that may start servers use the template.
    if request["new_session"]:
        os.setsid()
    _place_descriptors(descriptors, [0, 1, 2, *request.get("passed", [])])
    _open_standard_streams()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    if "command" in request:
        _become_server(request)
    else:
        sys.argv[1:] = request["words"]
        sys.path[0] = request["folder"]
    return True


def _wait_for_program(pid: int, answer: socket.socket) -> None:
    """Report the process id and the exit code of the program. End at once if the process that has requested the program
    ends.
    """
    answer.send(b"%d" % pid)
    ended = os.pidfd_open(pid)
    readable, _, _ = select.select([ended, answer], [], [])  # nothing is ever sent: `answer` ends with its other end
    if ended in readable:
        _, status = os.waitpid(pid, 0)
        try:
            answer.send(b"%d" % os.waitstatus_to_exitcode(status))
        except OSError:
            pass  # nobody waits for the program any more
    os._exit(0)


def _place_descriptors(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Give descriptors the given numbers, and close the received ones."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(high, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _become_server(request: Mapping[str, Any]) -> None:
    """Set what Python and the system would set for a new program."""
    os.umask(request["umask"])
    for limit, *values in request["limits"]:
        if resource.getrlimit(limit) != tuple(values):
            resource.setrlimit(limit, tuple(values))
    # The parent of this process is the process that waits, which ends with the caller.
    caller, parent = str(request["caller"]), str(os.getppid())

    def replaced(words: Sequence[str]) -> list[str]:
        pairs = zip(["", *words], words, strict=False)
        return [parent if (before, word) == ("--parent-pid", caller) else word for before, word in pairs]

    sys.argv[1:] = replaced(request["words"])
    if "-P" in request["command"]:
        del sys.path[0]
    else:
        sys.path[0] = request["folder"]
    os.closerange(3, min(request["passed"], default=3))
    _set_command_line(replaced(request["command"]))


def _set_command_line(words: Sequence[str]) -> None:
    """Set the command line that /proc shows.

    /proc shows the memory in which this process got its own command line, which is long enough. Null bytes follow the
    new command line.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    data = b"".join(os.fsencode(word) + b"\0" for word in words)
    assert len(data) <= COMMAND_LINE_BYTES < end - start, "the command line is too long"
    ctypes.memmove(start, data.ljust(end - start, b"\0"), end - start)


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
    main()
