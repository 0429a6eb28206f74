"""Streams the events of the cluster to clients.

A stream reads one page after the other, at the pace of its client. Pages of old events are read from the database in a
thread. A client that has all stored events gets new events from memory. If events are removed before a slow client has
read them, the client gets one event with the numbers of the removed events. Therefore a slow client costs no memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

from iris.arguments import check_job_id, check_whole_number
from iris.cluster.controller.events import event_rows
from iris.cluster.controller.events.event_rows import Event, EventFilter
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.store import Store
from iris.event_kinds import check_kinds
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms
from iris.system.event_loop import happens

WatchEventsRequest = cluster_pb2.Controller.WatchEventsRequest
WatchEventsResponse = cluster_pb2.Controller.WatchEventsResponse

BEAT_S = 10.0
PAGE = 500  # The largest number of events in one read from the database.
_MAX_TAIL = 100_000


class EventPages:
    """Reads pages of the stored events, from memory or from the database.

    Args:
        journal: The object that stores the events of the cluster.
        store: The database of the controller.
        threads: The threads that read from the database.
    """

    def __init__(self, journal: EventJournal, store: Store, threads: StoredJobs) -> None:
        self._journal = journal
        self._store = store
        self._threads = threads

    async def page(self, after: int, chosen: EventFilter) -> tuple[list[Event], int]:
        """Return the next events that meet the conditions and have a number higher than `after`. Also return the number
        of the last event that was searched.
        """
        if after + 1 >= self._journal.first_recent:
            return [event for event in self._journal.recent_after(after) if chosen.accepts(event)], max(
                after, self._journal.last_number
            )
        until = self._journal.last_number
        read = partial(event_rows.read_page, after=after, until=until, chosen=chosen, limit=PAGE)
        events = await self._threads.run(self._store.read, read)
        return events, events[-1].number if len(events) == PAGE else until

    async def place_of_tail(self, chosen: EventFilter, count: int) -> int:
        """Find the newest `count` events that meet the conditions, and return the number that precedes the oldest of
        them. Return 0 if fewer than `count` events meet the conditions.
        """
        read = partial(event_rows.place_of_tail, until=self._journal.last_number, chosen=chosen, count=count)
        return await self._threads.run(self._store.read, read)

    async def count_after(self, after: int, chosen: EventFilter) -> int:
        """Return how many stored events with a number higher than `after` meet the conditions."""
        return await self._threads.run(self._store.read, partial(event_rows.count_after, after=after, chosen=chosen))


class EventStreams:
    """Streams events to clients.

    Args:
        journal: The object that stores the events of the cluster.
        pages: The object that reads the stored events.
        beat_s: After this many seconds without a message, a client that waits for new events gets an empty message, so
            that the client notices a lost connection.
        clock_s: A function that returns the time in seconds.
    """

    def __init__(
        self,
        journal: EventJournal,
        pages: EventPages,
        *,
        beat_s: float = BEAT_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._pages = pages
        self._beat_s = beat_s
        self._clock_s = clock_s

    async def messages(self, request: WatchEventsRequest, *, is_admin: bool) -> AsyncGenerator[WatchEventsResponse]:
        """Yield the stored events that meet the conditions of a request, and then each new event if the request asks to
        follow.

        Args:
            request: The request of the client.
            is_admin: Whether the client may see events that only admins see.

        Raises:
            InvalidArgumentError: The request is invalid.
        """
        chosen = _filter_of(request, is_admin=is_admin)
        after, gap = self._start(request.cursor)
        # Whether the stream continues after an event that the client has already received. If later events were removed
        # meanwhile, the client has missed them, and gets a message about them.
        has_place = bool(request.cursor) and gap is None
        if request.tail:
            after = max(after, await self._pages.place_of_tail(chosen, request.tail))
        beat_at_s = -math.inf
        while True:
            stored = self._journal.next_events()
            first = self._journal.first_number
            if after + 1 < first:
                if has_place:
                    gap = gap_event(after + 1 if gap is None else int(gap.fields["first"]), first - 1)
                after = first - 1
            events, reached = await self._pages.page(after, chosen)
            # If some events of the page were removed while the page was read, the page is read again.
            if after + 1 < self._journal.first_number:
                continue
            # If no new event meets the conditions, the client still gets a message with the cursor from time to time.
            # Such a message keeps the connection open, and a client that connects again need not read old events.
            if events or gap is not None or self._clock_s() >= beat_at_s:
                beat_at_s = self._clock_s() + self._beat_s
                yield self._message(events if gap is None else [gap, *events], reached)
            after, gap, has_place = reached, None, True
            if after < self._journal.last_number:
                continue
            if not request.follow:
                return
            while not await happens(stored, beat_at_s - self._clock_s()):
                beat_at_s = self._clock_s() + self._beat_s
                yield WatchEventsResponse()

    def _start(self, cursor: str) -> tuple[int, Event | None]:
        """Return the number of the event after which a stream begins. Also return an event for the client if the cursor
        belongs to an earlier journal, and None otherwise.
        """
        if not cursor:
            return 0, None
        number = self._journal.read_cursor(cursor)
        return (0, _new_journal_event()) if number is None else (number, None)

    def _message(self, events: Sequence[Event], reached: int) -> WatchEventsResponse:
        message = WatchEventsResponse(events=events, cursor=self._journal.cursor(reached))
        for event in message.events:
            event.cursor = self._journal.cursor(event.number)
        return message


def gap_event(first: int, last: int) -> Event:
    """Return the event that a client gets instead of the removed events with the numbers `first` to `last`."""
    text = f"the events {first} to {last} are not stored any more"
    fields = {"first": str(first), "last": str(last)}
    return Event(number=last, time_ms=now_ms(), level="warning", name="events.gap", text=text, fields=fields)


def _new_journal_event() -> Event:
    text = "the cursor belongs to an earlier journal of events: the stored events follow from the oldest one on"
    return Event(time_ms=now_ms(), level="warning", name="events.gap", text=text)


def _filter_of(request: WatchEventsRequest, *, is_admin: bool) -> EventFilter:
    check_whole_number("tail", request.tail, least=0, most=_MAX_TAIL)
    return EventFilter(
        check_kinds(request.kinds),
        check_job_id(request.job_id) if request.job_id else "",
        check_whole_number("since_ms", request.since_ms, least=0),
        is_admin,
    )
