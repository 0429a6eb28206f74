"""Delivers the events of the cluster to one webhook. The events are sent one after the other, each at least once.

The whole state of a delivery is its position in the journal of events, which is the number of the last handled event.
Therefore a dead receiver costs no memory. The position is stored about once a second, so that a restarted controller
continues there. After a crash, some events may be sent again, with the same ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from iris.cluster.controller.events.event_rows import REMOVE_WEBHOOK, SAVE_WEBHOOK, Event, EventFilter, read_webhooks
from iris.cluster.controller.events.event_streams import EventPages
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.events.webhooks.sender import Refusal, WebhookSender
from iris.cluster.controller.events.webhooks.signature import EVENT_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Changes, Store
from iris.errors import IrisError
from iris.event_log import log_event
from iris.rpc import cluster_pb2
from iris.rpc.event_documents import event_document
from iris.system.backoff import Backoff
from iris.system.clock import now_ms
from iris.system.event_loop import happens
from iris.versions import VERSION

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
# An event that is not delivered after this time is given up.
MAX_AGE_MS = 24 * 3600 * 1000
# An event is given up after this many answers of the receiver that rule out a later success.
MAX_REFUSALS = 5
_SAVE_EVERY_S = 1.0
_LAST_SAVE_S = 10.0
# After this many events that a webhook does not want, the position of the webhook in the journal is stored.
_MOST_UNSAVED = 1_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """A webhook, as the operator has configured it.

    Attributes:
        url: The URL that receives the events.
        kinds: The kinds of events that the webhook receives.
        secret: The secret with which requests to the webhook are signed.
    """

    url: str
    kinds: tuple[str, ...]
    secret: str

    @property
    def label(self) -> str:
        """The URL without its path and query, which may be secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def url_hash(self) -> str:
        """The hash of the URL. The database stores the webhook's position in the journal of events under this name."""
        return hashlib.sha256(self.url.encode()).hexdigest()


class WebhookDelivery:
    """The delivery of events to one webhook.

    Args:
        settings: The URL, the secret and the other settings of the webhook.
        sender: The object that sends the requests.
        number: The number of the last event that was delivered to the webhook, or given up.
        journal: The object that stores the events of the cluster.
        pages: The object that reads the stored events.
        saver: The object that stores the position of the delivery in the journal.
        pauses: The pauses between the tries of one event.
        max_age_ms: After how many milliseconds an event is given up.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        sender: WebhookSender,
        number: int,
        journal: EventJournal,
        pages: EventPages,
        saver: Saver,
        *,
        pauses: Backoff | None = None,
        max_age_ms: int = MAX_AGE_MS,
    ) -> None:
        self._settings = settings
        self._sender = sender
        self._number = self._saved_number = number
        self._journal = journal
        self._pages = pages
        self._saver = saver
        self._pauses = pauses or Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._max_age_ms = max_age_ms
        self._filter = EventFilter(settings.kinds, for_admin=True)
        self._saved_at_s = time.monotonic()
        self._saved_handled = 0
        # The events that were given up and not yet reported by an event `webhook.dropped`: their number, and the last
        # event with its reason.
        self._unreported, self._last_dropped, self._last_refusal = 0, "", ""
        self._delivered = self._dropped = self._failing_since_ms = self._retry_at_ms = 0
        self._problem = ""

    async def status(self) -> cluster_pb2.Controller.WebhookStatus:
        """Return the status of the delivery, which every user may read. The status contains no secrets."""
        return cluster_pb2.Controller.WebhookStatus(
            url=self._settings.label,
            kinds=self._settings.kinds,
            num_delivered=self._delivered,
            num_dropped=self._dropped,
            num_waiting=await self._pages.count_after(self._number, self._filter),
            failing_since_ms=self._failing_since_ms,
            problem=self._problem,
            retry_at_ms=self._retry_at_ms,
        )

    async def run(self) -> None:
        """Deliver events until the task is cancelled."""
        try:
            while True:
                stored = self._journal.next_events()
                try:
                    await self._deliver_page()
                except Exception:  # noqa: BLE001 - An error, for example of the disk, must not end the delivery.
                    _log.exception("the events for a webhook cannot be delivered, trying again later")
                    await asyncio.sleep(self._pauses.next_s())
                    continue
                if self._number < self._journal.last_number:
                    continue
                if self._needs_save:
                    wait_s = self._saved_at_s + _SAVE_EVERY_S - time.monotonic()
                    if wait_s > 0 and await happens(stored, wait_s):
                        continue
                    await self._save()
                await stored.wait()
        finally:
            # The saver of changes may have stopped, or may not have started. The position is then not stored, and the
            # next controller sends some events again.
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SAVE_S):
                    await self._save()
            await self._sender.close()

    @property
    def _needs_save(self) -> bool:
        """Whether the position in the journal must be stored soon, because an event was delivered or given up, or
        because many events that the webhook does not want were skipped.
        """
        handled = self._delivered + self._dropped
        return handled != self._saved_handled or self._number - self._saved_number > _MOST_UNSAVED

    async def _deliver_page(self) -> None:
        first = self._journal.first_number
        if self._number + 1 < first:
            self._give_up(first - 1 - self._number, "the events are not stored any more")
            self._report_drops()
            self._number = first - 1
        events, reached = await self._pages.page(self._number, self._filter)
        if self._number + 1 < self._journal.first_number:
            return  # The page is not delivered, because some of its events were removed while the page was read.
        for event in events:
            # A webhook gets no events about itself, because a failing delivery would then cause further deliveries.
            if event.fields.get("webhook") != self._settings.label:
                await self._deliver(event)
            self._number = event.number
            if time.monotonic() - self._saved_at_s > _SAVE_EVERY_S:
                await self._save()
        self._number = reached
        self._report_drops()

    async def _deliver(self, event: Event) -> None:
        """Send one event until the receiver accepts it, or until the event is given up."""
        refusals = 0
        while (refusal := await self._send(event)) is not None:
            refusals += refusal.is_final
            if refusals >= MAX_REFUSALS or now_ms() - event.time_ms > self._max_age_ms:
                self._give_up(1, refusal.problem, event)
                return
            self._note_failure(refusal)
            pause_s = max(self._pauses.next_s(), refusal.retry_after_s)
            self._retry_at_ms = now_ms() + round(pause_s * 1000)
            await self._save()
            await asyncio.sleep(pause_s)
        self._note_success()

    async def _send(self, event: Event) -> Refusal | None:
        cursor = self._journal.cursor(event.number)
        message = Event()
        message.CopyFrom(event)
        message.cursor = cursor
        body = json.dumps(event_document(message), ensure_ascii=False).encode()
        timestamp_s = now_ms() // 1000
        headers = {
            "content-type": "application/json",
            "user-agent": f"iris/{VERSION}",
            EVENT_HEADER: cursor,
            TIMESTAMP_HEADER: str(timestamp_s),
            SIGNATURE_HEADER: sign(self._settings.secret, timestamp_s, body),
        }
        refusal = await self._sender.post(headers, body)
        # When this task is cancelled, the HTTP client may still return an answer or an error. Without this check, the
        # delivery would continue after its cancellation, and the controller would wait forever for the end of the
        # delivery.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        return refusal

    def _note_failure(self, refusal: Refusal) -> None:
        self._report_drops()
        self._problem = refusal.problem
        if not self._failing_since_ms:
            self._failing_since_ms = now_ms()
            log_event(
                _log, "webhook.failing", level=logging.WARNING, webhook=self._settings.label, error=refusal.problem
            )

    def _note_success(self) -> None:
        self._report_drops()
        self._delivered += 1
        self._pauses.reset()
        self._problem, self._retry_at_ms = "", 0
        if self._failing_since_ms:
            self._failing_since_ms = 0
            log_event(_log, "webhook.recovered", webhook=self._settings.label)

    def _give_up(self, count: int, problem: str, event: Event | None = None) -> None:
        self._dropped += count
        self._unreported += count
        self._last_dropped = "" if event is None else self._journal.cursor(event.number)
        self._last_refusal = problem

    def _report_drops(self) -> None:
        """Add one event to the journal about all events that were given up in a row. A separate event about each of
        these events could displace all other events from the journal.
        """
        count, self._unreported = self._unreported, 0
        if count:
            log_event(
                _log,
                "webhook.dropped",
                level=logging.WARNING,
                webhook=self._settings.label,
                count=count,
                event_id=self._last_dropped,
                error=self._last_refusal,
            )

    async def _save(self) -> None:
        """Store which event was delivered last. If the database cannot be written now, a later call tries again."""
        self._saved_at_s = time.monotonic()
        number, handled = self._number, self._delivered + self._dropped
        if number == self._saved_number:
            return

        def add(changes: Changes) -> None:
            changes.add_rows(SAVE_WEBHOOK, [(self._settings.url_hash, number)])

        with suppress(IrisError):
            await self._saver.write_once(add)
            self._saved_number, self._saved_handled = number, handled


def stored_places(store: Store, names: Collection[str], last_number: int) -> dict[str, int]:
    """Return the position of each delivery in the journal of events, by name. Remove the stored positions of deliveries
    that do not exist any more. A new delivery begins after the newest event.

    Args:
        store: The database of the controller, which no other code uses yet.
        names: The names of the deliveries. The name of a webhook is the hash of its URL.
        last_number: The number of the newest event.
    """
    known = store.read(read_webhooks)
    places = {name: known.get(name, last_number) for name in names}
    changes = Changes()
    changes.add_rows(REMOVE_WEBHOOK, [(name,) for name in known if name not in names])
    changes.add_rows(SAVE_WEBHOOK, [(name, number) for name, number in places.items() if name not in known])
    if set(known) != set(names):
        store.write(changes)
    return places
