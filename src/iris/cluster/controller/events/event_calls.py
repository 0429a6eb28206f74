"""Serves the calls of ControllerService about events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from iris.cluster.controller.events.events import ClusterEvents
from iris.cluster.controller.submission.headroom import Headroom
from iris.rpc.auth.caller import ADMIN, caller
from iris.rpc.cluster_pb2 import Controller
from iris.rpc.serving.open_streams import OpenStreams


class EventCalls:
    """The calls about the events of the cluster and about webhooks.

    Args:
        events: The object that reads and watches the stored events.
        headroom: The object that refuses streams when too few file descriptors are left.
        streams: The object that counts the open streams of all callers.
    """

    def __init__(self, events: ClusterEvents, headroom: Headroom, streams: OpenStreams) -> None:
        self.__events = events
        self.__headroom = headroom
        self.__streams = streams

    async def watch_events(
        self, request: Controller.WatchEventsRequest, ctx: Any
    ) -> AsyncIterator[Controller.WatchEventsResponse]:
        """Yield the stored events of the cluster, and then each new event if the request asks to follow."""
        self.__headroom.check_stream()
        found = self.__events.messages(request, is_admin=caller().role == ADMIN)
        async with contextlib.aclosing(self.__streams.limited(caller().name, found)) as messages:
            async for message in messages:
                yield message

    async def list_webhooks(self, request: Controller.ListWebhooksRequest, ctx: Any) -> Controller.ListWebhooksResponse:
        """Return the webhooks, and whether their deliveries succeed."""
        return Controller.ListWebhooksResponse(webhooks=await self.__events.list_webhooks())
