"""Connects the parts of the controller that make, stream and deliver events."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from iris.cluster.controller.events.event_streams import (
    EventPages,
    EventStreams,
    WatchEventsRequest,
    WatchEventsResponse,
)
from iris.cluster.controller.events.journal import DEFAULT_KEPT, EventJournal
from iris.cluster.controller.events.logged_events import LoggedEvents
from iris.cluster.controller.events.webhooks.delivery import WebhookDelivery, WebhookSettings, stored_places
from iris.cluster.controller.events.webhooks.sender import WebhookSender
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.rpc import cluster_pb2
from iris.rpc.http.client.proxies import Proxy

Webhook = tuple[WebhookSettings, Proxy | None]


@dataclass(frozen=True, slots=True)
class EventSettings:
    """How many events stay stored, and where they are sent.

    Attributes:
        kept: How many of the newest events stay stored.
        webhooks: The webhooks, each with the proxy through which its requests go.
    """

    kept: int = DEFAULT_KEPT
    webhooks: Sequence[Webhook] = ()


class ClusterEvents:
    """The events of a cluster, their streams, and the webhooks.

    Args:
        journal: The events.
        store: The database.
        threads: The threads that read from the database.
        saver: Stores the events.
        webhooks: The webhooks, each with the proxy through which its requests go.
    """

    def __init__(
        self, journal: EventJournal, store: Store, threads: StoredJobs, saver: Saver, webhooks: Sequence[Webhook] = ()
    ) -> None:
        pages = EventPages(journal, store, threads)
        self._streams = EventStreams(journal, pages)
        self._saver = saver
        self._logged: LoggedEvents | None = None
        places = stored_places(store, {settings.url_hash: settings for settings, _ in webhooks}, journal.last_number)
        self._deliveries = [
            WebhookDelivery(
                settings, WebhookSender(settings.url, proxy), places[settings.url_hash], journal, pages, saver
            )
            for settings, proxy in webhooks
        ]

    def start(self, start_task: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """Begin to make events from what the controller logs, and to deliver events to webhooks.

        Args:
            start_task: Runs a coroutine until the controller stops.
        """
        self._logged = LoggedEvents(self._saver.add_event)
        logging.getLogger("iris").addHandler(self._logged)
        for delivery in self._deliveries:
            start_task(delivery.run())

    def stop(self) -> None:
        """Make no more events from what the controller logs."""
        if self._logged is not None:
            logging.getLogger("iris").removeHandler(self._logged)

    def messages(self, request: WatchEventsRequest, *, is_admin: bool) -> AsyncGenerator[WatchEventsResponse]:
        """Yield the events that a request asks for (see `EventStreams.messages`)."""
        return self._streams.messages(request, is_admin=is_admin)

    async def list_webhooks(self) -> list[cluster_pb2.Controller.WebhookStatus]:
        """Return the states of the webhooks, in the order of the configuration."""
        return [await delivery.status() for delivery in self._deliveries]
