"""Defines the handles of an async client on a command that runs in a task."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

from iris.arguments import check_timeout
from iris.client.exec.arguments import ExecResult, check_bytes, check_signal, check_size
from iris.client.exec.pipes import InputPipe, OutputPipe
from iris.client.exec.session import ExecSession
from iris.client.tunnels.tunnel_calls import TunnelCalls
from iris.errors import DeadlineExceededError, FailedPreconditionError, IrisError, UnavailableError
from iris.reasons import ErrorReason
from iris.rpc.cluster_pb2 import ExecCommand, ExecExit

_CHUNK_BYTES = 256 * 1024


class AsyncExecOutput:
    """A stream of bytes that a command writes: its standard output or its error output."""

    def __init__(self, pipe: OutputPipe) -> None:
        self._pipe = pipe

    async def read(self, size: int = -1) -> bytes:
        """Wait until bytes have arrived, and return them. Return no bytes at the end of the stream.

        Args:
            size: The largest number of bytes. -1: all bytes up to the end of the stream.

        Raises:
            UnavailableError: The rest of the stream is lost.
        """
        return await self._pipe.read(size)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._pipe.read(_CHUNK_BYTES):
            yield data


class AsyncExecProcess:
    """A command in a task. `AsyncIrisClient.open_exec` makes it.

    The process is an asynchronous context manager. The command starts at the beginning of the block. If it still runs
    at the end of the block, it gets SIGHUP, and SIGKILL 5 s later. A lost connection to the controller delays the
    command's streams, but loses none of their bytes.

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
        self._make_calls = make_calls
        self._job_id = job_id
        self._task_index = task_index
        self._command = command
        self._on_notice = on_notice
        # The start of the command and `communicate` together may take this many seconds.
        self._timeout_s, self._until_s = timeout_s, math.inf
        self._input = InputPipe()
        self._pipes = [OutputPipe(), OutputPipe()]
        self.stdout = AsyncExecOutput(self._pipes[0])
        self.stderr = AsyncExecOutput(self._pipes[1])
        self._session: ExecSession | None = None
        self._running: asyncio.Task[ExecExit] | None = None

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise FailedPreconditionError("the command was started before: client.open_exec(…) starts another one")
        if not self._command.input:
            self._input.end()
        outputs = self._pipes[:1] if self._command.terminal else self._pipes
        if self._command.terminal:
            self._pipes[1].write_eof()
        session = self._session = ExecSession(
            self._make_calls(), self._job_id, self._task_index, self._command, self._input, [*outputs], self._on_notice
        )
        self._running = asyncio.create_task(session.run())
        self._running.add_done_callback(self._on_end)
        starting = asyncio.create_task(session.started.wait())
        self._until_s = asyncio.get_running_loop().time() + self._timeout_s
        within_s = self._timeout_s if math.isfinite(self._timeout_s) else None
        try:
            await asyncio.wait((self._running, starting), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if not session.started.is_set():
                if not self._running.done():
                    raise self._late(self._timeout_s, what="started")
                self._running.result()
        except BaseException:
            await self._stop()
            raise
        finally:
            starting.cancel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def write(self, data: bytes) -> None:
        """Write bytes to the standard input. Wait while the command does not read. Input for a command that has ended
        is dropped.

        Raises:
            InvalidArgumentError: `data` is not bytes.
            FailedPreconditionError: The command was started without input, or the input was closed.
        """
        self._check_input()
        await self._input.write(check_bytes("data", data))

    async def close_input(self) -> None:
        """Close the standard input of the command. Bytes that were written before still reach the command."""
        self._input.end()

    async def send_signal(self, signal: int) -> None:
        """Send a signal to the process group of the command, or to the foreground processes of its terminal.

        Args:
            signal: The number of the signal, for example `signal.SIGINT`.

        Raises:
            InvalidArgumentError: `signal` is not a number from 1 to 64.
        """
        self._open_session().send_signal(check_signal(signal))

    async def resize(self, rows: int, columns: int) -> None:
        """Change the size of the command's terminal. Without a terminal, this method has no effect.

        Raises:
            InvalidArgumentError: `rows` or `columns` is not a number from 1 to 10,000.
        """
        self._open_session().resize(*check_size((rows, columns)))

    async def wait(self, timeout: float | None = None) -> int:
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
        return (await self._ended(timeout)).exit_code

    async def communicate(self, input: bytes = b"", timeout: float | None = None) -> ExecResult:
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
        data = check_bytes("input", input)
        if data:
            self._check_input()
            self._input.check_open()
        sending = asyncio.create_task(self._send(data))
        reading = [asyncio.create_task(pipe.read()) for pipe in self._pipes]
        try:
            ended = await self._ended(timeout)
            stdout, stderr = [await task for task in reading]
        finally:
            for task in (sending, *reading):
                task.cancel()
            await asyncio.gather(sending, *reading, return_exceptions=True)
        return ExecResult(ended.exit_code, stdout, stderr, ended.error)

    async def _send(self, data: bytes) -> None:
        if data:
            await self.write(data)
        await self.close_input()

    async def _ended(self, timeout: float | None) -> ExecExit:
        timeout_s = check_timeout("timeout", timeout)
        self._open_session()
        assert self._running is not None, "an open session runs"
        left_s = min(timeout_s, self._until_s - asyncio.get_running_loop().time())
        await asyncio.wait((self._running,), timeout=max(0.0, left_s) if math.isfinite(left_s) else None)
        if not self._running.done():
            raise self._late(timeout_s if math.isfinite(timeout_s) else self._timeout_s, what="ended")
        if self._running.cancelled():
            text = "it is unknown how the command ended, because its block was left before"
            raise UnavailableError(text, reason=ErrorReason.EXEC_LOST)
        return self._running.result()

    def _late(self, limit_s: float, what: str) -> DeadlineExceededError:
        return DeadlineExceededError(f"the command in job {self._job_id!r} has not {what} within {limit_s:g} s")

    def _check_input(self) -> None:
        self._open_session()
        if not self._command.input:
            raise FailedPreconditionError("the command has no standard input: start it with stdin=True")

    def _open_session(self) -> ExecSession:
        if self._session is None:
            raise FailedPreconditionError(
                "the command was not started: use client.open_exec(…) in an 'async with' block"
            )
        return self._session

    def _on_end(self, running: asyncio.Task[ExecExit]) -> None:
        self._input.close()
        error = None if running.cancelled() else running.exception()
        if not isinstance(error, IrisError):
            error = UnavailableError("the output of the command is lost", reason=ErrorReason.EXEC_LOST)
        for pipe in self._pipes:
            pipe.fail(error)

    async def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError, IrisError):
                await self._running
