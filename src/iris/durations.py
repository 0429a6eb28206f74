"""Reads and writes durations as people write them, for example `90`, `90s` or `1h30m`.

In all options of the command line and of the configuration file, a duration without a unit is a number of seconds. The
units are s, m, h and d, and a larger unit stands before a smaller one.
"""

from __future__ import annotations

import math
import re

from iris.errors import InvalidArgumentError, quoted

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile(r"\s*".join(rf"(?:{_NUMBER}\s*{unit})?" for unit in _SECONDS), re.ASCII)
_PLAIN_NUMBER = re.compile(_NUMBER, re.ASCII)


def read_span(text: str) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidArgumentError: The text is not a duration.
    """
    seconds = find_span(text.strip())
    if seconds is None or not math.isfinite(seconds):
        raise InvalidArgumentError(
            f"not a duration: {quoted(text)} (expected seconds, such as '90', or units, such as '90s', '10m', '1h30m'"
            " or '2d')"
        )
    return seconds


def find_span(text: str) -> float | None:
    """Return a duration in seconds, or None if the text is not a duration."""
    if is_plain_number(text):
        return float(text)
    match = _SPAN.fullmatch(text)
    if match is None or not match.group().strip():
        return None
    numbers = zip(match.groups(), _SECONDS.values(), strict=True)
    return sum(float(number) * seconds for number, seconds in numbers if number is not None)


def is_plain_number(text: str) -> bool:
    """Return whether a text is a number without a unit."""
    return _PLAIN_NUMBER.fullmatch(text) is not None


def write_span(seconds: float) -> str:
    """Return a number of seconds as text that `read_span` can read, in the largest unit that divides the number."""
    for unit, length in _SECONDS.items():
        if seconds and seconds % length == 0:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def words_of_seconds(seconds: float) -> str:
    """Return a duration for people in at most two units, for example `3.2s`, `48s`, `5m 10s`, `2h 3m`, or `4d 1h`.

    A negative duration counts as 0.
    """
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // smaller}{smaller_unit}"
    return f"{whole}s"
