"""Spans of time and moments as people give them: `90`, `90s`, `1h30m`, `2026-11-24T10:00`, `@1732445000`.

One rule for all options: a number without a unit is seconds; units are s, m, h and d, the larger before the smaller.
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
_MOST_PLAIN_S = 1e7  # as a moment: more is a date without dashes (20261124), or seconds since the epoch
_LAST_MS = 253_402_300_799_999  # of the year 9999
_MOMENT_FORMS = (
    "expected how long ago, as '90' or '90s', '10m', '1h30m', '2d'; a date or a time, as '2026-11-24',"
    " '2026-11-24T10:00', '2026-11-24T10:00:00Z'; or seconds since the epoch, as '@1732445000'"
)


def read_span(text: str) -> float:
    """Return seconds.

    Raises:
        InvalidArgumentError: It is none of that.
    """
    seconds = _span_seconds(text.strip())
    if seconds is None or not math.isfinite(seconds):
        raise InvalidArgumentError(
            f"not a time: {quoted(text)} (expected seconds, as '90', or text such as '90s', '10m', '1h30m', '2d')"
        )
    return seconds


def read_moment(text: str) -> int:
    """A moment, in milliseconds since the Unix epoch, from 1 on: 0 would mean none.

    How long ago, or an ISO 8601 date (its first moment) or time, which without a zone is local, or `@` and seconds
    since the epoch.

    Raises:
        InvalidArgumentError: It is none of that.
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
        raise InvalidArgumentError(f"not a moment: {quoted(text)} ({_MOMENT_FORMS})") from None
    if milliseconds > _LAST_MS:
        raise InvalidArgumentError(f"not a moment: {quoted(text)} is after the year 9999")
    return max(1, milliseconds)


def write_moment(timestamp_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds, as `2026-11-24T10:00:00.123Z`."""
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
