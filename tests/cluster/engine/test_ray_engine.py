"""The Ray engine on a real Ray cluster: the contract of all engines, and what is Ray's alone."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from contracts.engine import *  # noqa: F403 - the contract's tests run here
from contracts.engine import until_free
from support.ray_cluster import ZONES, RayCluster

from iris.cluster.engine.ray import RayEngine
from iris.cluster.engine.ray_names import namespace_of
from iris.cluster.worker.standing import Identity, read_identity
from iris.cluster.worker.trust import WorkerCredentials
from iris.errors import UnavailableError

NOBODY = "http://127.0.0.1:9"  # a controller that does not answer: workers wait for it


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
        while (found := self.find_worker(worker_id)) is None:
            await asyncio.sleep(0.02)
        return found

    def find_worker(self, worker_id: str) -> Identity | None:
        files = Path(tempfile.gettempdir()).glob(f"iris-{os.getuid()}-{self.cluster_id}-*/{worker_id}-*/identity")
        found = [identity for path in files if (identity := read_identity(path))]
        return next((identity for identity in found if identity.is_alive), None)

    async def holder(self, worker_id: str) -> int:
        """The process of the actor that holds a slot, once it runs."""
        while worker_id not in (actors := self.cluster.call("actors", self.namespace)):
            await asyncio.sleep(0.02)
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
    await until_free(shared_world, 8)
