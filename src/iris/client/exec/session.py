"""Runs one command in a task: joins its streams to channels of a tunnel, and waits for its end.

A session succeeds only if the worker has reported the exit code of the command and all output has arrived. In every
other case, the session fails with an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from iris.client.tunnels.task_tunnel import TaskTunnel, TunnelEvents
from iris.client.tunnels.tunnel_calls import TunnelCalls
from iris.errors import (
    FailedPreconditionError,
    IrisError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import (
    ChannelReset,
    ChannelTarget,
    ExecCommand,
    ExecControl,
    ExecEvent,
    ExecExit,
    ExecStream,
    ExecTarget,
    TunnelMessage,
)
from iris.rpc.tunnels.channel import Channel
from iris.rpc.tunnels.connections import ByteReader, ByteWriter
from iris.rpc.tunnels.message_stream import MessageWriter, frame
from iris.versions import VERSION

# The client gives up after this many seconds without an answer. Waiting longer is useless, because the worker ends a
# session after 60 s without its client.
_PATIENCE_S = 120.0


class OutputSink(ByteWriter, Protocol):
    """The destination of an output stream of a command in a task.

    Attributes:
        ended: An event that is set when the whole output was written.
    """

    ended: asyncio.Event


class ExecSession:
    """A command in a task.

    Args:
        calls: The object that makes the calls to the controller.
        job_id: The id of the job.
        task_index: The index of the task in its job, from 0.
        command: The command to run, with its options.
        stdin: The object from which the standard input of the command is read.
        outputs: The destination of the standard output. For a command without a terminal, also the destination of the
            error output.
        on_note: A function that is called with each message for the user.

    Attributes:
        started: An event that is set when the worker has reported the start or the end of the command. If the worker
            cannot start the command, it reports the end with an exit code from 125 to 127.
    """

    def __init__(
        self,
        calls: TunnelCalls,
        job_id: str,
        task_index: int,
        command: ExecCommand,
        stdin: ByteReader,
        outputs: list[OutputSink],
        on_note: Callable[[str], None],
    ) -> None:
        self.started = asyncio.Event()
        self._command = command
        self._stdin = stdin
        self._outputs = outputs
        self._control = asyncio.StreamReader()
        self._exit: asyncio.Future[ExecExit] = asyncio.get_running_loop().create_future()
        self._failed: asyncio.Future[IrisError] = asyncio.get_running_loop().create_future()
        events = TunnelEvents(on_note, on_lost=self._channels_lost, on_reset=self._channel_was_reset)
        self._tunnel = TaskTunnel(
            calls,
            job_id,
            task_index,
            events,
            when_running="the command starts when it runs",
            patience_s=_PATIENCE_S,
        )

    @property
    def is_silent(self) -> bool:
        """Whether the cluster has not answered for some seconds."""
        return self._tunnel.is_silent

    def send_signal(self, number: int) -> None:
        """Send a signal to the command."""
        self._control.feed_data(frame(ExecControl(signal=number)))

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the command's terminal."""
        self._control.feed_data(frame(ExecControl(rows=rows, columns=columns)))

    async def run(self) -> ExecExit:
        """Run the command, and return how it ended. If this coroutine is cancelled, the command gets SIGHUP.

        Raises:
            FailedPreconditionError: The task has ended, or the cluster runs no commands in tasks.
            ResourceExhaustedError: Users run too many commands in the task.
            UnavailableError: How the command ended is unknown, because its worker or its session is gone
                (`EXEC_LOST`), or because the cluster does not answer.
            NotFoundError: There is no such job or task.
            PermissionDeniedError: The caller is neither the owner of the job nor an admin.
            UnimplementedError: The cluster has an older release of Iris.
        """
        tunnel = asyncio.create_task(self._tunnel.run())
        talk = asyncio.create_task(self._talk())
        try:
            await asyncio.wait((tunnel, talk), return_when=asyncio.FIRST_COMPLETED)
            if talk.done():
                return talk.result()
            raise self._lost(tunnel.result())
        except UnimplementedError as error:
            raise UnimplementedError(
                "the cluster has an older release of Iris that cannot run commands in tasks: install Iris"
                f" {VERSION} or later on the cluster"
            ) from error
        finally:
            for task in (tunnel, talk):
                task.cancel()
            await asyncio.gather(tunnel, talk, return_exceptions=True)
            await self._tunnel.close()

    async def _talk(self) -> ExecExit:
        """Open the channels, and wait for the end of the command and of its output."""
        control = await self._open(cluster_pb2.EXEC_STREAM_CONTROL, command=self._command)
        control.attach(self._control, MessageWriter(ExecEvent, self._on_event))
        stdio = await self._open(cluster_pb2.EXEC_STREAM_STDIO)
        stdio.attach(self._stdin, self._outputs[0])
        for output in self._outputs[1:]:
            nothing = asyncio.StreamReader()
            nothing.feed_eof()
            (await self._open(cluster_pb2.EXEC_STREAM_STDERR)).attach(nothing, output)
        # The exit code may arrive before the last output. The session ends only when both have arrived.
        ending = asyncio.create_task(self._ended())
        try:
            await asyncio.wait((ending, self._failed), return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                raise self._failed.result()
            return ending.result()
        finally:
            ending.cancel()

    async def _ended(self) -> ExecExit:
        for output in self._outputs:
            await output.ended.wait()
        return await self._exit

    async def _open(self, stream: ExecStream, command: ExecCommand | None = None) -> Channel:
        target = ExecTarget(stream=stream, command=command)
        return await self._tunnel.open_channel(ChannelTarget(exec=target))

    def _on_event(self, event: ExecEvent) -> None:
        self.started.set()
        if event.HasField("exit") and not self._exit.done():
            self._exit.set_result(event.exit)

    # Failures.

    def _channels_lost(self, lost: list[Channel]) -> None:
        self._fail(_unknown_end("the worker does not know the session any more"))

    def _channel_was_reset(self, channel: Channel, code: ChannelReset, text: str) -> None:
        if code == cluster_pb2.CHANNEL_RESET_LIMIT:
            self._fail(ResourceExhaustedError(text, reason=ErrorReason.QUOTA_EXCEEDED))
        elif code == cluster_pb2.CHANNEL_RESET_ATTEMPT_ENDED and not self.started.is_set():
            self._fail(FailedPreconditionError(text))
        else:
            self._fail(_unknown_end(text))

    def _fail(self, error: IrisError) -> None:
        if not self._failed.done():
            self._failed.set_result(error)

    def _lost(self, closed: TunnelMessage.Closed) -> IrisError:
        """Return the error for a tunnel that was closed before the command ended."""
        if self._failed.done():
            return self._failed.result()
        if not self._tunnel.is_answered and closed.state:
            return FailedPreconditionError(f"{closed.text}: commands run only in running tasks")
        if closed.state and not self.started.is_set():
            return FailedPreconditionError(f"{closed.text}: the command was not started")
        return _unknown_end(closed.text)


def _unknown_end(text: str) -> UnavailableError:
    return UnavailableError(
        f"{text}: it is unknown how the command ended, and output may be missing", reason=ErrorReason.EXEC_LOST
    )
