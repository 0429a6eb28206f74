"""Waiting for a condition: the only place where tests let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_SHORTEST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.25


def wait_until(
    condition: Callable[[], T], what: str = "", timeout_s: float = 60.0, pause_s: float = _SHORTEST_PAUSE_S
) -> T:
    """Ask for a condition until its answer is true, and return that answer.

    The pauses between the questions grow with the time that has passed, because each question costs CPU time, which the
    awaited processes need.

    The time limit measures no speed. It is generous, because a busy machine may be ten times slower than a quiet one,
    and shorter than pytest's limit for a test, because only this function shows what was awaited.

    Args:
        condition: The question. Its answer is true when the wait is over.
        what: What is awaited, for the text of a failure.
        timeout_s: The time limit in seconds.
        pause_s: The shortest pause between two questions in seconds, for a question that costs much CPU time.

    Raises:
        AssertionError: The answer was never true; the text shows `what` and the last answer.
    """
    start = time.monotonic()
    while True:
        answer = condition()
        if answer:
            return answer
        waited_s = time.monotonic() - start
        if waited_s > timeout_s:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what or condition}; last seen: {answer!r}")
        time.sleep(max(min(waited_s / 10, _LONGEST_PAUSE_S), pause_s))
