"""Watches processes of this machine and sends signals to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable


class ProcessHandle:
    """A process, known by its id, that this program watches and sends signals to.

    The handle uses a pidfd. Therefore a signal cannot reach a later process with the same id. There is no pidfd on a
    kernel before Linux 5.3 and in some sandboxes. The handle then calls `is_running` before each signal.

    Args:
        pid: The id of the process.
        is_running: A function that returns whether the same process still runs.
        poll_s: The seconds between two calls of `is_running` if there is no pidfd.

    Raises:
        ProcessLookupError: The process has ended and was collected.
    """

    def __init__(self, pid: int, is_running: Callable[[], bool], *, poll_s: float = 1.0) -> None:
        self.pid = pid
        self._is_running = is_running
        self._poll_s = poll_s
        self._pidfd = _open_pidfd(pid)
        self._timer: asyncio.TimerHandle | None = None

    def call_when_ended(self, then: Callable[[], object]) -> None:
        """Call a function on the running loop once the process has ended. After `close`, the function is not called."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            self.close()
            then()

        def poll() -> None:
            if self._is_running():
                self._timer = loop.call_later(self._poll_s, poll)
            else:
                ended()

        if self._pidfd is None:
            poll()
        else:
            loop.add_reader(self._pidfd, ended)

    async def wait(self) -> None:
        """Wait until the process has ended."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        if self._pidfd is None:
            while self._is_running():  # noqa: ASYNC110 - No other part of the system reports the end of the process.
                await asyncio.sleep(self._poll_s)
            return
        loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._is_running():
                os.kill(self.pid, number)

    def close(self) -> None:
        """Stop watching the process, without a signal to it. Further calls have no effect."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pidfd is not None:
            with contextlib.suppress(RuntimeError):  # no loop is running
                asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


def call_when_child_ends(pid: int, then: Callable[[], object]) -> None:
    """Call a function on the running loop once a child process has ended. The exit code of the child is not
    collected.
    """

    def is_running() -> bool:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    ProcessHandle(pid, is_running).call_when_ended(then)


def call_when_parent_ends(parent_pid: int, then: Callable[[], object]) -> None:
    """Call a function on the running loop once the parent process has ended. If the parent has ended already, call the
    function at once.
    """

    def is_running() -> bool:
        return os.getppid() == parent_pid

    try:
        handle = ProcessHandle(parent_pid, is_running)
    except ProcessLookupError:
        then()
        return
    if is_running():
        handle.call_when_ended(then)
    else:
        handle.close()
        then()


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        return None
