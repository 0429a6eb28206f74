"""Starts the exec sessions of a worker for the channels of tunnels, limits the number of the sessions, and ends the
sessions.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.runner import ProcessSetup
from iris.cluster.worker.exec.session import ExecSession, ExecTimes
from iris.cluster.worker.tunnels.connector import Key, NotConnectedError, OpenedTunnel
from iris.cluster.worker.tunnels.tunnels import TunnelTimes
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import ChannelTarget, ExecTarget
from iris.rpc.tunnels.connections import Streams

# The tunnels of exec sessions have no time limits. The exec sessions check their limits themselves, and end with their
# attempt.
EXEC_TUNNEL_TIMES = TunnelTimes(idle_s=math.inf, linger_s=math.inf)
MAX_SESSIONS = 32  # The largest number of commands that clients run in one attempt at once.


class ExecSessions:
    """The exec sessions of a worker, and the connector of their tunnels.

    Args:
        setup: The parts of the worker that start and end the processes of attempts.
        build_env: A function that returns the environment of an attempt's process.
        times: The time limits of the sessions.
    """

    def __init__(
        self,
        setup: ProcessSetup,
        build_env: Callable[[Attempt], dict[str, str]],
        times: ExecTimes | None = None,
    ) -> None:
        self._setup = setup
        self._build_env = build_env
        self._times = times or ExecTimes()
        self._sessions: dict[Key, ExecSession] = {}
        self._closed: set[Key] = set()  # The sessions whose tunnels are closed, but whose processes have not ended.

    async def connect(self, tunnel: OpenedTunnel, target: ChannelTarget) -> Streams:
        """Start the command of a session, or return one of the session's streams.

        Raises:
            NotConnectedError: The attempt does not run, has too many sessions, or has no such stream. The target is no
                stream of a session, or CONTROL is not the first channel.
        """
        if not target.HasField("exec"):
            raise NotConnectedError(
                cluster_pb2.CHANNEL_RESET_NO_SUCH_PORT, "the tunnel of a command of iris exec cannot connect to ports"
            )
        session = self._sessions.get(tunnel.key)
        if target.exec.stream == cluster_pb2.EXEC_STREAM_CONTROL and session is None:
            return self._start(tunnel, target.exec).control()
        if session is None or target.exec.stream == cluster_pb2.EXEC_STREAM_CONTROL:
            text = "the first channel of an exec session must be CONTROL, and no other channel"
            raise NotConnectedError(cluster_pb2.CHANNEL_RESET_REFUSED, text)
        return await session.stream(target.exec.stream)

    def tunnel_closed(self, tunnel: OpenedTunnel) -> None:
        """End the session of a tunnel that was closed, or whose client has not come back."""
        session = self._sessions.get(tunnel.key)
        if session is None:
            return
        session.close()
        if session.ended.is_set():
            del self._sessions[tunnel.key]
        else:
            self._closed.add(tunnel.key)

    async def end_all(self, attempt: Attempt) -> None:
        """Kill the commands of clients in an attempt that has ended, and wait until the commands have ended. All
        processes in the sessions of these commands are killed, but this method does not wait for their ends.
        """
        text = f"attempt {attempt.request.attempt_id} of task {attempt.request.task_id} has ended"
        sessions = [one for one in self._sessions.values() if one.opened.attempt is attempt]
        for session in sessions:
            session.kill(text)
        await asyncio.gather(*(session.ended.wait() for session in sessions))

    def _start(self, tunnel: OpenedTunnel, target: ExecTarget) -> ExecSession:
        attempt = tunnel.attempt
        if attempt.process is None or not attempt.has_live_process:
            raise NotConnectedError(
                cluster_pb2.CHANNEL_RESET_ATTEMPT_ENDED,
                f"attempt {attempt.request.attempt_id} of task {attempt.request.task_id} has ended",
            )
        running = [one for one in self._sessions.values() if one.opened.attempt is attempt and not one.ended.is_set()]
        if len(running) >= MAX_SESSIONS:
            raise NotConnectedError(
                cluster_pb2.CHANNEL_RESET_LIMIT,
                f"users run {MAX_SESSIONS} commands in this task, which is the limit: end some of them first",
            )
        env = self._build_env(attempt)
        session = ExecSession(tunnel, target.command, self._setup, env, self._times, self._session_ended)
        self._sessions[tunnel.key] = session
        return session

    def _session_ended(self, session: ExecSession) -> None:
        """Forget a session that has ended, if its tunnel is closed. Otherwise its client still reads its output."""
        key = session.opened.key
        if key in self._closed:
            self._closed.discard(key)
            self._sessions.pop(key, None)
