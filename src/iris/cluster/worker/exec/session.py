"""One exec session: a command that a client has started in an attempt.

A session has these steps:
1. The channel CONTROL brings the command. `run` starts the command and waits for its end.
2. The channels STDIO and STDERR are connected to the command's pipes, or to its terminal. The worker reads the output
   no faster than the client, so a slow client makes the command wait.
3. The session ends when the command ends. The worker ends a session earlier when its client is gone, and at the limits
   of the cluster: first with SIGHUP, and with SIGKILL `hang_up_s` seconds later. When the attempt ends, the worker
   kills the session at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iris.cluster.worker.attempt.runner import ProcessSetup
from iris.cluster.worker.exec.descriptors import DescriptorWriter
from iris.cluster.worker.exec.exec_process import ExecProcess
from iris.cluster.worker.exec.shell import choose_shell
from iris.cluster.worker.process.launcher import Program
from iris.cluster.worker.process.shortage import WorkerShortageError
from iris.cluster.worker.process.start_errors import NotStartedError
from iris.cluster.worker.tunnels.connector import NotConnectedError, OpenedTunnel
from iris.event_log import log_event
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import ExecCommand, ExecControl, ExecEvent, ExecExit, ExecStream
from iris.rpc.tunnels.connections import Streams
from iris.rpc.tunnels.message_stream import MessageWriter, frame

_NOT_STARTED = 125  # The exit code if the worker could not start the command, and the command was not the cause.
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExecTimes:
    """The time limits of exec sessions, in seconds.

    Attributes:
        hang_up_s: The time between SIGHUP and SIGKILL when a session is ended.
        drain_s: For how long after the end of the command its output is still read, because another process may have
            the output open. The client gets the output that was written by then.
    """

    hang_up_s: float = 5.0
    drain_s: float = 1.0


class ExecSession:
    """An exec session of a client.

    Args:
        opened: The opened tunnel between the client and this session.
        command: The client's request to run a command.
        setup: The parts of the worker that start and end the processes of attempts.
        env: The environment of the attempt.
        times: The time limits of the session.
        on_ended: A function that is called when the command has ended, and its output ends with the bytes that were
            written by then.

    Attributes:
        opened: The opened tunnel between the client and this session.
        ended: An event that is set when the command has ended or could not be started. Processes that the command has
            left in the background may still run.
    """

    def __init__(
        self,
        opened: OpenedTunnel,
        command: ExecCommand,
        setup: ProcessSetup,
        env: dict[str, str],
        times: ExecTimes,
        on_ended: Callable[[ExecSession], None],
    ) -> None:
        self.opened = opened
        self.ended = asyncio.Event()
        self._command = command
        self._setup = setup
        self._env = env | setup.mark(opened.attempt)
        self._times = times
        self._on_ended = on_ended
        self._loop = asyncio.get_running_loop()
        self._events = asyncio.StreamReader()
        self._started = asyncio.Event()
        self._process: ExecProcess | None = None
        self._error = ""  # Why the session was ended before the command ended, or why the command was not started.
        self._is_killed = self._is_closed = False
        self._active_s = self._loop.time()
        self._timers: list[asyncio.TimerHandle] = []
        self._running = asyncio.create_task(self._run())

    # The streams of the session.

    def control(self) -> Streams:
        """Return the streams over which the client controls the command (the channel CONTROL)."""
        return self._events, MessageWriter(ExecControl, self._obey)

    async def stream(self, which: ExecStream) -> Streams:
        """Return the streams of the channel STDIO or STDERR, once the command has started or has failed to start.

        Raises:
            NotConnectedError: The session has no such stream.
        """
        await self._started.wait()
        nothing = DescriptorWriter(None, self._was_active)
        if self._process is None:
            empty = asyncio.StreamReader()
            empty.feed_eof()
            return empty, nothing
        outputs = self._process.outputs
        if which == cluster_pb2.EXEC_STREAM_STDIO:
            return outputs[0], self._process.stdin
        if which == cluster_pb2.EXEC_STREAM_STDERR and len(outputs) > 1:
            return outputs[1], nothing
        raise NotConnectedError(
            cluster_pb2.CHANNEL_RESET_REFUSED, f"the session of the command has no stream with the number {which}"
        )

    # The end.

    def kill(self, error: str) -> None:
        """Kill all processes of the session."""
        self._error = self._error or error
        self._is_killed = True
        if self._process is not None:
            self._process.signal_session(signal.SIGKILL)

    def hang_up(self, error: str) -> None:
        """End the session with SIGHUP, and with SIGKILL some seconds later."""
        if self._error or self.ended.is_set():
            return
        self._error = error
        if self._process is not None:
            self._process.hang_up()
        self._timers.append(self._loop.call_later(self._times.hang_up_s, self.kill, error))

    def close(self) -> None:
        """End the session, because its tunnel is closed and therefore no client reads its output any more."""
        self._is_closed = True
        self.hang_up("the client has left")
        if self._process is not None:
            self._process.close()

    # The life of the command.

    async def _run(self) -> None:
        exit_code = _NOT_STARTED
        try:
            self._process = await self._start()
            exit_code = await self._until_ended(self._process)
        except NotStartedError as error:
            exit_code, self._error = error.exit_code or _NOT_STARTED, str(error)
        except WorkerShortageError as error:
            self._error = f"the worker could not start the command: {error}"
        except Exception as error:  # noqa: BLE001 - The client must learn of any error.
            _log.error("exec session %s", self.opened.key, exc_info=error)
            self._error = f"the worker could not run the command: {type(error).__name__}: {error}"
        finally:
            self._started.set()
            for timer in self._timers:
                timer.cancel()
            self.ended.set()
        self._log("ended", exit_code=exit_code, error=self._error or None)
        self._events.feed_data(frame(ExecEvent(exit=ExecExit(exit_code=exit_code, error=self._error))))
        self._events.feed_eof()
        if self._process is not None:
            await self._end_output(self._process)
        self._on_ended(self)

    async def _start(self) -> ExecProcess:
        attempt, command = self.opened.attempt, self._command
        # The user cannot override the variables of Iris. One of them is the mark by which the processes are found.
        env = self._env | {name: value for name, value in command.env_vars.items() if not name.startswith("IRIS_")}
        program = Program(
            list(command.command) or [choose_shell(env)],
            str(attempt.working_directory),
            env,
            self._setup.file_limit,
            attempt.umask,
            terminal=command.terminal,
        )
        return await ExecProcess.start(program, self._setup.launcher, command, self._was_active)

    async def _until_ended(self, process: ExecProcess) -> int:
        """Wait until the command has ended, and return its exit code."""
        attempt = self.opened.attempt
        self._setup.reaper.group_started(process.pid)
        if attempt.enforcer is not None:
            attempt.enforcer.enter(process.pid)
        self._log("started", pid=process.pid)
        self._events.feed_data(frame(ExecEvent(pid=process.pid)))
        self._started.set()
        # If the session was ended while the command was starting, the command is ended now.
        if self._is_killed or not attempt.has_live_process:
            self.kill(self._error or "the attempt has ended")
        elif self._error:
            process.hang_up()
        else:
            self._set_limits()
        if self._is_closed:
            process.close()
        await process.exited.wait()
        if self._error:
            process.signal_session(signal.SIGKILL)
        exit_code = await process.collect()
        self._setup.reaper.group_ended(process.pid)
        return exit_code

    async def _end_output(self, process: ExecProcess) -> None:
        """End the output of the session `drain_s` seconds after the command has ended. Another process may still have
        the output open. The client gets the output that was written by then.
        """
        if not self._is_closed:
            await asyncio.sleep(self._times.drain_s)
        for output in process.outputs:
            output.end_when_empty()

    def _set_limits(self) -> None:
        request = self.opened.request
        if request.exec_limit_ms:
            limit_s = request.exec_limit_ms / 1000
            text = f"the time limit of the cluster, {limit_s:g} s, has passed (iris up --exec-limit)"
            self._timers.append(self._loop.call_later(request.exec_limit_ms / 1000, self.hang_up, text))
        if request.exec_idle_ms:
            self._check_idle()

    def _check_idle(self) -> None:
        idle_s = self.opened.request.exec_idle_ms / 1000
        left_s = self._active_s + idle_s - self._loop.time()
        if left_s <= 0:
            self.hang_up(f"the command has neither read nor written for {idle_s:g} s (iris up --exec-idle)")
        elif not self.ended.is_set():
            self._timers = [timer for timer in self._timers if timer.when() > self._loop.time()]
            self._timers.append(self._loop.call_later(left_s, self._check_idle))

    def _was_active(self) -> None:
        self._active_s = self._loop.time()

    def _obey(self, message: ExecControl) -> None:
        if self._process is None:
            return
        self._was_active()
        if message.rows and message.columns:
            self._process.resize(message.rows, message.columns)
        if 0 < message.signal < signal.NSIG:
            self._process.send_signal(message.signal)

    def _log(self, what: str, **fields: Any) -> None:
        task_id, attempt_id, tunnel_id = self.opened.key
        log_event(_log, f"exec.{what}", task_id=task_id, attempt_id=attempt_id, tunnel_id=tunnel_id, **fields)
