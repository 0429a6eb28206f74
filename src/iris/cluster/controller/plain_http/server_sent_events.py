"""Formats the answers of the log route as server-sent events, and parses the id of the last event that a browser sends
when it connects again. The input is the items that the log reader produces, such as lines and notices.

The id of an event contains a cursor, and the other values that a reader needs to continue without a lost or doubled
line. A browser sends the id of the last event as `Last-Event-ID` when it connects again. An id begins with a cursor,
after which some of these parts may follow, separated by dots:
    CURSOR                      the place after the event
    CURSOR.s1732445000000       also the time after which lines are selected, because `since=10m` moves with the clock
    CURSOR.u1732448600000       also the time up to which lines are selected
    CURSOR.n20                  also how many lines `max_lines` still allows
    CURSOR.end                  everything was read, so that the browser must not connect again
"""

from __future__ import annotations

from dataclasses import dataclass

from iris.arguments import MAX_INT32
from iris.cluster.controller.plain_http.formats import ENCODER, event_of, failure_of
from iris.cluster.controller.plain_http.items import AllRead, Batch, Item
from iris.cluster.controller.plain_http.query import LogQuery
from iris.cluster.logs.entries.json_lines import json_objects
from iris.cluster.logs.entries.log_entry import cursors
from iris.errors import InvalidArgumentError, IrisError, quoted
from iris.moments import LAST_MS

# The time in milliseconds that a browser waits before it connects again.
RETRY_MS = 1000
# An event of several tasks contains the positions of all tasks, and a browser sends these positions in one header.
# Therefore the number of tasks is limited.
MAX_TASKS = 1000
_END = "end"
_LARGEST = {"s": LAST_MS, "u": LAST_MS, "n": MAX_INT32}


@dataclass(frozen=True, slots=True)
class EventId:
    """A parsed id of an event.

    Attributes:
        cursor: The cursor with which a reader continues after the event.
        start_ms: Only lines later than this time are selected, in milliseconds since the epoch; 0 sets no limit.
        end_ms: Only lines up to this time are selected, in milliseconds since the epoch; 0 sets no limit.
        max_lines: How many lines may follow; 0 sets no limit.
        is_end: Whether the event was the last event of the answer, after everything was read.
    """

    cursor: str
    start_ms: int = 0
    end_ms: int = 0
    max_lines: int = 0
    is_end: bool = False


def read_event_id(text: str) -> EventId:
    """Return the parts of an id that this server gave to an event.

    Raises:
        InvalidArgumentError: The text is not an id of an event.
    """
    cursor, *parts = text.strip().split(".")
    numbers: dict[str, int] = {}
    for part in parts:
        kind, digits = part[:1], part[1:]
        if part == _END:
            continue
        if kind not in _LARGEST or not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(LAST_MS)):
            cursor = ""
            break
        numbers[kind] = int(digits)
    if not cursor or any(number > _LARGEST[kind] for kind, number in numbers.items()):
        raise InvalidArgumentError(
            f"Last-Event-ID={quoted(text)} is not the id of an event of this server: send the id of the last event, or"
            " no Last-Event-ID to begin anew"
        )
    return EventId(
        cursor, numbers.get("s", 0), numbers.get("u", 0), numbers.get("n", 0), is_end=bool(parts) and parts[-1] == _END
    )


class EventStreamFormat:
    """Writes each line as one event with an id. Messages are events of the types `notice`, `ended` and `failed`.

    Args:
        query: The parameters of the request.
    """

    def __init__(self, query: LogQuery) -> None:
        self._left = query.max_lines
        self._suffix = f".s{query.start_ms}" if query.start_ms else ""
        self._suffix += f".u{query.end_ms}" if query.end_ms else ""

    def begin(self) -> bytes:
        """Return the field `retry` of a stream of events, which says after how many milliseconds a browser connects
        again."""
        return f"retry: {RETRY_MS}\n\n".encode()

    def write(self, item: Item) -> bytes:
        """Return the bytes for an item."""
        if isinstance(item, Batch):
            return self._lines(item).encode(errors="replace")
        event = event_of(item)
        if event is None:
            return b""
        cursor = event.get("cursor", "")
        event_id = self._id(cursor) + (f".{_END}" if isinstance(item, AllRead) else "") if cursor else ""
        return _event(ENCODER.encode(event), event_id, event["event"]).encode(errors="replace")

    def beat(self) -> bytes:
        """Return a comment, which browsers ignore."""
        return b": beat\n\n"

    def failed(self, error: IrisError) -> bytes:
        """Return an event with the error. The event has no id. Therefore the browser continues after the last line."""
        return _event(ENCODER.encode(failure_of(error)), "", "failed").encode(errors="replace")

    def end(self) -> bytes:
        """Return nothing."""
        return b""

    def _lines(self, batch: Batch) -> str:
        events = []
        documents = json_objects(batch.entries, ENCODER)
        for entry, document, cursor in zip(batch.entries, documents, cursors(batch.entries), strict=True):
            if self._left and (not entry.partial or entry.origin.ended):
                self._left -= 1
                is_last = not self._left
            else:
                is_last = False
            events.append(_event(document, self._id(cursor) + (f".{_END}" if is_last else "")))
        return "".join(events)

    def _id(self, cursor: str) -> str:
        return f"{cursor}{self._suffix}{f'.n{self._left}' if self._left else ''}"


def _event(data: str, event_id: str, kind: str = "") -> str:
    head = f"event: {kind}\n" if kind else ""
    return f"{head}{f'id: {event_id}' + chr(10) if event_id else ''}data: {data}\n\n"
