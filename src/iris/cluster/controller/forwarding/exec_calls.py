"""Serves the calls of ControllerService with which clients run commands in tasks."""

from __future__ import annotations

import math
import shlex
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from iris.cluster.controller.api.watch import JobWatches
from iris.cluster.controller.forwarding.tunnel_relay import TunnelKind, TunnelRelay
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.submission.headroom import Headroom
from iris.cluster.controller.workers.fleet import Fleet
from iris.errors import FailedPreconditionError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import caller
from iris.rpc.cluster_pb2 import ChannelTarget, Controller, TunnelMessage, WriteTunnelResponse
from iris.rpc.serving.open_streams import OpenStreams

_LONGEST_COMMAND = 2000  # The event log contains at most this many characters of a command.


@dataclass(frozen=True)
class ExecPolicy:
    """Whether and for how long users may run commands in tasks.

    Attributes:
        is_allowed: Whether users may run commands.
        idle_s: A command is ended if it has neither read nor written a byte for this many seconds. Infinity sets no
            limit.
        limit_s: A command is ended this many seconds after its start. Infinity sets no limit.
    """

    is_allowed: bool = True
    idle_s: float = math.inf
    limit_s: float = math.inf

    def tunnels(self) -> TunnelKind:
        """Return the settings with which a `TunnelRelay` relays exec sessions."""
        return TunnelKind(
            "exec", "open_exec", "write_exec", _describe, _milliseconds(self.idle_s), _milliseconds(self.limit_s)
        )

    def check(self) -> None:
        """Refuse to run a command if the cluster was started with `--no-exec`.

        Raises:
            FailedPreconditionError: Users may not run commands.
        """
        if not self.is_allowed:
            raise FailedPreconditionError(
                "this cluster runs no commands in tasks, because it was started with 'iris up --no-exec'",
                reason=ErrorReason.EXEC_OFF,
            )


class ExecCalls:
    """The calls of `ControllerService` about commands in tasks. The file cluster.proto documents each call.

    Args:
        fleet: The object that knows all workers of the cluster.
        watches: The object that notifies other code of changes of jobs.
        jobs: The table of all jobs of the cluster.
        headroom: The object that refuses a stream when too few file descriptors are left.
        open_streams: The object that limits the open streams of each user.
        policy: The rules for commands of users: whether they may run, and for how long.
    """

    def __init__(
        self,
        fleet: Fleet,
        watches: JobWatches,
        jobs: JobTable,
        headroom: Headroom,
        open_streams: OpenStreams,
        policy: ExecPolicy,
    ) -> None:
        self._exec_relay = TunnelRelay(fleet, watches, policy.tunnels())
        self._exec_jobs = jobs
        self._exec_headroom = headroom
        self._exec_streams = open_streams
        self._exec_policy = policy

    async def open_exec(self, request: Controller.OpenTunnelRequest, ctx: Any) -> AsyncIterator[TunnelMessage]:
        """Open or resume the tunnel of an exec session, and stream its messages."""
        self._exec_policy.check()
        self._exec_headroom.check_stream()
        record = await self._exec_jobs.find(request.job_id)
        relayed = self._exec_relay.messages(record, request, caller())
        async with aclosing(self._exec_streams.limited(caller().name, relayed)) as messages:
            async for message in messages:
                yield message

    async def write_exec(self, request: Controller.WriteTunnelRequest, ctx: Any) -> WriteTunnelResponse:
        """Send the client's bytes through the tunnel of an exec session to the worker."""
        self._exec_policy.check()
        record = await self._exec_jobs.find(request.job_id)
        return await self._exec_relay.write(record, request, caller())


def _describe(target: ChannelTarget) -> dict[str, Any]:
    """Return the command of a session, for the event log."""
    if target.exec.stream != cluster_pb2.EXEC_STREAM_CONTROL:
        return {}
    return {"command": shlex.join(target.exec.command.command)[:_LONGEST_COMMAND] or "a shell"}


def _milliseconds(seconds: float) -> int:
    return 0 if math.isinf(seconds) else max(1, round(seconds * 1000))
