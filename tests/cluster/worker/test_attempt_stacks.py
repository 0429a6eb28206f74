"""A call for stacks ends in time, even if py-spy does not, and its answer has a limited size."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from iris.cluster.stacks.size_limit import SizeLimit
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.inspect.attempt_stacks import AttemptStacks
from iris.cluster.worker.inspect.py_spy import PySpy
from iris.cluster.worker.limits.process_table import Process, read_process
from iris.rpc import cluster_pb2 as pb


def registry() -> AttemptRegistry:
    """Return a registry in which every attempt runs."""
    attempt = SimpleNamespace(process=object(), has_live_process=True)
    return cast(AttemptRegistry, SimpleNamespace(worker_id="w", get=lambda *_: attempt))


async def find_own_process(attempts: Sequence[Attempt]) -> list[list[Process]]:
    own = read_process(os.getpid())
    assert own is not None
    return [[own] for _ in attempts]


def read(directory: Path, script: str, running: set[int], **limits: Any) -> pb.TaskStacks:
    """Return the stacks of a task whose process is this one, read by a shell script in place of py-spy."""
    program = directory / "py-spy"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    own: Any = SimpleNamespace(spare=running.add, release=running.remove)
    stacks = AttemptStacks(registry(), find_own_process, PySpy(own, str(program)), **limits)
    attempts = [pb.Worker.StackedAttempt(task_id="train/task-3", attempt_id=1)]
    (task,) = asyncio.run(stacks.read(pb.Worker.ReadStacksRequest(attempts=attempts))).tasks
    return task


def test_stacks_that_are_not_read_in_time_are_missing_with_a_reason_and_leave_no_py_spy(tmp_path: Path) -> None:
    running: set[int] = set()
    task = read(tmp_path, "exec sleep 1000", running, read_s=0.0)
    (process,) = task.processes
    assert (task.task_index, task.attempt_id, task.worker_id, task.reason) == (3, 1, "w", 0)
    assert (process.pid, process.reason) == (os.getpid(), pb.STACK_REASON_TIMEOUT)
    assert "no time left" in process.problem
    assert not running


@pytest.mark.parametrize(("most_bytes", "is_read"), [(1000, True), (35, False), (5, False)])
def test_stacks_beyond_the_size_of_an_answer_are_left_out(tmp_path: Path, most_bytes: int, is_read: bool) -> None:
    frame = {"name": "step", "filename": "/app/train.py", "line": 5}
    thread = {"thread_name": "a", "os_thread_id": 1, "active": False, "owns_gil": False, "frames": [frame]}
    (process,) = read(tmp_path, f"echo '{json.dumps([thread])}'", set(), most_bytes=most_bytes).processes
    assert len(process.threads) == is_read
    assert process.reason == (pb.STACK_REASON_UNSPECIFIED if is_read else pb.STACK_REASON_FAILED)


def test_stacks_too_large_for_an_answer_leave_space_for_smaller_stacks() -> None:
    limit = SizeLimit(10)
    assert [limit.admit(size) for size in (6, 5, 4, 1)] == [True, False, True, False]
