"""The retry pause of a gang."""

from __future__ import annotations

import pytest

from iris.cluster.controller.jobs.retry_pause import (
    LONG_RUN_MS,
    LONGEST_PAUSE_MS,
    next_in_row,
    pause_before,
    pause_left_ms,
)


@pytest.mark.parametrize(
    ("first_ms", "row", "longest_ms"),
    [
        (1000, 1, 0),  # no pause before the first retry
        (1000, 2, 1000),
        (1000, 3, 2000),
        (1000, 4, 4000),
        (1000, 7, 32_000),
        (1000, 8, 60_000),
        (1000, 1_000_000, 60_000),
        (60_000, 2, 60_000),
        (60_000, 3, 60_000),
        (1, 3, 2),
        (0, 2, 0),
        (0, 100, 0),
    ],
)
def test_retry_pauses_double_up_to_a_limit_and_are_shortened_by_at_most_a_fifth(
    first_ms: int, row: int, longest_ms: int
) -> None:
    pauses = [pause_before(row, first_ms, f"job-{n}@3") for n in range(500)]
    assert max(pauses) <= longest_ms <= LONGEST_PAUSE_MS
    assert min(pauses) >= longest_ms * 0.8
    assert longest_ms < 1000 or len(set(pauses)) > 100, "what failed together does not come back together"
    assert pause_before(row, first_ms, "same") == pause_before(row, first_ms, "same")


def test_retry_after_a_long_attempt_counts_as_the_first_retry() -> None:
    assert [next_in_row(row, 0) for row in (0, 1, 5)] == [1, 2, 6]
    assert next_in_row(5, LONG_RUN_MS - 1) == 6
    assert next_in_row(5, LONG_RUN_MS) == 1


@pytest.mark.parametrize(
    ("end_ms", "row", "left_ms"),
    [
        (10_500, 2, 500),
        (9_000, 2, -1000),
        (3_600_000, 2, 1000),  # The wall clock was set back.
        (3_600_000, 1, 0),
        (3_600_000, 0, 0),
        (9_000, 0, -1000),
    ],
)
def test_remaining_time_of_a_retry_pause_is_never_longer_than_the_pause(end_ms: int, row: int, left_ms: int) -> None:
    assert pause_left_ms(end_ms, 10_000, row, 1000) == left_ms
