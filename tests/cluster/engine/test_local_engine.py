"""This machine as an engine: the contract of all engines, and what is its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from contracts.engine import *  # noqa: F403 - the contract's tests run here
from contracts.engine import gang
from support.cluster import iris_processes, is_alive, parent_of
from support.waiting import wait_until

from iris.cluster.engine.base import GangRejectedError, GangRequest, GangState, Placement, Resources
from iris.cluster.engine.local.engine import LocalEngine
from iris.cluster.engine.machine import this_machine
from iris.cluster.engine.worker_process import find_standing
from iris.cluster.worker.supervision.worker_identity import identity_file, read_identity
from iris.errors import InvalidArgumentError

NOBODY = "http://127.0.0.1:9"  # a controller that does not answer: the workers go on trying


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class LocalWorld:
    """See `contracts.engine.World`: a machine that two workers share."""

    zones: ClassVar = {"local-0": "a", "local-1": "b"}

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.engine = LocalEngine(
            directory,
            workers=2,
            machine=Resources.of(cpu=8, memory_bytes=2**31, gpu=4),
            labels=[{"zone": zone} for zone in self.zones.values()],
            standing=True,
        )

    async def restart(self) -> None:
        pytest.skip("an engine that is killed is a process of its own: see the tests of standing workers below")

    async def end_worker(self, worker_id: str) -> None:
        while (identity := read_identity(identity_file(self._directory, worker_id))) is None:
            await self.engine.wait_for_change(0.02)
        os.kill(identity.pid, signal.SIGKILL)

    async def go_away(self) -> None:
        pytest.skip("this machine is never away from itself")

    async def come_back(self) -> None:
        """It never was away."""

    def visible_devices(self, worker_id: str) -> None:
        return None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[LocalWorld]:
    local = LocalWorld(tmp_path)
    await local.engine.start(NOBODY)
    yield local
    await local.engine.close()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LocalEngine]:
    local = LocalEngine(tmp_path, machine=Resources.of(cpu=4, memory_bytes=2**30, gpu=3))
    await local.start(NOBODY)
    yield local
    await local.close()


async def test_local_engine_allocates_gpus_by_number_and_frees_them(engine: LocalEngine) -> None:
    await engine.submit(GangRequest("a@0", 2, Resources(gpu=1)))
    await engine.submit(GangRequest("b@0", 1, Resources(gpu=2)))
    snapshot = await engine.snapshot()
    assert sorted(str(gpu) for slot in snapshot["a@0"].slots for gpu in slot.gpu_ids) == ["0", "1"]
    assert snapshot["b@0"].state is GangState.WAITING
    await engine.release("a@0")
    assert (await engine.snapshot())["b@0"].slots[0].gpu_ids == (0, 1)


async def test_rejection_of_a_gang_names_its_needs(engine: LocalEngine) -> None:
    request = gang("a@0", slots=2, cpu=1, gpu=9, placement=Placement.TOGETHER, zone="b")
    with pytest.raises(GangRejectedError) as rejected:
        await engine.submit(request)
    assert str(rejected.value) == (
        "this machine can never hold the gang: it needs 2 slots with cpu=1, memory_bytes=0 and gpu=9 each,"
        " placement together, label zone=b"
    )


async def test_local_engine_splits_the_machine_among_its_workers(tmp_path: Path) -> None:
    local = LocalEngine(tmp_path, workers=3, machine=Resources.of(cpu=4, memory_bytes=3000, gpu=2))
    machines = await local.machines()
    assert [machine.total.cpu for machine in machines] == [2, 1, 1]
    assert [machine.total.memory_bytes for machine in machines] == [1000, 1000, 1000]
    assert [machine.total.gpu for machine in machines] == [1, 1, 0]
    assert [machine.name for machine in machines] == ["local-0", "local-1", "local-2"]


async def test_local_worker_that_dies_breaks_its_gangs_and_is_restarted(engine: LocalEngine, tmp_path: Path) -> None:
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


async def test_restart_of_a_worker_is_repeated_until_it_succeeds(
    engine: LocalEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    while not (workers := _workers(tmp_path)):
        await engine.wait_for_change(0.05)
    (worker,) = workers
    messages = tmp_path / "local-0.log"
    messages.rename(tmp_path / "aside")
    messages.mkdir()  # where it would write
    os.kill(worker, signal.SIGKILL)
    while "cannot start worker local-0" not in caplog.text:
        await engine.wait_for_change(0.05)
    messages.rmdir()
    while not _workers(tmp_path) - {worker}:
        await engine.wait_for_change(0.05)


async def test_first_start_of_a_worker_is_repeated_until_it_succeeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    messages = tmp_path / "local-0.log"
    messages.mkdir()  # where it would write
    engine = LocalEngine(tmp_path, machine=Resources.of(cpu=4, memory_bytes=2**30))
    await engine.start("http://127.0.0.1:9")
    try:
        while "cannot start worker local-0" not in caplog.text:
            await engine.wait_for_change(0.05)
        messages.rmdir()
        while not _workers(tmp_path):
            await engine.wait_for_change(0.05)
    finally:
        await engine.close()


# Another engine in the directory of one that was killed: support/standing_cluster.py kills real ones. Here the earlier
# one is a process of its own, too, since workers are children of who starts them.

EARLIER = """
import asyncio, json, sys
from pathlib import Path
from iris.cluster.engine.base import GangRequest, Resources
from iris.cluster.engine.local.engine import LocalEngine

async def main():
    engine = LocalEngine(
        Path(sys.argv[1]), workers=2, machine=Resources.of(cpu=4, memory_bytes=2**30, gpu=4), standing=True
    )
    await engine.start("http://127.0.0.1:9")
    for gang_id, slots in (("a@0", 2), ("released@0", 1), ("b@0", 1)):
        await engine.submit(GangRequest(gang_id, slots, Resources.of(cpu=1, gpu=1)))
    await engine.release("released@0")
    await engine.submit(GangRequest("waits@0", 1, Resources.of(cpu=2)))
    places = {
        gang_id: [(slot.worker_id, slot.gpu_ids) for slot in status.slots]
        for gang_id, status in (await engine.snapshot()).items()
    }
    print(json.dumps(places), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


Left = dict[str, list[tuple[str, tuple[int, ...]]]]


@pytest.fixture
def left(tmp_path: Path) -> Left:
    """What an engine of two workers had placed that was killed: worker and GPUs of each slot, by gang."""
    with subprocess.Popen([sys.executable, "-c", EARLIER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as earlier:
        assert earlier.stdout is not None
        places = json.loads(earlier.stdout.readline())
        for worker_id in ("local-0", "local-1"):
            wait_until(identity_file(tmp_path, worker_id).exists, f"{worker_id} to say who it is")
        earlier.kill()
    return {gang: [(worker_id, tuple(gpus)) for worker_id, gpus in slots] for gang, slots in places.items()}


def kill_worker(directory: Path, worker_id: str) -> None:
    process = read_identity(identity_file(directory, worker_id))
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not process.is_alive, f"the end of {worker_id}")


@asynccontextmanager
async def next_engine(directory: Path, workers: int = 2, address: str = NOBODY) -> AsyncIterator[LocalEngine]:
    machine = Resources.of(cpu=4, memory_bytes=2**30, gpu=4)
    engine = LocalEngine(directory, workers=workers, machine=machine, standing=True)
    await engine.start(address)
    try:
        yield engine
    finally:
        await engine.close()


async def test_restarted_local_engine_finds_its_workers_and_their_slots(left: Left, tmp_path: Path) -> None:
    processes = [read_identity(identity_file(tmp_path, worker_id)) for worker_id in ("local-0", "local-1")]
    async with next_engine(tmp_path) as engine:
        assert engine.adopted == 2
        assert [read_identity(identity_file(tmp_path, f"local-{i}")) for i in range(2)] == processes
        snapshot = await engine.snapshot()
        assert snapshot.keys() == {"a@0", "b@0"}, "who had only waited asks again"
        for gang_id, status in snapshot.items():
            assert status.state is GangState.HELD
            assert [(slot.worker_id, slot.gpu_ids) for slot in status.slots] == left[gang_id]
        assert sum(machine.free.cpu for machine in await engine.machines()) == 1
        await engine.submit(GangRequest("c@0", 1, Resources(gpu=1)))
        given = [slot.gpu_ids[0] for status in (await engine.snapshot()).values() for slot in status.slots]
        assert sorted(given) == [0, 1, 2, 3], "no GPU is given out twice"
        for gang_id in ("a@0", "b@0", "c@0"):
            await engine.release(gang_id)
        assert all(machine.free == machine.total for machine in await engine.machines())
    assert all(process is not None and not process.is_alive for process in processes)
    assert find_standing(tmp_path) == []


async def test_slots_of_an_ended_worker_are_lost(left: Left, tmp_path: Path) -> None:
    kill_worker(tmp_path, "local-1")
    async with next_engine(tmp_path) as engine:
        assert engine.adopted == 1
        for gang_id, status in (await engine.snapshot()).items():
            gone = {i for i, (worker_id, _) in enumerate(left[gang_id]) if worker_id == "local-1"}
            assert status.lost == gone
            assert (status.state is GangState.BROKEN) == bool(gone)
        await engine.submit(gang("new@0"))
        assert (await engine.snapshot())["new@0"].state is GangState.HELD


async def test_workers_without_tls_are_ended_by_a_controller_with_tls(left: Left, tmp_path: Path) -> None:
    before = [read_identity(identity_file(tmp_path, worker_id)) for worker_id in ("local-0", "local-1")]
    async with next_engine(tmp_path, address=NOBODY.replace("http:", "https:")) as engine:
        assert engine.adopted == 0
        assert all(process is not None and not process.is_alive for process in before)
        for gang_id, status in (await engine.snapshot()).items():
            assert status.lost == set(range(len(left[gang_id])))
        await engine.submit(gang("new@0"))
        assert (await engine.snapshot())["new@0"].state is GangState.HELD


async def test_slot_of_a_killed_worker_is_still_lost_after_two_restarts_of_the_engine(
    left: Left, tmp_path: Path
) -> None:
    kill_worker(tmp_path, "local-1")
    between = LocalEngine(tmp_path, workers=2, machine=Resources.of(cpu=4, memory_bytes=2**30, gpu=4), standing=True)
    await between.start(NOBODY)
    lost = {gang_id: status.lost for gang_id, status in (await between.snapshot()).items()}
    await between.abandon()  # it ends the worker that it has started, and leaves the other: as if it had not been there
    async with next_engine(tmp_path) as engine:
        assert {gang_id: status.lost for gang_id, status in (await engine.snapshot()).items()} == lost
        assert any(lost.values())


@pytest.mark.parametrize("workers", [1, 3])
async def test_local_engine_restarted_with_another_number_of_workers_keeps_all_gangs(
    left: Left, tmp_path: Path, workers: int
) -> None:
    async with next_engine(tmp_path, workers) as engine:
        assert engine.adopted == 2
        snapshot = await engine.snapshot()
        assert {status.state for status in snapshot.values()} == {GangState.HELD}
        assert [machine.name for machine in await engine.machines()] == [f"local-{i}" for i in range(workers)]
        await engine.submit(GangRequest("new@0", 1, Resources(gpu=1)))
        given = [slot.gpu_ids[0] for status in (await engine.snapshot()).values() for slot in status.slots]
        assert sorted(given) == [0, 1, 2, 3]
        for gang_id in ("a@0", "b@0", "new@0"):
            await engine.release(gang_id)
        machines = await engine.machines()
        assert all(machine.free == machine.total for machine in machines)
        assert sum(machine.total.gpu for machine in machines) == 4
        wanted = [f"local-{i}" for i in range(workers)]
        while find_standing(tmp_path) != wanted:
            await engine.wait_for_change(0.05)


@pytest.mark.parametrize("workers", [0, 65])
def test_invalid_number_of_workers_is_refused(tmp_path: Path, workers: int) -> None:
    with pytest.raises(InvalidArgumentError, match="workers must be a whole number from 1 to 64"):
        LocalEngine(tmp_path, workers=workers)


def test_resources_of_this_machine_are_limited_to_what_this_process_may_use() -> None:
    machine = this_machine()
    assert 1 <= machine.cpu <= len(os.sched_getaffinity(0))
    assert machine.memory_bytes > 2**28


def _workers(directory: Path) -> set[int]:
    """The worker processes below a directory, without their reapers, which are their children."""
    found = {pid for pid, command in iris_processes().items() if str(directory) in command and is_alive(pid)}
    return {pid for pid in found if parent_of(pid) == os.getpid()}
