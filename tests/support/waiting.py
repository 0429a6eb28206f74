"""Waiting for a condition: the only place where tests let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE_S = 0.01


def wait_until(condition: Callable[[], T], what: str = "", timeout_s: float = 30.0) -> T:
    """Asks until the answer is true, and gives it back; a failure shows the last answer.

    The time is no measure of speed, only the end of hope: it is long enough for a busy machine.
    """
    end = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what or condition}; last seen: {answer!r}")
        time.sleep(_PAUSE_S)
