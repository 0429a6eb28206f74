"""Pauses between retries, and between the starts of a process that keeps dying."""

from __future__ import annotations

import asyncio
import random

from iris.system.backoff import Backoff, RestartPauses


def exact(low: float, high: float) -> float:
    """No jitter."""
    return 1.0


def test_backoff_doubles_up_to_longest_pause() -> None:
    backoff = Backoff(0.1, 0.5, factor=exact)
    assert [backoff.next_s() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_backoff_after_reset_begins_anew() -> None:
    backoff = Backoff(0.1, 5.0, factor=exact)
    backoff.next_s()
    backoff.next_s()
    backoff.reset()
    assert backoff.expected_s == backoff.next_s() == 0.1


def test_backoff_begins_anew_only_after_a_stream_that_worked_for_five_seconds_since_its_first_message() -> None:
    now_s = 0.0
    backoff = Backoff(1.0, 8.0, factor=exact, clock_s=lambda: now_s)

    def pause_after(*messages_s: float, end_s: float) -> float:
        """Return the pause after a stream that brought messages at these times since its start."""
        nonlocal now_s
        began_s = now_s
        for message_s in messages_s:
            now_s = began_s + message_s
            backoff.answered()
        now_s = began_s + end_s
        return backoff.next_s()

    assert [pause_after(0.0, end_s=1.0), pause_after(0.0, 4.0, end_s=4.9), pause_after(60.0, end_s=61.0)] == [1, 2, 4]
    assert [pause_after(0.0, 4.0, end_s=5.0), pause_after(end_s=60.0), pause_after(end_s=1.0)] == [1, 2, 4]


def test_limit_of_a_backoff_shortens_only_the_next_pause() -> None:
    backoff = Backoff(1.0, 8.0, factor=exact)
    backoff.next_s()
    backoff.next_s()
    backoff.limit(0.5)
    assert [backoff.next_s(), backoff.next_s()] == [0.5, 1.0]


def test_backoff_jitter_stays_within_half_of_pause() -> None:
    backoff = Backoff(1.0, 1.0, factor=random.Random(7).uniform)
    pauses = [backoff.next_s() for _ in range(1000)]
    assert 0.5 <= min(pauses) < 0.6
    assert 1.4 < max(pauses) <= 1.5


def pauses_after(lives_s: list[float]) -> list[float]:
    """Return the pauses after processes that lived for these times, until the last one is not started again."""
    now_s = 0.0
    left = list(lives_s)
    pauses: list[float] = []

    async def live() -> bool:
        nonlocal now_s
        now_s += left.pop(0)
        return bool(left)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    restarts = RestartPauses((0.0, 0.2, 1.0), long_life_s=10.0, clock_s=lambda: now_s)
    asyncio.run(restarts.keep_alive(live, sleep=sleep))
    return pauses


def test_process_that_keeps_dying_waits_longer_each_time() -> None:
    assert pauses_after([1.0] * 6) == [0.0, 0.2, 1.0, 1.0, 1.0]


def test_process_that_lived_long_before_it_died_is_restarted_at_once() -> None:
    assert pauses_after([1.0, 1.0, 60.0, 1.0, 1.0]) == [0.0, 0.2, 0.0, 0.2]


def test_process_that_is_not_needed_any_more_is_not_restarted() -> None:
    assert pauses_after([1.0]) == []
