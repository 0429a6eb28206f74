"""The Ray engine on a real Ray cluster: the contract of all engines, and what is Ray's alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from contracts.engine import *  # noqa: F403 - the contract's tests run here
from contracts.engine import gang, until, until_free, until_gone
from support.cluster import is_alive, parent_of
from support.ray_cluster import ZONES, RayCluster
from support.waiting import wait_until

from iris.cluster.engine.base import GangState, Placement
from iris.cluster.engine.ray.engine import RayEngine
from iris.cluster.engine.ray.names import group_of, namespace_of
from iris.cluster.engine.ray.slot_actor import clean
from iris.cluster.worker.supervision.worker_identity import Identity, read_identity
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.errors import InvalidArgumentError, UnavailableError

NOBODY = "http://127.0.0.1:9"  # a controller that does not answer: workers wait for it
_QUERY_PAUSE_S = 0.3  # Each query of the Ray cluster costs CPU time in several processes.


class RayWorld:
    """See `contracts.engine.World`."""

    zones: ClassVar = ZONES

    def __init__(self, cluster: RayCluster, directory: Path, lease_s: float = 120.0) -> None:
        self.cluster = cluster
        self.directory = directory
        self._lease_s = lease_s
        self.engine = self.make()

    def make(self, address: str = "") -> RayEngine:
        return RayEngine(
            self.directory,
            ray_address=address or self.cluster.address,
            lease_s=self._lease_s,
            worker_options=[],
            credentials=lambda worker_id: WorkerCredentials("none", bytes(32)),
        )

    @property
    def cluster_id(self) -> str:
        return (self.directory / "cluster-id").read_text().strip()

    @property
    def namespace(self) -> str:
        return namespace_of(self.cluster_id)

    async def restart(self) -> None:
        await self.engine.abandon()
        self.engine = self.make()
        await self.engine.start(NOBODY)

    async def end_worker(self, worker_id: str) -> None:
        os.kill((await self.worker(worker_id)).pid, signal.SIGKILL)

    async def worker(self, worker_id: str) -> Identity:
        """The process of a worker, once it runs."""
        while (found := self.find_worker(worker_id)) is None:  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.02)
        return found

    def find_worker(self, worker_id: str) -> Identity | None:
        files = Path(tempfile.gettempdir()).glob(f"iris-{os.getuid()}-{self.cluster_id}-*/{worker_id}-*/identity")
        found = [identity for path in files if (identity := read_identity(path))]
        return next((identity for identity in found if identity.is_alive), None)

    async def holder(self, worker_id: str) -> int:
        """The process of the actor that holds a slot, once it runs."""
        while worker_id not in (actors := self.cluster.call("actors", self.namespace)):  # noqa: ASYNC110 - nor does Ray
            await asyncio.sleep(_QUERY_PAUSE_S)
        return int(actors[worker_id])

    async def go_away(self) -> None:
        self.cluster.signal_head(signal.SIGSTOP)

    async def come_back(self) -> None:
        self.cluster.signal_head(signal.SIGCONT)

    def visible_devices(self, worker_id: str) -> tuple[int, ...]:
        seen = self.cluster.call("devices", self.namespace, worker_id)
        return tuple(int(number) for number in seen.split(","))

    async def release_all(self) -> None:
        while True:
            try:
                gangs = await self.engine.snapshot()
                for gang_id in gangs:
                    await self.engine.release(gang_id)
                if not gangs:
                    return
            except UnavailableError:
                pass
            await self.engine.wait_for_change(0.1)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def ray_environment(ray_cluster: RayCluster) -> Iterator[RayCluster]:
    """As a user has it who may talk with the cluster."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in ray_cluster.env.items():
            environment.setenv(name, value)
        yield ray_cluster


@pytest.fixture(scope="module")
async def shared_world(
    ray_environment: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RayWorld]:
    world = RayWorld(ray_environment, tmp_path_factory.mktemp("engine"))
    await world.engine.start(NOBODY)
    yield world
    world.cluster.signal_head(signal.SIGCONT)
    await world.engine.close()


@pytest.fixture
async def world(shared_world: RayWorld) -> AsyncIterator[RayWorld]:
    yield shared_world
    await shared_world.come_back()
    await shared_world.release_all()
    try:
        await until_free(shared_world, 8, patience_s=20.0)
    except AssertionError:
        if shared_world.cluster.call("groups"):
            raise
        # Ray sometimes keeps the cores of a placement group that was removed while it was being created, although the
        # group no longer exists: issue 64693 of ray-project/ray. Only new machines have all their cores then.
        shared_world.cluster.call("replace_machines")
        await until_free(shared_world, 8)


@pytest.fixture
async def short_lease(ray_environment: RayCluster, tmp_path: Path) -> AsyncIterator[RayWorld]:
    """A world of its own, whose workers do not wait long for their controller."""
    world = RayWorld(ray_environment, tmp_path / "engine", lease_s=2.0)
    await world.engine.start(NOBODY)
    yield world
    await world.engine.close()


def processes_of(world: RayWorld) -> list[int]:
    """Templates, workers and reapers of its cluster."""
    word = f"-{world.cluster_id}-".encode()
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and is_alive(int(path.name)) and word in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


async def test_slots_on_ray_are_released_when_no_controller_returns(short_lease: RayWorld) -> None:
    world = short_lease
    await world.engine.submit(gang("held@0", slots=2, cpu=1))
    held = await until(world, "held@0", GangState.HELD)
    for slot in held.slots:
        await world.worker(slot.worker_id)
    await world.engine.submit(gang("waits@0", slots=2, cpu=4))
    await until(world, "waits@0", GangState.WAITING)
    await world.engine.abandon()
    name = group_of(world.cluster_id, "held@0")
    while name in world.cluster.call("groups"):  # noqa: ASYNC110 - Ray tells nobody
        await asyncio.sleep(_QUERY_PAUSE_S)
    assert [slot for slot in held.slots if world.find_worker(slot.worker_id)] == []
    await world.restart()
    assert "held@0" not in await world.engine.snapshot()


async def test_killed_slot_actor_ends_its_worker_and_its_slot_is_lost(world: RayWorld) -> None:
    await world.engine.submit(gang("a@0", slots=2, cpu=1))
    await world.engine.submit(gang("b@0", slots=1, cpu=1))
    held = await until(world, "a@0", GangState.HELD)
    worker = await world.worker(held.slots[0].worker_id)
    os.kill(await world.holder(held.slots[0].worker_id), signal.SIGKILL)
    while not (broken := await until(world, "a@0", GangState.BROKEN)).lost:
        await world.engine.wait_for_change(0.1)
    assert broken.lost == {0}
    assert not is_alive(worker.pid), "what is lost has certainly ended"
    assert (await world.engine.snapshot())["b@0"].state is GangState.HELD


async def test_slot_is_lost_only_after_its_worker_has_ended(world: RayWorld) -> None:
    """Who is to kill it is as slow as a busy machine can make it."""
    await world.engine.submit(gang("a@0", slots=1, cpu=1))
    held = await until(world, "a@0", GangState.HELD)
    worker = await world.worker(held.slots[0].worker_id)
    template = parent_of(worker.pid)
    assert template is not None
    os.kill(template, signal.SIGSTOP)
    try:
        os.kill(await world.holder(held.slots[0].worker_id), signal.SIGKILL)
        await until(world, "a@0", GangState.BROKEN)
        for _ in range(8):  # what Ray says later is no other
            await world.engine.wait_for_change(0.5)
            assert (await world.engine.snapshot())["a@0"].lost == frozenset()
        assert is_alive(worker.pid)
    finally:
        os.kill(template, signal.SIGCONT)
    while not (await until(world, "a@0", GangState.BROKEN)).lost:
        await world.engine.wait_for_change(0.1)
    assert not is_alive(worker.pid)


async def test_release_of_the_first_gang_of_a_machine_keeps_the_other_gangs(world: RayWorld) -> None:
    await world.engine.submit(gang("first@0", cpu=1))
    first = await until(world, "first@0", GangState.HELD)
    before = await world.worker(first.slots[0].worker_id)
    await world.engine.submit(gang("second@0", cpu=1))
    worker = await world.worker((await until(world, "second@0", GangState.HELD)).slots[0].worker_id)
    await world.engine.release("first@0")
    await until_gone(world, "first@0")
    wait_until(lambda: not is_alive(before.pid), "the end of the worker of a gang that was released")
    assert is_alive(worker.pid)
    assert (await world.engine.snapshot())["second@0"].state is GangState.HELD


async def test_killed_fork_server_ends_its_workers(world: RayWorld) -> None:
    await world.engine.submit(gang("a@0", slots=2, cpu=1))
    held = await until(world, "a@0", GangState.HELD)
    workers = [await world.worker(slot.worker_id) for slot in held.slots]
    template = parent_of(workers[0].pid)
    assert template is not None
    os.kill(template, signal.SIGKILL)
    while (broken := await until(world, "a@0", GangState.BROKEN)).lost != {0, 1}:
        await world.engine.wait_for_change(0.1)
    assert broken.reason
    assert not [worker for worker in workers if is_alive(worker.pid)]
    await world.engine.release("a@0")
    await world.engine.submit(gang("a@1", cpu=1))
    await world.worker((await until(world, "a@1", GangState.HELD)).slots[0].worker_id)


async def test_killed_driver_process_is_replaced_and_finds_its_gangs(world: RayWorld) -> None:
    await world.engine.submit(gang("a@0", slots=2, cpu=1))
    before = await until(world, "a@0", GangState.HELD)
    workers = [await world.worker(slot.worker_id) for slot in before.slots]
    await world.engine.submit(gang("waits@0", slots=2, cpu=4))
    pid = world.engine.driver_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while world.engine.driver_pid in (pid, None):
        await world.engine.wait_for_change(0.05)
    while True:
        try:
            after = await world.engine.snapshot()
            break
        except UnavailableError:
            await world.engine.wait_for_change(0.05)
    assert after["a@0"] == before
    assert after["waits@0"].state is GangState.WAITING
    assert [is_alive(worker.pid) for worker in workers] == [True, True]


async def test_placement_group_without_slot_actors_gets_its_slot_actors(world: RayWorld) -> None:
    await world.engine.abandon()
    world.cluster.call("make_group", group_of(world.cluster_id, "half@0"), world.namespace, "1")
    await world.restart()
    status = await until(world, "half@0", GangState.HELD)
    await world.worker(status.slots[0].worker_id)


async def test_closing_the_ray_engine_ends_all_its_actors_placement_groups_and_processes(
    ray_environment: RayCluster, tmp_path: Path
) -> None:
    world = RayWorld(ray_environment, tmp_path / "engine")
    await world.engine.start(NOBODY)
    await world.engine.submit(gang("held@0", slots=2, cpu=1, placement=Placement.SPREAD))
    for slot in (await until(world, "held@0", GangState.HELD)).slots:
        await world.worker(slot.worker_id)
    await world.engine.submit(gang("waits@0", slots=2, cpu=4))
    assert processes_of(world)
    await world.engine.close()
    assert [name for name in world.cluster.call("groups") if world.cluster_id in name] == []
    assert world.cluster.call("actors", world.namespace) == {}
    wait_until(lambda: not processes_of(world), "the end of workers, and of what they were forked from")
    assert list(Path(tempfile.gettempdir()).glob(f"iris-*-{world.cluster_id}-*")) == []


async def test_ray_driver_sends_no_usage_data_or_folder_and_stores_no_token(world: RayWorld) -> None:
    pid = world.engine.driver_pid
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {b"RAY_USAGE_STATS_ENABLED=0", b"RAY_USAGE_STATS_REPORT_URL=http://127.0.0.1:9/"} <= set(variables)
    assert "packaging the working directory" not in (world.directory / "ray-driver.log").read_text()
    assert f"RAY_AUTH_TOKEN={world.cluster.env['RAY_AUTH_TOKEN']}".encode() in variables
    assert not list(Path(world.cluster.env["HOME"]).rglob("auth_token"))


@pytest.mark.parametrize("address", ["", "local", "ray://10.0.0.1:10001", "10.0.0.1", "a b:1", "10.0.0.1:port"])
def test_invalid_ray_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected 'auto', or HOST:PORT"):
        RayEngine(
            tmp_path,
            ray_address=address,
            lease_s=1.0,
            worker_options=[],
            credentials=lambda worker_id: WorkerCredentials("none"),
        )


async def test_ray_engine_without_a_ray_cluster_does_not_start(world: RayWorld) -> None:
    engine = world.make("127.0.0.1:9")
    with pytest.raises(UnavailableError, match="no Ray answers at"):
        await engine.start(NOBODY)


async def test_error_of_ray_engine_names_a_wrong_ray_token(
    ray_environment: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself says only that it could not connect."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-somebody-else-0123456789abcdef")
    engine = RayWorld(ray_environment, tmp_path / "engine").engine
    with pytest.raises(UnavailableError, match=r"refused the connection: .*RAY_AUTH_TOKEN here as on its machines"):
        await engine.start(NOBODY)


def test_variables_set_by_ray_are_removed_from_an_environment() -> None:
    of_ray = {"RAY_JOB_ID": "1", "SPT_NOENV": "1", "PYTHONBREAKPOINT": "ray.util.rpdb.set_trace"}
    preload = "/x/ray/core/libjemalloc.so"
    own = {"PATH": "/bin", "OMP_NUM_THREADS": "4", "LD_LIBRARY_PATH": "/lib"}
    assert clean(of_ray | own | {"LD_PRELOAD": preload, "IRIS_TOKEN": "secret"}) == own
    assert clean(own | {"LD_PRELOAD": f"/mine.so:{preload}"}) == own | {"LD_PRELOAD": "/mine.so"}
