"""Waiting for a condition: the only place where tests let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE_S = 0.01


def wait_until(condition: Callable[[], T], what: str = "", timeout_s: float = 60.0) -> T:
    """Ask for a condition until its answer is true, and return that answer.

    The time limit measures no speed. It is generous, because a busy machine may be ten times slower than a quiet one,
    and shorter than pytest's limit for a test, because only this function shows what was awaited.

    Raises:
        AssertionError: The answer was never true; the text shows `what` and the last answer.
    """
    end = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what or condition}; last seen: {answer!r}")
        time.sleep(_PAUSE_S)
