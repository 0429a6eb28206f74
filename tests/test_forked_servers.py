"""Tests of the servers that tests fork instead of starting them: see tests/support/forked_servers.py."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import is_alive, parent_of, running_cluster
from support.forked_servers import REAL_START
from support.preloaded import Preloaded, PreloadedProcess
from support.waiting import wait_until

STATUS = ("Umask", "Uid", "Gid", "Groups", "SigIgn", "SigCgt", "CapEff")
PROGRAM = """
import time
from iris.cluster.client.server_process import LocalCluster
with open("pid", "w") as file:
    process = LocalCluster(1).start().process
    file.write(f"{process.pid} {type(process).__name__}\\n")
time.sleep(600)
"""


@pytest.fixture
def unusual_limits() -> Iterator[None]:
    """Give this process another umask and another limit than the template has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    umask = os.umask(0o027)
    resource.setrlimit(resource.RLIMIT_CORE, (4096 if soft != 4096 else 8192, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    os.umask(umask)


def connections(process: Path) -> set[str]:
    """Return the sockets and pipes of a process."""
    found = set()
    for path in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(path))
    return {name for name in found if name.startswith(("socket:", "pipe:"))}


def attributes(directory: Path) -> dict[str, Any]:
    """Start a server, and return the attributes that a forked server and a started one have in common."""
    with running_cluster(directory) as server:
        pid = server.process.pid
        process = Path(f"/proc/{pid}")
        parent = process.with_name(str(parent_of(pid)))
        # The pipe by which the server reports its start stays open for a moment.
        wait_until(lambda: not connections(process) & connections(parent), "no connection of the parent in the server")
        command = (process / "cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
        return {
            "program": [word for word in command if not word.startswith("{") and not word.isdigit()],
            "config": next(word for word in command if word.startswith("{")).replace(str(directory), ""),
            "status": [line for line in (process / "status").read_text().splitlines() if line.startswith(STATUS)],
            "limits": (process / "limits").read_text(),
            "leads a session": os.getsid(pid) == pid,
            "folder": os.readlink(process / "cwd"),
        }


@pytest.mark.usefixtures("unusual_limits")
def test_forked_server_has_the_attributes_of_a_started_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "cluster"
    forked = attributes(directory)
    monkeypatch.setenv(REAL_START, "1")
    assert forked == attributes(directory)


def test_local_cluster_starts_its_server_without_a_fork_if_the_environment_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preloaded: Preloaded
) -> None:
    with running_cluster(tmp_path / "same") as server:
        # Another test may have changed this process for good, for example its signals. Then a fork would differ.
        assert isinstance(server.process, PreloadedProcess) == preloaded.fits(os.environ)
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    with running_cluster(tmp_path / "other") as server:
        assert not isinstance(server.process, PreloadedProcess)


def test_forked_server_ends_when_its_program_is_killed(tmp_path: Path, preloaded: Preloaded) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    found = tmp_path / "pid"
    with open(os.devnull, "r+b") as nothing:
        program = preloaded.start([], os.environ, tmp_path, [nothing.fileno()] * 3, script=script)
    text = wait_until(lambda: found.exists() and found.read_text().endswith("\n") and found.read_text(), "the pid")
    pid, kind = int(text.split()[0]), text.split()[1]
    assert kind == PreloadedProcess.__name__, "the program has the same attributes as the template"
    assert is_alive(pid)
    program.kill()
    program.wait()
    wait_until(lambda: not is_alive(pid), f"the end of the server {pid}")
