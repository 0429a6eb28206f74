"""A job seems to hang if running tasks are idle for the set time, judged from numbers alone."""

from __future__ import annotations

import time

import pytest

from iris.cluster.controller.hangs.detection import Hang, find_hang
from iris.cluster.worker.limits.process_table import Process
from iris.cluster.worker.limits.usage import Usage, measure
from iris.reasons import HangCode

LIMIT = 600_000
ALL, SOME = HangCode.ALL_TASKS_IDLE, HangCode.SOME_TASKS_IDLE


@pytest.mark.parametrize(
    ("idle_ms", "found"),
    [
        ({}, None),
        ({0: 0}, None),
        ({0: LIMIT - 1}, None),
        ({0: LIMIT}, Hang(ALL, (0,), LIMIT, 1)),
        ({0: LIMIT + 5, 1: LIMIT + 1}, Hang(ALL, (0, 1), LIMIT + 1, 2)),
        ({0: 0, 1: LIMIT + 1, 2: 7}, Hang(SOME, (1,), LIMIT + 1, 3)),
        ({2: LIMIT + 9, 0: LIMIT + 1, 1: 0}, Hang(SOME, (0, 2), LIMIT + 1, 3)),
    ],
)
def test_idle_tasks_decide_whether_a_job_seems_to_hang(idle_ms: dict[int, int], found: Hang | None) -> None:
    assert find_hang(idle_ms, LIMIT, is_complete=True) == found


def test_job_without_a_limit_for_idle_tasks_never_seems_to_hang() -> None:
    assert find_hang({0: LIMIT}, 0, is_complete=True) is None


def test_gang_with_a_starting_task_does_not_seem_to_hang() -> None:
    assert find_hang({0: LIMIT}, LIMIT, is_complete=False) is None


@pytest.mark.parametrize(
    ("hang", "who", "rest"),
    [
        (Hang(ALL, (0,), LIMIT, 1), "the task has", ""),
        (Hang(ALL, (0, 1), LIMIT, 2), "all 2 running tasks have", ""),
        (Hang(SOME, (1,), LIMIT, 3), "task 1 has", ", while 2 other tasks continue"),
        (Hang(SOME, (0, 2), LIMIT, 3), "2 of 3 running tasks have", ", while 1 other task continues"),
    ],
)
def test_text_of_a_hang_names_the_tasks_and_the_command(hang: Hang, who: str, rest: str) -> None:
    assert hang.text("train") == (
        f"seems to hang: {who} neither written output nor used the CPU for 10m 0s{rest}: 'iris stack train' shows where"
        " the tasks are"
    )


def process(cpu_s: float) -> Process:
    return Process(7, 1, 7, 7, started=1, threads=1, resident_bytes=0, cpu_s=cpu_s)


@pytest.mark.parametrize(
    ("cpu_s", "written", "is_active"),
    [
        (5.0, 9, False),
        (5.05, 9, False),  # Half of a hundredth of a core.
        (6.0, 9, True),
        (5.0, 10, True),
    ],
)
def test_output_or_cpu_use_makes_an_attempt_active(cpu_s: float, written: int, is_active: bool) -> None:
    now_s = time.monotonic()
    before = Usage(cpu_s=5.0, written=9, sampled_at_s=now_s - 10, active_at_s=now_s - 100)
    usage = measure(before, [process(cpu_s)], written=written)
    assert (usage.active_at_s >= now_s) == is_active
    assert (usage.idle_s >= 100) == (not is_active)


def test_new_attempt_does_not_count_as_idle() -> None:
    assert measure(Usage(), [process(0.0)], started_s=time.monotonic() - 50).idle_s == 0
