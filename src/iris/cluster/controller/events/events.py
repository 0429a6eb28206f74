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
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.receive import UploadedLog
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.tracing.trace_delivery import PLACE, SpanSender, TraceDelivery
from iris.cluster.controller.tracing.traced_jobs import Jobs
from iris.rpc import cluster_pb2
from iris.rpc.http.client.proxies import Proxy

Webhook = tuple[WebhookSettings, Proxy | None]


@dataclass(frozen=True, slots=True)
class EventSettings:
    """How many events stay stored, and where they are sent.

    Attributes:
        kept: How many of the newest events stay stored.
        webhooks: The webhooks, each with the proxy through which its requests go.
        spans: The object that sends the spans of traces; None if no spans are made.
    """

    kept: int = DEFAULT_KEPT
    webhooks: Sequence[Webhook] = ()
    spans: SpanSender | None = None


class ClusterEvents:
    """The events of a cluster, their streams, and the webhooks.

    Args:
        journal: The object that stores the events of the cluster.
        store: The database of the controller.
        threads: The threads that read from the database.
        saver: The object that stores the events.
        settings: The settings of the webhooks and of the delivery of spans.
        jobs: The object that finds the jobs of spans.

    Attributes:
        traces: The delivery of spans; None if no spans are made.
    """

    def __init__(
        self,
        journal: EventJournal,
        store: Store,
        threads: StoredJobs,
        saver: Saver,
        settings: EventSettings,
        jobs: Jobs,
    ) -> None:
        pages = EventPages(journal, store, threads)
        self._streams = EventStreams(journal, pages)
        self._saver = saver
        self._logged: LoggedEvents | None = None
        names = [webhook.url_hash for webhook, _ in settings.webhooks]
        places = stored_places(store, [*names, *([PLACE] if settings.spans else [])], journal.last_number)
        self._deliveries = [
            WebhookDelivery(webhook, WebhookSender(webhook.url, proxy), places[webhook.url_hash], journal, pages, saver)
            for webhook, proxy in settings.webhooks
        ]
        self.traces: TraceDelivery | None = None
        if settings.spans is not None:
            self.traces = TraceDelivery(settings.spans, places[PLACE], journal, pages, jobs, saver)

    @property
    def makes_spans(self) -> bool:
        """Whether the controller records the trace spans of jobs."""
        return self.traces is not None

    def start(self, start_task: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """Begin to add events about log records of the controller to the journal, to deliver events to webhooks, and to
        send spans.

        Args:
            start_task: A function that starts a coroutine, which ends when the controller stops.
        """
        self._logged = LoggedEvents(self._saver.add_event)
        logging.getLogger("iris").addHandler(self._logged)
        for delivery in self._deliveries:
            start_task(delivery.run())
        if self.traces is not None:
            start_task(self.traces.run())

    def stop(self) -> None:
        """Stop adding events about log records of the controller to the journal."""
        if self._logged is not None:
            logging.getLogger("iris").removeHandler(self._logged)

    def job_removed(self, record: JobRecord) -> None:
        """Keep the record of a removed job until the spans of the job are sent."""
        if self.traces is not None:
            self.traces.job_removed(record)

    def log_uploaded(self, log: UploadedLog) -> None:
        """Record a span of the upload of a log."""
        if self.traces is not None:
            self.traces.pending.add(log)

    def messages(self, request: WatchEventsRequest, *, is_admin: bool) -> AsyncGenerator[WatchEventsResponse]:
        """Yield the events that a request asks for (see `EventStreams.messages`)."""
        return self._streams.messages(request, is_admin=is_admin)

    async def list_webhooks(self) -> list[cluster_pb2.Controller.WebhookStatus]:
        """Return the states of the webhooks, in the order of the configuration."""
        return [await delivery.status() for delivery in self._deliveries]
