"""Opens, resumes, serves and ends the tunnels of a worker."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from iris.cluster.types import state_name
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.tunnels.connector import Connector, Key, NotConnectedError, OpenedTunnel
from iris.errors import NotFoundError, ResourceExhaustedError
from iris.event_log import log_event
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import ChannelTarget, TunnelMessage, WriteTunnelResponse
from iris.rpc.tunnels.budget import Budget
from iris.rpc.tunnels.channel import Channel
from iris.rpc.tunnels.tunnel import ABANDONED_S, Tunnel, check_tunnel_id
from iris.system.event_loop import open_file_limit

# The largest size of the data in one message.
MESSAGE_BYTES = 256 * 1024
# The largest number of channels of one tunnel.
MAX_CHANNELS = 1000
# The largest number of tunnels of a worker.
MAX_TUNNELS = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TunnelTimes:
    """The time limits of tunnels, in seconds.

    Attributes:
        beat_s: How long a stream may be silent.
        abandoned_s: A tunnel ends if its client does not come back within this time after a broken stream.
        idle_s: A channel ends if it has carried nothing for this time. Each beat checks this limit.
        linger_s: A connection that is still open after this time since the end of its attempt is reset, because it does
            not belong to the attempt's processes. Infinity: the connections of an ended attempt end by themselves.
    """

    beat_s: float = 10.0
    abandoned_s: float = ABANDONED_S
    idle_s: float = 12 * 3600.0
    linger_s: float = 2.0


class Tunnels:
    """All tunnels of one kind that clients have opened to a worker: either the tunnels to ports, or the tunnels of exec
    sessions.

    Args:
        registry: The object that stores the attempts of this worker.
        connector: The object that connects the channels, for example to the ports of attempts.
        times: The time limits of the tunnels.
        event: The first word of the names of the events about these tunnels in the event log.

    Attributes:
        times: The time limits of the tunnels.
        event: The first word of the names of the events about these tunnels in the event log.
    """

    def __init__(
        self, registry: AttemptRegistry, connector: Connector, times: TunnelTimes | None = None, event: str = "tunnel"
    ) -> None:
        self.times = times or TunnelTimes()
        self.event = event
        self._registry = registry
        self._connector = connector
        self._budget = Budget()
        self._tunnels: dict[Key, WorkerTunnel] = {}
        self._max_channels = max(16, min(4 * MAX_CHANNELS, open_file_limit() // 8))

    async def serve(self, request: cluster_pb2.Worker.OpenTunnelRequest) -> AsyncGenerator[TunnelMessage]:
        """Open or resume a tunnel, and yield its messages. The messages end when the attempt and all channels have
        ended, when the tunnel is closed, or when the client opens the same tunnel again.

        Raises:
            InvalidArgumentError: The id of the tunnel is invalid.
            NotFoundError: There is no such attempt, or the tunnel to resume is gone.
            ResourceExhaustedError: There are too many tunnels.
        """
        check_tunnel_id(request.tunnel_id)
        attempt = self._registry.find(request.task_id, request.attempt_id)
        opened = OpenedTunnel((request.task_id, request.attempt_id, request.tunnel_id), attempt, request)
        tunnel = self._tunnels.get(opened.key)
        if tunnel is None:
            if request.resume:
                raise self._gone(request.tunnel_id)
            if len(self._tunnels) >= MAX_TUNNELS:
                raise ResourceExhaustedError(
                    f"this worker has {MAX_TUNNELS:,} tunnels, which is the limit: try again when some have ended",
                    reason=ErrorReason.QUOTA_EXCEEDED,
                )
            tunnel = self._tunnels[opened.key] = WorkerTunnel(opened, self)
        async with aclosing(tunnel.messages()) as messages:
            async for message in messages:
                yield message

    def write(self, request: cluster_pb2.Worker.WriteTunnelRequest) -> WriteTunnelResponse:
        """Pass the data that a client has sent to the tunnel's channels.

        Raises:
            NotFoundError: The tunnel is not open, and the client does not want to close it.
            InvalidArgumentError: A part contradicts an earlier part.
        """
        tunnel = self._tunnels.get((request.task_id, request.attempt_id, request.tunnel_id))
        if tunnel is None:
            if request.close:
                return WriteTunnelResponse()
            raise self._gone(request.tunnel_id)
        again = tunnel.tunnel.apply(request.parts)
        if request.close:
            self.drop(tunnel)
        return WriteTunnelResponse(again=again)

    def _gone(self, tunnel_id: str) -> NotFoundError:
        return NotFoundError(
            f"this worker has no tunnel {tunnel_id!r}: the tunnel was closed, or its client was silent for more than"
            f" {self.times.abandoned_s:g} s",
            reason=ErrorReason.TUNNEL_NOT_FOUND,
            metadata={"tunnel_id": tunnel_id},
        )

    def attempt_ended(self, task_id: str, attempt_id: int) -> None:
        """End the tunnels of an attempt that has ended, as soon as their clients have received the last bytes."""
        for tunnel in list(self._tunnels.values()):
            if tunnel.key[:2] == (task_id, attempt_id):
                tunnel.attempt_ended()

    # The methods below are called by the `WorkerTunnel` objects of this worker.

    def new_tunnel(self, tunnel: WorkerTunnel) -> Tunnel:
        """Return the channels of a new tunnel."""
        return Tunnel(self._budget, on_open=tunnel.connect)

    async def connect(self, tunnel: WorkerTunnel, channel: Channel, target: ChannelTarget) -> None:
        """Connect a channel to its target, or reset the channel."""
        try:
            if len(tunnel.tunnel.channels) > MAX_CHANNELS:
                raise _too_many(f"this tunnel has {MAX_CHANNELS:,} connections")
            if sum(len(one.tunnel.channels) for one in self._tunnels.values()) > self._max_channels:
                raise _too_many(f"the tunnels of this worker have {self._max_channels:,} connections")
            streams = await self._connector.connect(tunnel.opened, target)
        except NotConnectedError as error:
            channel.reset(error.code, error.text)
        except Exception as error:  # noqa: BLE001 - Without an answer, the client would wait forever.
            _log.exception("connecting a channel to %s", tunnel.key[0])
            channel.reset(cluster_pb2.CHANNEL_RESET_BROKEN, f"the worker could not connect: {error}")
        else:
            channel.attach(*streams)

    def drop(self, tunnel: WorkerTunnel) -> None:
        """End a tunnel, and close its connections."""
        if self._tunnels.get(tunnel.key) is tunnel:
            del self._tunnels[tunnel.key]
            self._connector.tunnel_closed(tunnel.opened)
        tunnel.close()


class WorkerTunnel:
    """A tunnel of one client to one attempt.

    Args:
        opened: The key of the tunnel, the attempt, and the client's request.
        tunnels: The tunnels of the worker.

    Attributes:
        opened: The key of the tunnel, the attempt, and the client's request.
        key: The task id, the attempt id and the id of the tunnel.
        attempt: The attempt.
        tunnel: The channels of the tunnel.
    """

    def __init__(self, opened: OpenedTunnel, tunnels: Tunnels) -> None:
        self.opened = opened
        self.key: Key = opened.key
        self.attempt: Attempt = opened.attempt
        self._tunnels = tunnels
        self._times = tunnels.times
        self._loop = asyncio.get_running_loop()
        # How many streams the client has opened for this tunnel. Only the newest stream gets messages.
        self._streams = 0
        self._is_closed = False
        self._abandoned: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self.tunnel = tunnels.new_tunnel(self)
        self._log("opened")

    async def messages(self) -> AsyncGenerator[TunnelMessage]:
        """Yield the messages that a client gets on a newly opened stream of its tunnel."""
        self._streams += 1
        number = self._streams
        self._stop_timer()
        # This call wakes an earlier stream of the same client, which notices the new stream and ends.
        self.tunnel.wake()
        try:
            opened = TunnelMessage.Opened(
                attempt_id=self.attempt.request.attempt_id, channels=self.tunnel.channels, ports=self.attempt.ports
            )
            yield TunnelMessage(opened=opened)
            self.tunnel.rewind()
            while number == self._streams and not self._is_closed:
                parts = self.tunnel.take(MESSAGE_BYTES)
                if parts:
                    self.tunnel.confirm(parts)
                    yield TunnelMessage(parts=parts)
                elif self.attempt.is_final and not self.tunnel.channels:
                    yield self._closed()
                    self._tunnels.drop(self)
                elif not await self.tunnel.wait_for_work(self._times.beat_s):
                    self._reset_idle()
                    yield TunnelMessage()
        finally:
            if number == self._streams and not self._is_closed:
                self._abandoned = self._loop.call_later(self._times.abandoned_s, self._tunnels.drop, self)

    def connect(self, channel: Channel, target: ChannelTarget) -> None:
        """Begin to connect a channel that the client has opened."""
        task = asyncio.create_task(self._tunnels.connect(self, channel, target))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def attempt_ended(self) -> None:
        """Reset the channels of an ended attempt, after the time that its connections need to end by themselves."""
        self.tunnel.wake()
        if math.isfinite(self._times.linger_s):
            self._loop.call_later(self._times.linger_s, self._reset_rest)

    def close(self) -> None:
        """Close all connections of the tunnel."""
        self._is_closed = True
        self._stop_timer()
        for task in self._connecting:
            task.cancel()
        self.tunnel.drop_all()
        self.tunnel.wake()
        self._log("closed")

    def _log(self, what: str) -> None:
        task_id, attempt_id, tunnel_id = self.key
        log_event(_log, f"{self._tunnels.event}.{what}", task_id=task_id, attempt_id=attempt_id, tunnel_id=tunnel_id)

    def _reset_rest(self) -> None:
        """Reset the channels that will not end by themselves, again and again until no channel is left.

        The client of a half-closed connection has received all bytes of the task, but may keep its own direction open
        forever. A client that still receives bytes of the task gets the time that it needs.
        """
        if self._is_closed:
            return
        for channel in list(self.tunnel.channels.values()):
            if channel.is_reading or channel.has_delivered_end:
                channel.reset(cluster_pb2.CHANNEL_RESET_ATTEMPT_ENDED, self._end_text())
        self.tunnel.wake()
        if self.tunnel.channels:
            self._loop.call_later(self._times.linger_s, self._reset_rest)

    def _reset_idle(self) -> None:
        for channel in list(self.tunnel.channels.values()):
            if self._loop.time() - channel.active_s > self._times.idle_s:
                hours = self._times.idle_s / 3600
                channel.reset(cluster_pb2.CHANNEL_RESET_IDLE, f"the connection carried nothing for {hours:g} hours")

    def _closed(self) -> TunnelMessage:
        return TunnelMessage(closed=TunnelMessage.Closed(text=self._end_text()))

    def _end_text(self) -> str:
        number, task_id = self.attempt.request.attempt_id, self.key[0]
        return f"attempt {number} of task {task_id} has ended: {state_name(self.attempt.state)}"

    def _stop_timer(self) -> None:
        if self._abandoned is not None:
            self._abandoned.cancel()
            self._abandoned = None


def _too_many(what: str) -> NotConnectedError:
    return NotConnectedError(
        cluster_pb2.CHANNEL_RESET_LIMIT, f"{what}, which is the limit: close some connections first"
    )
