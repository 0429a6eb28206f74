"""Starts the servers and workers of tests by a fork of a loaded process, instead of a new Python that loads everything.

A server needs 0.6 s of CPU time to load its modules, and the tests start some hundred servers. `install` replaces
`subprocess.Popen` in this process. The replacement forks the commands `python -m iris.server` and
`python -m iris.cluster.worker`, and starts all other programs as before.

A forked server differs from a started one in three ways:

* Its parent is a process that waits for the server. This process ends with the process that has started the server.
* Its file /proc/PID/environ shows the environment of the template.
* Null bytes follow its command line in /proc/PID/cmdline.

A test that looks at one of these sets the environment variable `REAL_START`. A server is also started as before if
`Popen` gets an option that is not listed here, for example a pipe, or if this process has other attributes than the
template, for example another network namespace.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.preloaded import COMMAND_LINE_BYTES, Preloaded

# Servers are started as programs if this environment variable is set for the server or for this process.
REAL_START = "IRIS_TEST_REAL_START"
_MODULES = ("iris.server", "iris.cluster.worker")
_OPTIONS = {"stdin", "stdout", "stderr", "env", "cwd", "pass_fds", "start_new_session"}
_STREAMS = ("stdin", "stdout", "stderr")
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]

_Popen = subprocess.Popen


def is_server(module: str | None) -> bool:
    """Return whether a module is the program of a server or of a worker."""
    return module in _MODULES


def install(preloaded: Preloaded) -> None:
    """Fork the servers and workers that this process starts."""
    _ForkingPopen.preloaded = preloaded
    subprocess.Popen = _ForkingPopen  # type: ignore[misc]


def load_servers() -> None:
    """Let the next start of a server or worker take only milliseconds. On a busy machine, the first start takes long.

    A test calls this function before it starts a server on an event loop, which can do nothing else meanwhile.
    """
    if subprocess.Popen is _ForkingPopen:
        _ForkingPopen.preloaded.load_servers()


def uninstall() -> None:
    """Start servers and workers as programs again."""
    subprocess.Popen = _Popen  # type: ignore[misc]


class _ForkingPopen(_Popen[Any]):
    """Behaves like `subprocess.Popen`, but a call that forks a process returns a `PreloadedProcess`."""

    preloaded: Preloaded

    def __new__(cls, *args: Any, **options: Any) -> Any:
        if len(args) != 1 or not _can_be_forked(cls.preloaded, args[0], options):
            return super().__new__(cls)
        with open(os.devnull, "r+b", buffering=0) as nothing:
            streams = [
                _descriptor(options.get(name), standard, nothing.fileno()) for standard, name in enumerate(_STREAMS)
            ]
            return cls.preloaded.start_server(
                args[0],
                options.get("env") or os.environ,
                Path(options.get("cwd") or os.getcwd()),
                streams,
                options.get("pass_fds", ()),
                new_session=options.get("start_new_session", False),
                umask=_umask(),
                limits=[(limit, *resource.getrlimit(limit)) for limit in _LIMITS],
            )


def _can_be_forked(preloaded: Preloaded, command: Any, options: Mapping[str, Any]) -> bool:
    words = command if isinstance(command, list) else []
    env = options.get("env") or os.environ
    return (
        words[:1] == [sys.executable]
        and (words[1:2] == ["-m"] or words[1:3] == ["-P", "-m"])
        and is_server(words[words.index("-m") + 1])
        and options.keys() <= _OPTIONS
        and subprocess.PIPE not in (options.get(name) for name in _STREAMS)
        and sum(len(os.fsencode(word)) + 1 for word in words) < COMMAND_LINE_BYTES
        and REAL_START not in env
        and REAL_START not in os.environ
        and preloaded.fits(env)
    )


def _descriptor(stream: Any, standard: int, nothing: int) -> int:
    if stream is None:
        return standard
    if stream == subprocess.DEVNULL:
        return nothing
    return stream if isinstance(stream, int) else stream.fileno()


def _umask() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
