"""Reads and writes times as people type them, such as `10m` (ten minutes ago), `2026-11-24T10:00`, `@1732445000`."""

from __future__ import annotations

import re
import time
from datetime import datetime, tzinfo

from iris.durations import find_span, is_plain_number
from iris.errors import InvalidArgumentError, quoted
from iris.system.clock import now_ms

_EPOCH = re.compile(r"@([0-9]+(?:\.[0-9]+)?)", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-", re.ASCII)
# A number without a unit means an age in seconds. Numbers above this limit are refused, because the user probably means
# a date without dashes, or seconds since the epoch without an @.
_MAX_PLAIN_S = 1e7
LAST_MS = 253_402_300_799_999  # The latest accepted time: the last millisecond of the year 9999.
_ACCEPTED_TIMES = (
    "expected an age such as '90', '90s', '10m', '1h30m' or '2d'; a date or time such as '2026-11-24',"
    " '2026-11-24T10:00' or '2026-11-24T10:00:00Z'; or seconds since the epoch such as '@1732445000'"
)


def read_moment(text: str, zone: tzinfo | None = None) -> int:
    """Return a time in milliseconds since the Unix epoch. The result is at least 1, because 0 stands for an option that
    was not given.

    Args:
        text: An age before now, such as `10m`; an ISO 8601 date, which stands for its first moment; an ISO 8601 time,
            which is in `zone` if it names no time zone; or `@` and seconds since the epoch.
        zone: The time zone of a time that names no time zone. If None, the local time zone of this machine is used.

    Raises:
        InvalidArgumentError: The text is not a time, or is a time after the year 9999.
    """
    given = text.strip()
    seconds = find_span(given)
    if seconds is not None and seconds >= _MAX_PLAIN_S and is_plain_number(given):
        seconds = None
    try:
        if seconds is not None:
            milliseconds = now_ms() - round(seconds * 1000)
        elif epoch := _EPOCH.fullmatch(given):
            milliseconds = round(float(epoch[1]) * 1000)
        elif _DATE.match(given):
            moment = datetime.fromisoformat(given)
            if moment.tzinfo is None and zone is not None:
                moment = moment.replace(tzinfo=zone)
            milliseconds = round(moment.timestamp() * 1000)
        else:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise InvalidArgumentError(f"not a time: {quoted(text)} ({_ACCEPTED_TIMES})") from None
    if milliseconds > LAST_MS:
        raise InvalidArgumentError(f"a time must not be after the year 9999, got {quoted(text)}")
    return max(1, milliseconds)


def write_moment(timestamp_ms: int) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds, such as `2026-11-24T10:00:00.123Z`."""
    seconds, milliseconds = divmod(timestamp_ms, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"
