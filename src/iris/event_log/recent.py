"""Keeps the newest events of a process in memory, for clients that watch the cluster."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from iris.event_log.events import EventRecord

MAX_EVENTS = 1000
_MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class RecentEvent:
    """One event.

    Attributes:
        number: The number of the event. Each event has the number of the previous one plus 1.
        time_s: The time of the event, in seconds since the epoch.
        level: The level of the event, for example `INFO`.
        name: The name of the event, for example `job.state`; `message` for a record of `logging` without a name.
        fields: The fields of the event, as text.
    """

    number: int
    time_s: float
    level: str
    name: str
    fields: Mapping[str, str]


class RecentEvents(logging.Handler):
    """A handler of `logging` that keeps the newest events of the level `INFO` and above.

    Any thread may log events. The number of the events and the length of each text are bounded.

    Args:
        most: How many events are kept.
    """

    def __init__(self, most: int = MAX_EVENTS) -> None:
        super().__init__(logging.INFO)
        self._events: deque[RecentEvent] = deque(maxlen=most)
        self._last = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record. `logging` calls this method, and holds the lock of the handler meanwhile."""
        try:
            if isinstance(record, EventRecord):
                name, fields = record.msg, {key: _text(value) for key, value in record.fields.items()}
            else:
                name, fields = "message", {"text": _text(record.getMessage())}
        except Exception:  # noqa: BLE001 - A record that cannot be formatted must not fail in the code that logs it.
            self.handleError(record)
            return
        self._last += 1
        self._events.append(RecentEvent(self._last, record.created, record.levelname, name, fields))

    @property
    def last_number(self) -> int:
        """The number of the newest event; 0 before the first event."""
        return self._last

    def after(self, number: int) -> list[RecentEvent]:
        """Return the kept events with a higher number, the oldest first."""
        if number >= self._last:
            return []
        self.acquire()
        try:
            return [event for event in self._events if event.number > number]
        finally:
            self.release()


def _text(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
