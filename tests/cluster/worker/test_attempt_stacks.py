"""A call for stacks ends in time, even if py-spy does not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

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


def test_process_that_is_not_read_in_time_has_a_reason_and_py_spy_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "py-spy"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o700)
    running: set[int] = set()
    own: Any = SimpleNamespace(spare=running.add, release=running.remove)
    stacks = AttemptStacks(registry(), find_own_process, PySpy(own, str(program)), read_s=0.0)
    attempts = [pb.Worker.StackedAttempt(task_id="train/task-3", attempt_id=1)]
    (task,) = asyncio.run(stacks.read(pb.Worker.ReadStacksRequest(attempts=attempts))).tasks
    (process,) = task.processes
    assert (task.task_index, task.attempt_id, task.worker_id, task.reason) == (3, 1, "w", 0)
    assert (process.pid, process.reason) == (os.getpid(), pb.STACK_REASON_TIMEOUT)
    assert "no time left" in process.problem
    assert not running
