"""Serves the calls of ControllerService with which clients reach ports of tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from iris.cluster.controller.forwarding.tunnel_relay import TunnelRelay, check_forwarding
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.submission.headroom import Headroom
from iris.rpc.auth.caller import caller
from iris.rpc.cluster_pb2 import Controller, TunnelMessage, WriteTunnelResponse
from iris.rpc.serving.open_streams import OpenStreams


class TunnelCalls:
    """The calls of `ControllerService` about tunnels. The file cluster.proto documents each call.

    Args:
        relay: The object that relays the messages of tunnels.
        jobs: The table of all jobs of the cluster.
        headroom: The object that refuses a stream when too few file descriptors are left.
        open_streams: The object that limits the open streams of each user.
        is_allowed: Whether the cluster forwards ports.
    """

    def __init__(
        self, relay: TunnelRelay, jobs: JobTable, headroom: Headroom, open_streams: OpenStreams, *, is_allowed: bool
    ) -> None:
        self._relay = relay
        self._tunnel_jobs = jobs
        self._stream_headroom = headroom
        self.open_streams = open_streams
        self._is_forwarding_allowed = is_allowed

    async def open_tunnel(self, request: Controller.OpenTunnelRequest, ctx: Any) -> AsyncIterator[TunnelMessage]:
        """Open or resume a tunnel to a task, and stream its messages."""
        check_forwarding(self._is_forwarding_allowed)
        self._stream_headroom.check_stream()
        record = await self._tunnel_jobs.find(request.job_id)
        relayed = self._relay.messages(record, request, caller())
        async with aclosing(self.open_streams.limited(caller().name, relayed)) as messages:
            async for message in messages:
                yield message

    async def write_tunnel(self, request: Controller.WriteTunnelRequest, ctx: Any) -> WriteTunnelResponse:
        """Send parts of channels through a tunnel."""
        check_forwarding(self._is_forwarding_allowed)
        record = await self._tunnel_jobs.find(request.job_id)
        return await self._relay.write(record, request, caller())
