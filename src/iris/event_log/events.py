"""Defines events with named fields, and the two formats in which events are written."""

from __future__ import annotations

import json
import logging
import re
import time
from functools import lru_cache
from typing import Any

_PLAIN = re.compile(r"[\w./:@+%,*-]+")


class EventRecord(logging.LogRecord):
    """An event of Iris, as a record of Python's `logging`. The record's message is the event's name, such as
    `job.state`, and the record has the event's fields.
    """

    fields: dict[str, Any]


def log_event(logger: logging.Logger, event: str, /, *, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event, for example `log_event(_log, "job.state", job_id="train", state="RUNNING")`.

    A field of the event whose value is None or an empty text is left out. A call at a disabled level takes less than a
    microsecond.
    """
    if not logger.isEnabledFor(level):
        return
    record = EventRecord(logger.name, level, "", 0, event, (), None)
    record.fields = {name: value for name, value in fields.items() if value is not None and value != ""}
    logger.handle(record)


class TextFormatter(logging.Formatter):
    """Formats a record as a line: time, level, logger, message. The fields of an event follow its name."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line, or as several lines if it has a traceback."""
        line = f"{_time_of(record)} {record.levelname} {record.name} {record.getMessage()}"
        if isinstance(record, EventRecord):
            line += "".join(f" {name}={_as_text(value)}" for name, value in record.fields.items())
        return f"{line}\n{_traceback_of(record)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object on one line.

    Every object has `time`, `level` and `logger`. The object of an event also has `event` and the event's fields. The
    object of any other record has `message`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a JSON object on one line."""
        content: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event" if isinstance(record, EventRecord) else "message": record.getMessage(),
        }
        if isinstance(record, EventRecord):
            content |= record.fields
        if trouble := _traceback_of(record):
            content["traceback"] = trouble
        return json.dumps(content, ensure_ascii=False, default=str)


def _time_of(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=1)
def _second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


def _as_text(value: Any) -> str:
    if type(value) is int:
        return str(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _traceback_of(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
