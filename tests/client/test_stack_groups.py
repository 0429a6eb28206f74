"""Identical stacks of tasks are merged, threads that wait for work are left out, and the text shows the odd task."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from iris.client.inspect.stack_groups import is_idle, is_own, merge, thread_role, without_beginning
from iris.client.inspect.stack_text import compact, describe, tasks_text
from iris.client.inspect.stacks import Frame, JobStacks, ProcessStacks, TaskStacks, ThreadStack, Variable

LIB = "/usr/lib/python3.12"
ALL_REDUCE = (Frame("all_reduce", f"{LIB}/site-packages/torch/dist.py", 120), Frame("step", "/app/train.py", 88))
NEXT = (Frame("next", "/app/loader.py", 41), Frame("step", "/app/train.py", 80))
BEGINNING = (
    Frame("Thread.run", f"{LIB}/threading.py", 982),
    Frame("Thread._bootstrap_inner", f"{LIB}/threading.py", 1045),
    Frame("Thread._bootstrap", f"{LIB}/threading.py", 1002),
)
POOL = (Frame("_worker", f"{LIB}/concurrent/futures/thread.py", 81), *BEGINNING)


def thread(frames: Sequence[Frame], name: str = "MainThread", *, active: bool = False) -> ThreadStack:
    return ThreadStack(name, 1, active, False, tuple(frames))


def task(index: int, *threads: ThreadStack, command: str = "python") -> TaskStacks:
    return TaskStacks(f"g/task-{index}", index, 0, "w", 1, (ProcessStacks(5, 1, command, "sleeping", threads),))


def hung_gang() -> JobStacks:
    tasks = [task(index, thread(NEXT if index == 7 else ALL_REDUCE), thread(POOL, "pool-0_3")) for index in range(32)]
    return JobStacks("g", tuple(tasks))


def test_identical_stacks_of_a_gang_are_one_group_and_a_different_stack_is_a_second_group() -> None:
    merged = merge(hung_gang().tasks)
    assert [(group.task_indices, group.frames) for group in merged.groups] == [
        (tuple(index for index in range(32) if index != 7), ALL_REDUCE),
        ((7,), NEXT),
    ]
    assert merged.idle_threads == 32


def test_text_of_the_stacks_of_a_hung_gang_shows_each_stack_once() -> None:
    assert str(hung_gang()).splitlines() == [
        "job g: the stacks of 32 tasks",
        "",
        "python · MainThread",
        "  31 tasks (0-6, 8-31):  all_reduce dist.py:120 < step train.py:88",
        "  task 7:  next loader.py:41 < step train.py:80",
        "",
        "32 threads waiting for work: not shown",
    ]


def test_threads_of_a_pool_are_one_group_with_their_number() -> None:
    busy = (Frame("resize", "/app/images.py", 3), *POOL)
    stacks = JobStacks("g", (task(0, *(thread(busy, f"resizer_{index}", active=True) for index in range(4))),))
    (group,) = stacks.groups()
    assert (group.thread, group.num_threads, group.is_active) == ("resizer", 4, True)
    assert "task 0, 4 threads, busy:  resize images.py:3 < _worker thread.py:81" in str(stacks)


def test_full_text_of_stacks_shows_whole_paths_and_variables() -> None:
    values = ((Variable("key", "'x'", True),), ())
    stacks = JobStacks("g", (task(0, ThreadStack("MainThread", 1, False, False, NEXT, values)),))
    assert describe(stacks, full=True).splitlines()[3:] == [
        "  task 0:",
        "      next  /app/loader.py:41",
        "          key = 'x'",
        "      step  /app/train.py:80",
    ]


def test_tasks_with_different_values_of_variables_are_in_different_groups_of_stacks() -> None:
    tasks = [
        task(index, ThreadStack("MainThread", 1, False, False, NEXT, ((Variable("i", str(index), False),),)))
        for index in range(2)
    ]
    assert len(merge(tasks).groups) == 2


def test_text_of_stacks_shows_why_tasks_and_processes_were_not_read() -> None:
    sleep = ProcessStacks(6, 5, "sleep", "sleeping", (), "NOT_PYTHON", "the process is not a Python program")
    shut = ProcessStacks(8, 5, "python", "sleeping", (), "PERMISSION", "kernel.yama.ptrace_scope is 1")
    stacks = JobStacks(
        "g",
        (
            TaskStacks("g/task-0", 0, 0, "w", 1, (sleep,)),
            TaskStacks("g/task-1", 1, 0, "w", 1, (sleep, shut)),
            TaskStacks("g/task-2", 2, 0, "w2", 1, (), "WORKER_UNREACHABLE", "worker 'w2' does not answer"),
            TaskStacks("g/task-3", 3, None, "", 1, (), "NOT_RUNNING", "the task does not run: its state is PENDING"),
        ),
    )
    assert str(stacks).splitlines()[2:] == [
        "not Python: sleep (sleeping) in 2 tasks (0-1)",
        "not read: python (sleeping) in task 1: kernel.yama.ptrace_scope is 1",
        "not read: task 2: worker 'w2' does not answer",
        "not read: task 3: the task does not run: its state is PENDING",
    ]


@pytest.mark.parametrize(
    ("frames", "name", "idle"),
    [
        (POOL, "ThreadPoolExecutor-0_0", True),
        ((Frame("wait", f"{LIB}/threading.py", 3), Frame("_feed", f"{LIB}/multiprocessing/queues.py", 9)), "Q", True),
        (
            (
                Frame("wait", f"{LIB}/threading.py", 3),
                Frame("TMonitor.run", f"{LIB}/site-packages/tqdm/_monitor.py", 9),
            ),
            "Thread-1",
            True,
        ),
        ((Frame("resize", "/app/images.py", 3), *POOL), "pool_0", False),  # It works.
        (POOL, "MainThread", False),
        ((), "x", False),
    ],
)
def test_thread_that_waits_for_work_is_recognised_as_idle(frames: tuple[Frame, ...], name: str, idle: bool) -> None:
    assert is_idle(thread(frames, name)) == idle


def test_active_thread_is_never_idle() -> None:
    assert not is_idle(thread(POOL, "pool_0", active=True))


def test_outermost_frames_of_a_thread_are_left_out_unless_no_frame_would_remain() -> None:
    assert without_beginning((*NEXT, *BEGINNING)) == NEXT
    assert without_beginning(BEGINNING) == BEGINNING[:1]
    assert without_beginning(()) == ()


def test_compact_stack_contains_the_innermost_frame_of_the_users_code() -> None:
    inner = [Frame(f"f{index}", f"{LIB}/site-packages/torch/x.py", index) for index in range(8)]
    assert compact([*inner, *NEXT]) == "f0 x.py < f1 x.py:1 < f2 x.py:2 < f3 x.py:3 < … < next loader.py:41"
    assert compact([]) == "no frames"
    assert compact([Frame("read", "", 0)]) == "read"


@pytest.mark.parametrize(
    ("indices", "count", "text"),
    [
        ([3], 4, "task 3"),
        ([0, 1, 2, 3], 4, "all 4 tasks"),
        ([0, 1, 3], 4, "3 tasks (0-1, 3)"),
        (list(range(0, 40, 2)), 40, "20 tasks (0, 2, 4, 6, 8, 10, …)"),
    ],
)
def test_indices_of_tasks_are_shown_as_ranges(indices: list[int], count: int, text: str) -> None:
    assert tasks_text(indices, count) == text


def test_frames_in_libraries_and_packages_do_not_count_as_the_users_code() -> None:
    assert is_own("/app/train.py")
    assert [
        file
        for file in (f"{LIB}/threading.py", f"{LIB}/site-packages/x.py", "<frozen runpy>", "", "<string>")
        if is_own(file)
    ] == []


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("ThreadPoolExecutor-0_12", "ThreadPoolExecutor"),
        ("Thread-3 (run)", "Thread"),
        ("", "unnamed thread"),
        ("7", "7"),
    ],
)
def test_numbers_at_the_end_of_thread_names_are_left_out(name: str, role: str) -> None:
    assert thread_role(name) == role
