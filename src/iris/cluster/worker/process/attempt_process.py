"""Starts the main process of an attempt in a new process group, and ends all processes of the group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from iris.cluster.worker.limits.process_table import read_process
from iris.cluster.worker.process.launcher import Collected, Launcher, Program
from iris.cluster.worker.process.output_capture import Append, OutputCapture
from iris.cluster.worker.process.shortage import WorkerShortageError, shortage_of
from iris.cluster.worker.process.start_errors import not_started
from iris.failpoints import failpoint
from iris.reasons import Shortage, ShortageCode
from iris.system.event_loop import happens
from iris.system.processes import ProcessHandle

# How many seconds the worker waits for the ends of the pipes after all processes of an attempt were killed. Normally
# the pipes end at once, but a process that has escaped may hold a pipe open.
_DRAIN_S = 1.0
_POLL_S = 0.05  # The seconds between two checks of a process on a system without `pidfd_open`.


@dataclass(frozen=True, slots=True)
class Exit:
    """How the main process of an attempt has ended.

    Attributes:
        code: The exit code; 128 + n if signal n killed the process.
        signal: The signal that killed the process; None if no signal did.
        cpu_s: The CPU seconds that the process and its collected children have used.
        memory_peak_bytes: The largest resident memory of one of these processes; 0 if unknown.
    """

    code: int
    signal: int | None
    cpu_s: float
    memory_peak_bytes: int


class AttemptProcess:
    """The processes of an attempt whose program has started. Use `start` to create an instance.

    Args:
        pid: The process id of the main process, which leads a session and a process group.
        launcher: The launcher that has started the process.
        stdout: The reading end of the pipe to which the process writes its standard output.
        stderr: The reading end of the pipe to which the process writes its standard error.
        append: A function that is called on the event loop with a source and the bytes that were read.
        end_strays: A function that kills the processes of the attempt that have left its process group.
        drain_s: How long to wait for the end of the pipes, after the main process has ended, if an escaped process
            holds them open.
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
        self._end_strays = end_strays
        self._drain_s = drain_s
        self._output = OutputCapture(append)
        self._exited = asyncio.Event()
        self._collected: Collected | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._output.add(stdout, "stdout")
        self._output.add(stderr, "stderr")
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
        """Start a program.

        Args:
            program: The command line, with the directory, environment and limits of the process.
            launcher: The launcher that starts the program.
            append: A function that is called on the event loop with a source and the bytes that were read.
            end_strays: A function that kills the processes of the attempt that have left its process group.
            stdin: The descriptor of the standard input; None means /dev/null.
            drain_s: How long to wait for the end of the pipes after the main process has ended.

        Raises:
            NotStartedError: The program cannot be started.
            WorkerShortageError: This machine lacks something that the start needs.
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
                    text = "the worker's launcher, which starts tasks, was killed"
                    raise WorkerShortageError(Shortage(text, ShortageCode.OTHER)) from error
                short = shortage_of(error)
                if short is not None:
                    raise short from error
                raise not_started(program, error) from error
            undo.pop_all()
        return cls(pid, launcher, stdout, stderr, append=append, end_strays=end_strays, drain_s=drain_s)

    async def wait(self) -> Exit:
        """Wait until no process of the attempt is left and all output is captured. Return how the main process has
        ended. After an error, a further call continues with the step that has failed.

        An attempt ends in these steps:
        1. Wait until the main process exits. The main process stays a zombie until step 3, so no other process gets its
           group id.
        2. Kill the rest of the process group. In the same way, a container ends when its first process exits.
        3. Collect the main process, with its exit code and resource usage.
        4. Kill the processes that have left the group. The worker finds these processes by the mark of the attempt.
        5. Read the pipes to their ends, so that all output is captured before the exit is reported. If an escaped
           process holds a pipe open, read what the pipe contains after `drain_s` seconds.
        """
        await self._exited.wait()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self.signal_group(signal.SIGKILL)
        failpoint("reap.before")
        # The launcher would die of a second request to collect the same process.
        collected = self._collected = self._collected or await self._launcher.collect(self.pid)
        failpoint("reap.after")
        code = os.waitstatus_to_exitcode(collected.status)
        await self._end_strays()
        if not await happens(self._output.ended, self._drain_s):
            self._output.close()
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
        """Send SIGTERM to the process group, and SIGKILL after the grace period. A repeated call can only shorten the
        grace period.
        """
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
        """Send a signal to all processes of the process group, if any process is left. After the main process was
        collected, nothing happens, because the id of the group may belong to other processes.
        """
        if self._collected is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    return reading, writing
