"""One attempt's processes: started as a group of their own, captured as they write, ended without leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import termios
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from iris.cluster.logs.writer import Source
from iris.cluster.worker.limits.process_table import read_process
from iris.cluster.worker.process.launcher import Launcher, Program
from iris.cluster.worker.process.shortage import WorkerShortageError, shortage_of
from iris.cluster.worker.process.start_errors import not_started
from iris.failpoints import failpoint
from iris.system.event_loop import happens
from iris.system.processes import ProcessHandle

_READ_BYTES = 256 * 1024
_PIPE_BYTES = 1024 * 1024  # room for a burst while the loop is busy: the task is not slowed by its capture
# After the processes of an attempt were killed their pipes end at once; only something that escaped holds one open.
_DRAIN_S = 1.0
_POLL_S = 0.05  # how often to look whether the process has ended, on a system that does not report it

Append = Callable[[Source, bytes], None]


@dataclass(frozen=True, slots=True)
class Exit:
    """How the main process ended.

    Attributes:
        code: What a shell would say: its exit code, 128 + n when signal n ended it.
        signal: That signal; None when none did.
        cpu_s: CPU seconds that it and its waited-for children used.
        memory_peak_bytes: The largest resident set of one of them; 0 where that is not known.
    """

    code: int
    signal: int | None
    cpu_s: float
    memory_peak_bytes: int


class AttemptProcess:
    """The processes of an attempt, whose program has begun; `start` makes one.

    `wait` answers when the program has ended, nothing of it is left and all it wrote was captured.

    Args:
        pid: The main process, which leads a session and a process group.
        launcher: What has started it.
        stdout: The pipe that it writes to.
        stderr: Likewise.
        append: Takes what it writes, with the source, as it comes; called on the loop.
        end_strays: Ends what the attempt started and its group does not hold.
        drain_s: For how long its pipes are waited for after its end, when something that escaped holds them open.
    """

    def __init__(
        self,
        pid: int,
        launcher: Launcher,
        stdout: int,
        stderr: int,
        *,
        append: Append,
        end_strays: Callable[[], Awaitable[None]],
        drain_s: float = _DRAIN_S,
    ) -> None:
        self.pid = pid
        self._loop = asyncio.get_running_loop()
        self._launcher = launcher
        self._append = append
        self._end_strays = end_strays
        self._drain_s = drain_s
        self._open_pipes: dict[int, Source] = {}
        self._drained = asyncio.Event()
        self._exited = asyncio.Event()
        self._kill_timer: asyncio.TimerHandle | None = None
        self._capture(stdout, "stdout")
        self._capture(stderr, "stderr")
        try:
            watched = ProcessHandle(pid, lambda: read_process(pid) is not None, poll_s=_POLL_S)
        except ProcessLookupError:
            self._exited.set()
        else:
            watched.call_when_ended(self._exited.set)

    @classmethod
    async def start(
        cls,
        program: Program,
        launcher: Launcher,
        *,
        append: Append,
        end_strays: Callable[[], Awaitable[None]],
        stdin: int | None = None,
        drain_s: float = _DRAIN_S,
    ) -> Self:
        """Starts a program.

        Args:
            program: What runs, and with what.
            launcher: What starts it.
            append: See the class.
            end_strays: See the class.
            stdin: The descriptor of its standard input; None: it has none (/dev/null).
            drain_s: See the class.

        Raises:
            NotStartedError: It cannot be started; the text says why.
            WorkerShortageError: This machine lacks something to start it.
        """
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            try:
                if stdin is None:
                    stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                    theirs.callback(os.close, stdin)
                stdout, stdout_end = _pipe(undo, theirs)
                stderr, stderr_end = _pipe(undo, theirs)
                pid = await launcher.start(program, [stdin, stdout_end, stderr_end])
            except OSError as error:
                if isinstance(error, ConnectionError):
                    text = "the process of the worker that starts tasks has ended: somebody has killed it"
                    raise WorkerShortageError(text) from error
                short = shortage_of(error)
                if short is not None:
                    raise short from error
                raise not_started(program, error) from error
            undo.pop_all()
        return cls(pid, launcher, stdout, stderr, append=append, end_strays=end_strays, drain_s=drain_s)

    async def wait(self) -> Exit:
        """Waits for the end, in this order:

        1. The main process exits. It is a zombie until step 3, so its group id cannot be given to others.
        2. The rest of its group is killed, as the processes of a container are when its first one ends.
        3. The main process is collected: exit code and resource usage.
        4. What left the group is found by its mark, and killed.
        5. The pipes are read to their ends: all that was written before is captured before anybody hears of the exit.
           Of one that something holds open, what is in it after a while is the end.
        """
        await self._exited.wait()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self.signal_group(signal.SIGKILL)
        failpoint("reap.before")
        collected = await self._launcher.collect(self.pid)
        failpoint("reap.after")
        code = os.waitstatus_to_exitcode(collected.status)
        await self._end_strays()
        if not await happens(self._drained, self._drain_s):
            for pipe in list(self._open_pipes):
                self._take_rest(pipe)
                self._close_pipe(pipe)
        return Exit(
            code=code if code >= 0 else 128 - code,
            signal=-code if code < 0 else None,
            cpu_s=collected.cpu_s,
            memory_peak_bytes=collected.memory_peak_bytes,
        )

    @property
    def has_exited(self) -> bool:
        """Whether the main process has ended."""
        return self._exited.is_set()

    def stop(self, grace_s: float) -> None:
        """SIGTERM to the group, SIGKILL after the grace period. Again: a shorter period counts."""
        if self._exited.is_set():
            return
        if self._kill_timer is None:
            self.signal_group(signal.SIGTERM)
        elif self._kill_timer.when() <= self._loop.time() + grace_s:
            return
        else:
            self._kill_timer.cancel()
        self._kill_timer = self._loop.call_later(grace_s, self.signal_group, signal.SIGKILL)

    def signal_group(self, number: int) -> None:
        """Sends a signal to all processes of the group; without effect when there are none."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _capture(self, pipe: int, source: Source) -> None:
        os.set_blocking(pipe, False)
        with contextlib.suppress(OSError):  # more than the system's limit: the default size does as well
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._open_pipes[pipe] = source
        self._loop.add_reader(pipe, self._on_readable, pipe, source)

    def _on_readable(self, pipe: int, source: Source) -> None:
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._append(source, data)
        else:
            self._close_pipe(pipe)

    def _take_rest(self, pipe: int) -> None:
        """What is in a pipe now, and nothing that comes meanwhile. The loop may have been too busy to read it, as with
        a slow disk."""
        left = int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
        while left > 0:
            data = os.read(pipe, min(left, _READ_BYTES))
            if not data:
                return
            left -= len(data)
            self._append(self._open_pipes[pipe], data)

    def _close_pipe(self, pipe: int) -> None:
        self._loop.remove_reader(pipe)
        os.close(pipe)
        self._open_pipes.pop(pipe, None)
        if not self._open_pipes:
            self._drained.set()


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    return reading, writing
