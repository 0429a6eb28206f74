"""The operations that read the events of a cluster. `WatchVerbs` documents the arguments and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from iris.arguments import (
    JobReference,
    check_callable,
    check_flag,
    check_job_id,
    check_names,
    check_text,
    check_timeout,
    check_whole_number,
)
from iris.cluster.client.operations.steps import Call, CloseStream, ItemOperation, NextMessage, OpenStream, Operation
from iris.cluster.client.operations.watches.job_watching import LONGEST_PAUSE_S, Watch
from iris.errors import UnavailableError
from iris.event_kinds import check_kinds
from iris.rpc import cluster_pb2

Event = cluster_pb2.Controller.Event
MOST_TAIL = 100_000


def watch_events(
    job_id: str | JobReference | None = None,
    *,
    kinds: Iterable[str] = (),
    since_ms: int = 0,
    cursor: str | None = None,
    tail: int = 0,
    follow: bool = False,
    patience_s: float | None = 60.0,
    on_silence: Callable[[UnavailableError], None] = lambda error: None,
    is_aborted: Callable[[], bool] = lambda: False,
) -> ItemOperation[Event, None]:
    """Check the arguments, and return the operation that yields the events."""
    request = cluster_pb2.Controller.WatchEventsRequest(
        job_id="" if job_id is None else check_job_id(job_id),
        kinds=check_kinds(check_names("kinds", kinds, "['job.failed']")),
        since_ms=check_whole_number("since_ms", since_ms),
        cursor="" if cursor is None else check_text("cursor", cursor, empty=False),
        tail=check_whole_number("tail", tail, most=MOST_TAIL),
        follow=check_flag("follow", follow),
    )
    patience = check_timeout("patience_s", patience_s)
    return _EventWatch(request, patience, check_callable("on_silence", on_silence), is_aborted).states()


def list_webhooks() -> Operation[list[cluster_pb2.Controller.WebhookStatus]]:
    """Return the webhooks of the cluster, and whether their deliveries succeed."""
    answer: cluster_pb2.Controller.ListWebhooksResponse
    answer = yield Call("list_webhooks", cluster_pb2.Controller.ListWebhooksRequest())
    return list(answer.webhooks)


class _EventWatch(Watch[Event]):
    """Watches events. After a lost connection, the watch continues after the last event that it has received."""

    def __init__(
        self,
        request: cluster_pb2.Controller.WatchEventsRequest,
        patience_s: float,
        on_silence: Callable[[UnavailableError], None],
        is_aborted: Callable[[], bool],
    ) -> None:
        super().__init__("", math.inf, patience_s, LONGEST_PAUSE_S, on_silence, is_aborted)
        self._request = request

    def _read_stream(self, end: float) -> ItemOperation[Event, bool]:
        """Yield the events that one stream sends, until the stream ends. Return True if the client does not wait for
        new events, because the watch is then complete.
        """
        stream = yield OpenStream("watch_events", self._request)
        while True:
            message: cluster_pb2.Controller.WatchEventsResponse | None = yield NextMessage(stream)
            if message is None:
                yield CloseStream(stream)
                return not self._request.follow
            self._answered()
            if message.cursor:
                # If the stream breaks, the next request begins after the cursor, and does not ask for the newest events
                # (`tail`) once more.
                self._request.cursor, self._request.tail = message.cursor, 0
            yield from message.events
