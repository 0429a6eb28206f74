"""Parses durations and times from the command line: `90`, `90s`, `1h30m`, `2026-11-24T10:00`, `@1732445000`.

All options follow one rule: a number without a unit is seconds. The units are d, h, m, and s, in this order.
"""

from __future__ import annotations

import math
import re
import time
from datetime import datetime

from iris.errors import InvalidArgumentError, quoted
from iris.system.clock import now_ms

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_SPAN = re.compile(r"\s*".join(rf"(?:{_NUMBER}\s*{unit})?" for unit in _SECONDS), re.ASCII)
_PLAIN_NUMBER = re.compile(_NUMBER, re.ASCII)
_EPOCH = re.compile(rf"@{_NUMBER}", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-", re.ASCII)
_MOST_PLAIN_S = 1e7  # a larger number is not an age but a date without dashes (20261124) or seconds since the epoch
_LAST_MS = 253_402_300_799_999  # the last millisecond of the year 9999
_MOMENT_FORMS = (
    "expected an age such as '90', '90s', '10m', '1h30m' or '2d'; a date or time such as '2026-11-24',"
    " '2026-11-24T10:00' or '2026-11-24T10:00:00Z'; or seconds since the epoch such as '@1732445000'"
)


def read_span(text: str) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidArgumentError: The text is not a duration.
    """
    seconds = _span_seconds(text.strip())
    if seconds is None or not math.isfinite(seconds):
        raise InvalidArgumentError(
            f"not a duration: {quoted(text)} (expected seconds, such as '90', or units, such as '90s', '10m', '1h30m'"
            " or '2d')"
        )
    return seconds


def read_moment(text: str) -> int:
    """Return a time in milliseconds since the Unix epoch, at least 1, because 0 means that no time is given.

    The text is an age before now; an ISO 8601 date, which means its first moment; an ISO 8601 time, which is local
    without a zone; or `@` and seconds since the epoch.

    Raises:
        InvalidArgumentError: The text has none of these forms.
    """
    given = text.strip()
    seconds = _span_seconds(given)
    if seconds is not None and seconds >= _MOST_PLAIN_S and _PLAIN_NUMBER.fullmatch(given):
        seconds = None
    try:
        if seconds is not None:
            milliseconds = now_ms() - round(seconds * 1000)
        elif epoch := _EPOCH.fullmatch(given):
            milliseconds = round(float(epoch[1]) * 1000)
        elif _DATE.match(given):
            milliseconds = round(datetime.fromisoformat(given).timestamp() * 1000)
        else:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise InvalidArgumentError(f"not a time: {quoted(text)} ({_MOMENT_FORMS})") from None
    if milliseconds > _LAST_MS:
        raise InvalidArgumentError(f"not a time: {quoted(text)} is after the year 9999")
    return max(1, milliseconds)


def write_moment(timestamp_ms: int) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds, for example `2026-11-24T10:00:00.123Z`."""
    seconds, milliseconds = divmod(timestamp_ms, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"


def _span_seconds(text: str) -> float | None:
    if _PLAIN_NUMBER.fullmatch(text):
        return float(text)
    match = _SPAN.fullmatch(text)
    if match is None or not match.group().strip():
        return None
    numbers = zip(match.groups(), _SECONDS.values(), strict=True)
    return sum(float(number) * seconds for number, seconds in numbers if number is not None)
