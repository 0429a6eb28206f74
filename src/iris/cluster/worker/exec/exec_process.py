"""Starts a command in an attempt, with pipes or in a terminal, and ends its processes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable
from typing import Self

from iris.cluster.worker.exec.descriptors import DescriptorReader, DescriptorWriter
from iris.cluster.worker.limits.process_table import read_process
from iris.cluster.worker.process.launcher import Launcher, Program
from iris.cluster.worker.process.shortage import WorkerShortageError, shortage_of
from iris.cluster.worker.process.start_errors import not_started
from iris.cluster.worker.supervision.reaper import all_pids
from iris.reasons import Shortage, ShortageCode
from iris.rpc.cluster_pb2 import ExecCommand
from iris.system.processes import ProcessHandle

_POLL_S = 0.05  # The seconds between two checks of a process on a system without `pidfd_open`.

_ROWS, _COLUMNS = 24, 80  # The size of a terminal if the client does not know the size of its own terminal.
_MOST_CELLS = 10_000


class ExecProcess:
    """The processes of a command that a client has started in an attempt. Use `start` to create an instance.

    Args:
        pid: The process id of the command, which leads a session and a process group.
        launcher: The launcher that has started the command.
        stdin: The object that writes the standard input of the command.
        outputs: The reader of the standard output and, without a terminal, the reader of the standard error.
        terminal: The controlling side of the command's terminal; None without a terminal. This object closes the
            terminal.

    Attributes:
        exited: An event that is set once the command has ended.
    """

    def __init__(
        self,
        pid: int,
        launcher: Launcher,
        stdin: DescriptorWriter,
        outputs: list[DescriptorReader],
        terminal: int | None,
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.outputs = outputs
        self.exited = asyncio.Event()
        self._launcher = launcher
        self._terminal = terminal
        self._is_collected = False
        try:
            watched = ProcessHandle(pid, lambda: read_process(pid) is not None, poll_s=_POLL_S)
        except ProcessLookupError:
            self.exited.set()
        else:
            watched.call_when_ended(self.exited.set)

    @classmethod
    async def start(
        cls, program: Program, launcher: Launcher, command: ExecCommand, on_bytes: Callable[[], None]
    ) -> Self:
        """Start a command.

        Args:
            program: The command line, with the directory, environment and limits of the process.
            launcher: The launcher that starts the program.
            command: The client's request, which contains the size of the terminal, if the command gets one.
            on_bytes: A function that is called when bytes were read or written.

        Raises:
            NotStartedError: The program cannot be started.
            WorkerShortageError: This machine lacks something that the start needs.
        """
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:

            def owned(stack: contextlib.ExitStack, descriptor: int) -> int:
                stack.callback(os.close, descriptor)
                return descriptor

            try:
                if command.terminal:
                    terminal, inside = os.openpty()
                    owned(undo, terminal), owned(theirs, inside)
                    set_size(terminal, command.rows or _ROWS, command.columns or _COLUMNS)
                    streams, ours = [inside] * 3, [owned(undo, os.dup(terminal)), owned(undo, os.dup(terminal))]
                else:
                    terminal = None
                    if command.input:
                        reading, writing = os.pipe()
                        stdin, ours = owned(theirs, reading), [owned(undo, writing)]
                    else:
                        stdin, ours = owned(theirs, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)), [-1]
                    streams = [stdin]
                    for _ in range(2):
                        reading, writing = os.pipe()
                        ours.append(owned(undo, reading))
                        streams.append(owned(theirs, writing))
                pid = await launcher.start(program, streams)
            except OSError as error:
                if isinstance(error, ConnectionError):
                    text = "the worker's launcher, which starts commands, was killed"
                    raise WorkerShortageError(Shortage(text, ShortageCode.OTHER)) from error
                raise (shortage_of(error) or not_started(program, error, has_log=False)) from error
            undo.pop_all()
        stdin_writer = DescriptorWriter(None if ours[0] < 0 else ours[0], on_bytes)
        return cls(pid, launcher, stdin_writer, [DescriptorReader(one, on_bytes) for one in ours[1:]], terminal)

    async def collect(self) -> int:
        """Collect the exit status of the command, which must have ended. Return the exit code; 128 + n if signal n
        ended the command.
        """
        collected = await self._launcher.collect(self.pid)
        self._is_collected = True
        code = os.waitstatus_to_exitcode(collected.status)
        return code if code >= 0 else 128 - code

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the terminal. Without a terminal, nothing happens."""
        if self._terminal is not None:
            with contextlib.suppress(OSError):
                set_size(self._terminal, rows, columns)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's process group, or to the foreground group of its terminal."""
        group = self.pid
        if self._terminal is not None:
            with contextlib.suppress(OSError):
                group = os.tcgetpgrp(self._terminal) or group
        if not self.exited.is_set() and group > 0:
            with contextlib.suppress(OSError):
                os.killpg(group, number)

    def signal_session(self, number: int) -> None:
        """Send a signal to all processes of the command's session, if the command has not been collected. After the
        command was collected, its process id may belong to another process.
        """
        if self._is_collected:
            return
        for pid in [*all_pids(), self.pid]:
            with contextlib.suppress(OSError):
                if os.getsid(pid) == self.pid:
                    os.kill(pid, number)

    def hang_up(self) -> None:
        """Send SIGHUP to all processes of the session, because the client has gone. SIGCONT makes stopped processes
        react.
        """
        self.signal_session(signal.SIGHUP)
        self.signal_session(signal.SIGCONT)

    def close(self) -> None:
        """Close the worker's ends of the pipes and of the terminal."""
        self.stdin.close()
        for output in self.outputs:
            output.close()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Set the size of a terminal in characters."""
    size = struct.pack("HHHH", min(max(rows, 1), _MOST_CELLS), min(max(columns, 1), _MOST_CELLS), 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
