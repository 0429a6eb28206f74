"""This machine as an engine: the contract of all engines, and what is its own."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contracts.engine import *  # noqa: F403 - the contract's tests run here
from contracts.engine import gang
from support.cluster import iris_processes, is_alive, parent_of

from iris.cluster.engine.base import GangRequest, GangState, Resources
from iris.cluster.engine.local import LocalEngine
from iris.cluster.engine.machine import this_machine
from iris.errors import InvalidArgumentError

NOBODY = "http://127.0.0.1:9"  # a controller that does not answer: the workers go on trying


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LocalEngine]:
    local = LocalEngine(tmp_path, machine=Resources(cpu=4, memory_bytes=2**30, gpu=3))
    await local.start(NOBODY)
    yield local
    await local.close()


async def test_gpus_are_given_out_by_number_and_taken_back(engine: LocalEngine) -> None:
    await engine.submit(GangRequest("a@0", 2, Resources(gpu=1)))
    await engine.submit(GangRequest("b@0", 1, Resources(gpu=2)))
    snapshot = await engine.snapshot()
    assert sorted(number for slot in snapshot["a@0"].slots for number in slot.gpu_ids) == [0, 1]
    assert snapshot["b@0"].state is GangState.WAITING
    await engine.release("a@0")
    assert (await engine.snapshot())["b@0"].slots[0].gpu_ids == (0, 1)


async def test_a_machine_is_split_among_workers(tmp_path: Path) -> None:
    local = LocalEngine(tmp_path, workers=3, machine=Resources(cpu=4, memory_bytes=3000, gpu=2))
    machines = await local.machines()
    assert [machine.total.cpu for machine in machines] == [2, 1, 1]
    assert [machine.total.memory_bytes for machine in machines] == [1000, 1000, 1000]
    assert [machine.total.gpu for machine in machines] == [1, 1, 0]
    assert [machine.name for machine in machines] == ["local-0", "local-1", "local-2"]


async def test_a_worker_that_dies_breaks_its_gangs_and_is_started_again(engine: LocalEngine, tmp_path: Path) -> None:
    await engine.submit(gang("a@0", slots=2))
    while not (workers := _workers(tmp_path)):
        await engine.wait_for_change(0.05)
    (worker,) = workers
    os.kill(worker, signal.SIGKILL)
    while (await engine.snapshot())["a@0"].state is not GangState.BROKEN:
        await engine.wait_for_change(0.1)
    assert (await engine.snapshot())["a@0"].lost == {0, 1}
    while not _workers(tmp_path) - {worker}:
        await engine.wait_for_change(0.05)
    assert not is_alive(worker)
    await engine.submit(gang("b@0"))
    assert (await engine.snapshot())["b@0"].state is GangState.HELD, "a broken gang breaks no other"


@pytest.mark.parametrize("workers", [0, 65])
def test_numbers_of_workers_that_are_refused(tmp_path: Path, workers: int) -> None:
    with pytest.raises(InvalidArgumentError, match="expected 1 to 64"):
        LocalEngine(tmp_path, workers=workers)


def test_this_machine_has_what_this_process_may_use() -> None:
    machine = this_machine()
    assert 1 <= machine.cpu <= len(os.sched_getaffinity(0))
    assert machine.memory_bytes > 2**28


def _workers(directory: Path) -> set[int]:
    """The worker processes below a directory, without their reapers, which are their children."""
    found = {pid for pid, command in iris_processes().items() if str(directory) in command and is_alive(pid)}
    return {pid for pid in found if parent_of(pid) == os.getpid()}
