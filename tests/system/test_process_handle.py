"""Watching processes and sending signals to them, with and without the kernel's pidfd."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from iris.system import processes
from iris.system.processes import ProcessHandle, call_when_child_ends

SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def without_pidfd(handle: ProcessHandle) -> ProcessHandle:
    """Return the handle as an old kernel makes it."""
    handle.close()
    return handle


def as_it_is(handle: ProcessHandle) -> ProcessHandle:
    return handle


kernels = pytest.mark.parametrize("kernel", [as_it_is, without_pidfd])


@kernels
def test_process_handle_wait_returns_after_the_process_has_ended(
    child: subprocess.Popen[bytes], kernel: Callable[[ProcessHandle], ProcessHandle]
) -> None:
    async def watch() -> None:
        handle = kernel(ProcessHandle(child.pid, lambda: child.poll() is None, poll_s=0.01))
        waiting = asyncio.create_task(handle.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        handle.send_signal(signal.SIGKILL)
        await waiting
        handle.close()

    asyncio.run(watch())
    assert child.wait() == -signal.SIGKILL


@kernels
def test_process_handle_calls_its_function_after_the_process_has_ended(
    child: subprocess.Popen[bytes], kernel: Callable[[ProcessHandle], ProcessHandle]
) -> None:
    async def watch() -> None:
        ended = asyncio.Event()
        kernel(ProcessHandle(child.pid, lambda: child.poll() is None, poll_s=0.01)).call_when_ended(ended.set)
        child.kill()
        await ended.wait()

    asyncio.run(watch())


@kernels
def test_signal_to_a_process_that_has_ended_and_was_collected_does_nothing(
    child: subprocess.Popen[bytes], kernel: Callable[[ProcessHandle], ProcessHandle]
) -> None:
    handle = kernel(ProcessHandle(child.pid, lambda: child.poll() is None))
    child.kill()
    child.wait()
    handle.send_signal(signal.SIGKILL)
    handle.close()


def test_process_handle_for_an_ended_process_without_a_zombie_is_refused(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    with pytest.raises(ProcessLookupError):
        ProcessHandle(child.pid, lambda: False)


def test_end_of_a_child_process_is_reported_and_its_exit_code_is_not_collected(child: subprocess.Popen[bytes]) -> None:
    async def watch() -> None:
        ended = asyncio.Event()
        call_when_child_ends(child.pid, ended.set)
        child.kill()
        await ended.wait()

    asyncio.run(watch())
    assert child.wait() == -signal.SIGKILL


def test_end_of_the_parent_process_is_reported() -> None:
    program = (
        "import asyncio, os, sys\n"
        f"from {processes.__name__} import call_when_parent_ends\n"
        "async def main():\n"
        "    ended = asyncio.Event()\n"
        "    call_when_parent_ends(os.getppid(), ended.set)\n"
        "    print('watching', flush=True)\n"
        "    await ended.wait()\n"
        "    print('ended', flush=True)\n"
        "asyncio.run(main())\n"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"watching\n"
        process.kill()
        assert process.stdout.read() == b"ended\n"
