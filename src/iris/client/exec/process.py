"""Defines the handles of a sync client on a command that runs in a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Self

from iris.client.exec.arguments import ExecResult
from iris.client.exec.async_process import AsyncExecOutput, AsyncExecProcess
from iris.client.tunnels.loop_thread import LoopThread
from iris.client.tunnels.tunnel_calls import TunnelCalls
from iris.errors import FailedPreconditionError
from iris.rpc.cluster_pb2 import ExecCommand

_CHUNK_BYTES = 256 * 1024


class ExecOutput:
    """A stream of bytes that a command writes: its standard output or its error output."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def read(self, size: int = -1) -> bytes:
        """Wait until bytes have arrived, and return them. Return no bytes at the end of the stream.

        Args:
            size: The largest number of bytes. -1: all bytes up to the end of the stream.

        Raises:
            UnavailableError: The rest of the stream is lost.
        """
        return self._read(size)

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(_CHUNK_BYTES):
            yield data


class ExecProcess:
    """A command in a task. `IrisClient.open_exec` makes it.

    The process is a context manager. The command starts at the beginning of the block. If it still runs at the end of
    the block, it gets SIGHUP, and SIGKILL 5 s later. A lost connection to the controller delays the command's streams,
    but loses none of their bytes.

    Attributes:
        stdout: The standard output. With a terminal, also the error output. The command waits when about 5 MiB have not
            been read.
        stderr: The error output.
    """

    def __init__(
        self,
        make_calls: Callable[[], TunnelCalls],
        job_id: str,
        task_index: int,
        command: ExecCommand,
        on_notice: Callable[[str], None],
        timeout_s: float = math.inf,
    ) -> None:
        self._arguments = make_calls, job_id, task_index, command, on_notice, timeout_s
        self._is_left = False
        self._loop: LoopThread | None = None
        self._process: AsyncExecProcess | None = None
        self.stdout = ExecOutput(partial(self._read, lambda process: process.stdout))
        self.stderr = ExecOutput(partial(self._read, lambda process: process.stderr))

    def __enter__(self) -> Self:
        if self._loop is not None:
            raise FailedPreconditionError("the command was started before: client.open_exec(…) starts another one")
        self._loop = LoopThread("iris-exec")
        try:
            self._process = self._loop.call(self._start())
        except BaseException:
            self._loop.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        loop, process = self._opened()
        try:
            loop.call(process.__aexit__(kind, error, traceback))
        finally:
            self._is_left = True
            loop.stop()

    def write(self, data: bytes) -> None:
        """Write bytes to the standard input. Wait while the command does not read. Input for a command that has ended
        is dropped.

        Raises:
            InvalidArgumentError: `data` is not bytes.
            FailedPreconditionError: The command was started without input, or the input was closed.
        """
        loop, process = self._opened()
        loop.call(process.write(data))

    def close_input(self) -> None:
        """Close the standard input of the command. Bytes that were written before still reach the command."""
        loop, process = self._opened()
        loop.call(process.close_input())

    def send_signal(self, signal: int) -> None:
        """Send a signal to the process group of the command, or to the foreground processes of its terminal.

        Args:
            signal: The number of the signal, for example `signal.SIGINT`.

        Raises:
            InvalidArgumentError: `signal` is not a number from 1 to 64.
        """
        loop, process = self._opened()
        loop.call(process.send_signal(signal))

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the command's terminal. Without a terminal, this method has no effect.

        Raises:
            InvalidArgumentError: `rows` or `columns` is not a number from 1 to 10,000.
        """
        loop, process = self._opened()
        loop.call(process.resize(rows, columns))

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the command has ended and all of its output has arrived. Return the exit code.

        The exit code is 128 + n if signal n ended the command, 127 if the command was not found, 126 if it cannot be
        executed, and 125 if the worker could not start it. Read the output meanwhile, because the command stops and
        waits if its output is not read.

        Args:
            timeout: How many seconds to wait. None and `math.inf` wait forever.

        Raises:
            DeadlineExceededError: (a `TimeoutError`) The command has not ended within `timeout`.
            UnavailableError: How the command ended is unknown, because its worker or its session is gone
                (`EXEC_LOST`), or because the cluster does not answer.
        """
        loop, process = self._opened()
        return loop.call(process.wait(timeout))

    def communicate(self, input: bytes = b"", timeout: float | None = None) -> ExecResult:
        """Send input, close the input, read all output, and wait until the command has ended.

        Args:
            input: The bytes of the standard input.
            timeout: How many seconds to wait. None and `math.inf` wait forever.

        Raises:
            InvalidArgumentError: `input` is not bytes.
            FailedPreconditionError: `input` has bytes, but the command was started without input, or the input was
                closed.
            DeadlineExceededError: (a `TimeoutError`) The command has not ended within `timeout`.
            UnavailableError: How the command ended is unknown; see `wait`.
        """
        loop, process = self._opened()
        return loop.call(process.communicate(input, timeout))

    async def _start(self) -> AsyncExecProcess:
        return await AsyncExecProcess(*self._arguments).__aenter__()

    def _read(self, choose: Callable[[AsyncExecProcess], AsyncExecOutput], size: int) -> bytes:
        loop, process = self._opened()
        return loop.call(choose(process).read(size))

    def _opened(self) -> tuple[LoopThread, AsyncExecProcess]:
        if self._loop is None or self._process is None:
            raise FailedPreconditionError("the command was not started: use client.open_exec(…) in a 'with' block")
        if self._is_left:
            raise FailedPreconditionError("the 'with' block of the command has ended: use the command inside the block")
        return self._loop, self._process
