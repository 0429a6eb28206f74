"""Makes events of the cluster from what the controller logs.

Changes of the states of jobs and tasks need no log record, because their events are stored together with the states.
All other events are made from calls of `log_event` with the name of a kind, and from logged warnings and errors.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from iris.cluster.controller.events.state_events import short
from iris.errors import IrisError
from iris.event_kinds import EVENT_KINDS, STATE_KINDS
from iris.event_log.events import EventRecord
from iris.rpc import cluster_pb2
from iris.task_ids import parse_task_id

Event = cluster_pb2.Controller.Event

LOGGED_KINDS = frozenset(EVENT_KINDS) - STATE_KINDS
_LEVELS = {logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "error"}
_OWNERS = ("owner", "user", "name")
_TEXTS = ("error", "text")


class LoggedEvents(logging.Handler):
    """A handler of `logging` that passes records on as events. Any thread may log.

    Args:
        add: A function that stores an event. The function is called on the loop in which this object was created.
    """

    def __init__(self, add: Callable[[Event], None]) -> None:
        super().__init__(logging.INFO)
        self._add = add
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Store a log record as an event if the record comes from `log_event`, or is a warning or an error. The package
        `logging` calls this method for each record.
        """
        try:
            event = event_of(record)
        except Exception:  # noqa: BLE001 - A bad record must not cause an error in the code that logs.
            self.handleError(record)
            return
        if event is None:
            return
        if threading.get_ident() == self._thread_id:
            self._add(event)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._add, event)


def event_of(record: logging.LogRecord) -> Event | None:
    """Return the event for a record; None if the record is for the event log only."""
    level = _LEVELS.get(record.levelno, "info")
    time_ms = round(record.created * 1000)
    if isinstance(record, EventRecord):
        if record.msg not in LOGGED_KINDS:
            return None
        event = Event(time_ms=time_ms, level=level, name=record.msg)
        _fill(event, record.fields)
        return event
    if level == "info":
        return None
    return Event(time_ms=time_ms, level=level, name=f"server.{level}", text=short(record.getMessage()))


def _fill(event: Event, fields: Mapping[str, Any]) -> None:
    rest = dict(fields)
    if (task_id := rest.pop("task_id", None)) is not None:
        try:
            event.job_id, event.task_index = parse_task_id(str(task_id))
        except IrisError:
            rest["task_id"] = task_id
    event.job_id = str(rest.pop("job_id", event.job_id))
    if isinstance(rest.get("attempt_id"), int):
        event.attempt_id = rest.pop("attempt_id")
    event.worker_id = short(str(rest.pop("worker_id", "")))
    event.reason = short(str(rest.pop("reason", "")))
    event.owner = short(str(next((rest.pop(name) for name in _OWNERS if name in rest), "")))
    event.text = short(str(next((rest.pop(name) for name in _TEXTS if name in rest), "")))
    for name, value in rest.items():
        event.fields[name] = short(str(value))
