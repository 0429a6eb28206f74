"""The launcher sets the launch limits of a program before the program begins."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.cluster import is_alive, shell
from support.waiting import wait_until

from iris.cluster.worker.process.launcher import Launcher, Program, start_launcher
from iris.system.inherited import reset_signals

pytestmark = pytest.mark.anyio


@pytest.fixture
async def launcher() -> AsyncIterator[Launcher]:
    reset_signals()  # as the worker does first; whoever started the tests may ignore SIGQUIT
    own = start_launcher()
    yield own
    own.close()
    await asyncio.to_thread(os.waitpid, own.pid, 0)


async def run(launcher: Launcher, program: Program) -> tuple[int, str]:
    """Run a program, and return its exit code and its output."""
    reading, writing = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        pid = await launcher.start(program, [nothing, writing, writing])
    finally:
        os.close(writing)
        os.close(nothing)
    with os.fdopen(reading) as pipe:
        written = await asyncio.to_thread(pipe.read)
    await asyncio.to_thread(wait_until, lambda: not is_alive(pid), "its end")
    collected = await launcher.collect(pid)
    return os.waitstatus_to_exitcode(collected.status), written


async def test_a_program_starts_with_its_file_limit_umask_and_working_directory(
    launcher: Launcher, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    program = Program(shell("ulimit -Sn; ulimit -Hn; umask; pwd -P"), str(tmp_path), dict(os.environ), 300, 0o027)
    hard = "unlimited" if limits[1] == resource.RLIM_INFINITY else str(limits[1])
    assert await run(launcher, program) == (0, f"300\n{hard}\n0027\n{tmp_path.resolve()}\n")
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits, "of this process"


async def test_a_program_without_a_umask_gets_the_umask_of_the_worker(launcher: Launcher, tmp_path: Path) -> None:
    await run(launcher, Program(["true"], str(tmp_path), {"PATH": os.environ["PATH"]}, 300, 0))
    code, written = await run(launcher, Program(shell("umask"), str(tmp_path), dict(os.environ), 300))
    own = os.umask(0o22)
    os.umask(own)
    assert (code, written) == (0, f"{own:04o}\n")


async def test_a_program_starts_with_default_signal_handlers(launcher: Launcher, tmp_path: Path) -> None:
    program = Program(["grep", "^Sig[BI]", "/proc/self/status"], str(tmp_path), dict(os.environ), 300)
    assert await run(launcher, program) == (0, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n")


async def test_a_program_inherits_only_its_three_streams(launcher: Launcher, tmp_path: Path) -> None:
    program = Program(shell("cd /proc/self/fd && echo *"), str(tmp_path), dict(os.environ), 300)
    # The shell opens the folder to list it.
    assert (await run(launcher, program))[1].split()[:3] == ["0", "1", "2"]
    assert len((await run(launcher, program))[1].split()) <= 4


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["no-such-program"], FileNotFoundError),
        (["./no-such-program"], FileNotFoundError),
        (["/etc/passwd"], PermissionError),
        (["true", "x" * 5_000_000], OSError),
    ],
)
async def test_starting_a_missing_program_raises_an_error(
    launcher: Launcher, tmp_path: Path, command: list[str], error: type[OSError]
) -> None:
    with pytest.raises(error):
        await run(launcher, Program(command, str(tmp_path), dict(os.environ), 300))
    assert await run(launcher, Program(["true"], str(tmp_path), dict(os.environ), 300)) == (0, "")


async def test_concurrent_starts_of_programs_get_their_own_answers(launcher: Launcher, tmp_path: Path) -> None:
    padding = {"PADDING": "x" * 100_000}  # together more than a connection holds
    programs = [Program(shell(f"exit {i}"), str(tmp_path), os.environ | padding, 300) for i in range(60)]
    assert [code for code, _ in await asyncio.gather(*(run(launcher, one) for one in programs))] == list(range(60))


async def test_worker_without_its_launcher_starts_no_program_but_collects_exit_codes(tmp_path: Path) -> None:
    launcher = start_launcher()
    nothing = os.open(os.devnull, os.O_RDWR)
    pid = await launcher.start(Program(["sleep", "600"], str(tmp_path), dict(os.environ), 300), [nothing] * 3)
    os.kill(launcher.pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, launcher.pid, 0)
    with pytest.raises(ConnectionError):
        await launcher.start(Program(["true"], str(tmp_path), dict(os.environ), 300), [nothing] * 3)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode((await launcher.collect(pid)).status) in (-signal.SIGKILL, signal.SIGKILL)
    launcher.close()
    os.close(nothing)
