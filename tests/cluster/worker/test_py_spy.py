"""py-spy runs beside the other work of a worker. Shell scripts take the place of py-spy."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from iris.cluster.stacks.frame_table import FrameTable
from iris.cluster.stacks.merging import StackCounts
from iris.cluster.worker.inspect.py_spy import PySpy
from iris.cluster.worker.inspect.py_spy_output import StackProblem
from iris.rpc import cluster_pb2 as pb


class Own:
    """Keeps the processes of py-spy that run."""

    def __init__(self) -> None:
        self.pids: set[int] = set()

    def spare(self, pid: int) -> None:
        self.pids.add(pid)

    def release(self, pid: int) -> None:
        self.pids.remove(pid)


def py_spy(own: Own, directory: Path, script: str) -> PySpy:
    """Return a `PySpy` that runs a shell script. The script's seventh argument is the file for samples."""
    program = directory / "py-spy"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    return PySpy(own, str(program))


async def record(spy: PySpy, counts: StackCounts) -> int | StackProblem:
    return await spy.record(1, counts, job_id="train", seconds=1, rate=100, with_idle=False)


def test_profiles_by_py_spy_do_not_occupy_the_threads_of_the_event_loop(tmp_path: Path) -> None:
    stop, own, counts = tmp_path / "stop", Own(), StackCounts()
    script = f'while [ ! -e {stop} ]; do sleep 0.01; done; echo "spin (a.py:1) 3" > "$7"'
    spy = py_spy(own, tmp_path, script)

    async def sample() -> list[int | StackProblem]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with asyncio.TaskGroup() as group:
            records = [group.create_task(record(spy, counts)) for _ in range(2)]
            for _ in range(10):  # Each record starts its process, and would get a thread if it wanted one.
                await asyncio.sleep(0)
            assert len(own.pids) == 2
            await asyncio.to_thread(stop.touch)
        return [one.result() for one in records]

    assert asyncio.run(sample()) == [3, 3]
    assert counts.counts == {(0,): 6}
    assert own.pids == set()


def test_cancelled_profile_by_py_spy_leaves_no_process(tmp_path: Path) -> None:
    own = Own()
    spy = py_spy(own, tmp_path, "exec sleep 1000")

    async def cancel() -> int:
        task = asyncio.create_task(record(spy, StackCounts()))
        await asyncio.sleep(0)
        (pid,) = own.pids
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return pid

    pid = asyncio.run(cancel())
    assert not Path(f"/proc/{pid}").exists()
    assert own.pids == set()


@pytest.mark.parametrize("script", ["echo 'Error: broken' >&2", "head -c 20000000 /dev/zero; echo 'Error: broken' >&2"])
def test_unexpected_output_of_py_spy_is_a_failure_with_its_error(tmp_path: Path, script: str) -> None:
    spy = py_spy(Own(), tmp_path, script)
    found = asyncio.run(spy.dump(1, FrameTable(), job_id="train", with_variables=False))
    assert found == StackProblem(pb.STACK_REASON_FAILED, "py-spy failed: broken")
