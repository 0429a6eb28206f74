"""Series of usage: bounded rings that become coarser with age, sums over attempts, and their stored form."""

from __future__ import annotations

import random

import pytest

from iris.cluster.controller.usage.series import (
    CPU,
    LEAST_POINTS,
    LIFE_POINTS,
    MEMORY,
    REQUESTED_CPU,
    STEP_S,
    TASK_COLUMNS,
    TASKS,
    Points,
    UsageSeries,
    clamped,
    points_per_task,
)
from iris.cluster.controller.usage.totals import SILENT_S, UsageTotal

BEGIN_S = 1_790_000_000
NOW_S = 2**32 - 1
WEEK_S = 7 * 24 * 3600


def filled(seconds: int, step_s: int = STEP_S) -> UsageSeries:
    series = UsageSeries(TASK_COLUMNS)
    for second in range(0, seconds, step_s):
        series.add(BEGIN_S + second, (1000, second % 4000, 0, 0))
    return series


@pytest.mark.parametrize("seconds", [10, 480, 481, 3600, 24 * 3600])
def test_usage_series_covers_the_whole_life_of_a_task_with_a_bounded_number_of_points(seconds: int) -> None:
    points = filled(seconds).read(0, NOW_S, 1000)
    assert 0 < len(points) <= LIFE_POINTS
    assert points.times[0] <= BEGIN_S
    assert points.times[-1] + points.step_s > BEGIN_S + seconds - STEP_S
    assert set(points.columns[CPU]) == {1000}
    assert list(points.times) == sorted(set(points.times))
    assert all(time_s % points.step_s == 0 for time_s in points.times)


def test_usage_series_of_a_week_has_no_more_points_than_a_series_of_an_hour() -> None:
    series = filled(WEEK_S, step_s=60)
    assert len(series.life) <= LIFE_POINTS
    assert len(series.life.pack()) < 3000


def test_last_minutes_of_a_long_usage_series_have_the_shortest_step() -> None:
    series = filled(3600)
    now_s = BEGIN_S + 3600
    points = series.read(now_s - 180, now_s, 1000)
    assert points.step_s == STEP_S
    assert len(points) == 90
    assert series.read(now_s - 1800, now_s, 1000).step_s > STEP_S


def test_usage_point_has_the_average_of_the_cores_and_the_largest_memory() -> None:
    points = Points.empty(TASK_COLUMNS, 8)
    for cpu, memory in ((0, 10), (4000, 30), (2000, 20)):
        points.add(BEGIN_S, (cpu, memory, 0, 0))
    assert (len(points), points.columns[CPU][0], points.columns[MEMORY][0]) == (1, 2000, 30)


def test_usage_sample_of_an_earlier_time_joins_the_last_point() -> None:
    points = Points.empty(TASK_COLUMNS)
    points.add(BEGIN_S + 10, (1000, 1, 0, 0))
    points.add(BEGIN_S, (3000, 2, 0, 0))
    assert list(points.times) == [BEGIN_S + 10]
    assert points.columns[CPU][0] == 2000


def test_reader_of_usage_gets_at_most_the_requested_number_of_points() -> None:
    series = filled(400)
    for most in (1, 7, 100, 1000):
        points = series.read(0, NOW_S, most)
        assert len(points) <= most
        assert points.columns[MEMORY][-1] >= 390
    assert len(series.read(BEGIN_S + 100, BEGIN_S + 119, 1000)) == 10
    assert len(series.read(BEGIN_S + 5000, NOW_S, 1000)) == 0


def test_stored_usage_points_are_read_back_unchanged() -> None:
    random.seed(5)
    points = Points.empty(TASK_COLUMNS)
    for step in sorted(random.sample(range(1000), 200)):
        points.add(BEGIN_S + step * STEP_S, tuple(random.randrange(2**32) for _ in range(TASK_COLUMNS)))
    read = Points.unpack(points.pack())
    assert (read.step_s, read.times, read.columns) == (points.step_s, points.times, points.columns)
    nothing = Points.unpack(Points.empty(TASK_COLUMNS).pack())
    assert (len(nothing), len(nothing.columns)) == (0, TASK_COLUMNS)


def test_usage_points_that_are_damaged_or_of_a_newer_version_are_refused() -> None:
    packed = filled(100).life.pack()
    for damaged in (b"", packed[:12], packed[:-5], packed[:20] + b"x" + packed[21:]):
        with pytest.raises(ValueError, match="damaged"):
            Points.unpack(damaged)
    with pytest.raises(ValueError, match="format 2"):
        Points.unpack(b"\x02" + packed[1:])


def test_usage_series_of_an_earlier_controller_is_continued() -> None:
    before = filled(3600)
    series = UsageSeries(TASK_COLUMNS, life=Points.unpack(before.life.pack()))
    for second in range(3600, 3700, STEP_S):
        series.add(BEGIN_S + second, (500, 1, 0, 0))
    assert series.read(0, NOW_S, 1000).times[0] <= BEGIN_S
    assert series.read(BEGIN_S + 3610, NOW_S, 1000).step_s == STEP_S
    assert series.read(BEGIN_S + 3500, NOW_S, 1000).step_s > STEP_S


def test_tasks_of_large_jobs_have_fewer_usage_points() -> None:
    assert points_per_task(1) == points_per_task(1000) == LIFE_POINTS
    assert points_per_task(2000) == 120
    assert points_per_task(10_000) == points_per_task(10**6) == LEAST_POINTS


def test_impossible_usage_reported_by_a_faulty_worker_is_clamped() -> None:
    assert [clamped(value) for value in (-5, 0, 7, 2**63)] == [0, 0, 7, 2**32 - 1]


def test_total_usage_adds_up_the_last_samples_of_live_attempts() -> None:
    total = UsageTotal()
    total.set("a", BEGIN_S, (1000, 10, 0, 0), (2000, 64, 0))
    total.set("b", BEGIN_S, (500, 20, 0, 0), (2000, 64, 0))
    total.set("a", BEGIN_S + 2, (2000, 15, 0, 0), (2000, 64, 0))
    total.sample(BEGIN_S + 2)
    total.remove("a")
    total.remove("unknown")
    total.sample(BEGIN_S + 5)  # Too early for another sample.
    total.sample(BEGIN_S + 6)
    columns = total.series.life.columns
    assert [list(columns[column]) for column in (CPU, MEMORY, TASKS, REQUESTED_CPU)] == [
        [2500, 500],
        [35, 20],
        [2, 1],
        [4000, 2000],
    ]


def test_attempt_without_new_samples_is_removed_from_the_total_usage() -> None:
    total = UsageTotal()
    total.set("lost", BEGIN_S, (1000, 10, 0, 0), (0, 0, 0))
    total.set("live", BEGIN_S + SILENT_S, (1, 1, 0, 0), (0, 0, 0))
    total.remove_silent(BEGIN_S + SILENT_S + 1)
    assert total.num_tasks == 1
