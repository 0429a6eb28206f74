"""Slurm as an engine: the contract of all engines, on a real Slurm, and what is its own."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from contracts.engine import *  # noqa: F403 - the contract's tests run here
from contracts.engine import LOOK_S, gang, until, until_gone
from support.slurm_cluster import Node, SlurmCluster, skip_where_there_is_none
from support.waiting import wait_until

from iris.cluster.engine.base import GangState
from iris.cluster.engine.slurm import SlurmEngine
from iris.cluster.worker.trust import WorkerCredentials
from iris.errors import UnavailableError

skip_where_there_is_none()
pytestmark = pytest.mark.anyio

NOBODY = "http://127.0.0.1:9"  # a controller that does not answer: the workers go on trying


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class SlurmWorld:
    """See `contracts.engine.World`."""

    def __init__(self, directory: Path, slurm: SlurmCluster) -> None:
        self._directory = directory
        self.slurm = slurm
        self.zones = {node.name: node.features[0].partition("=")[2] for node in slurm.nodes}
        self.engine = self._new()

    def _new(self) -> SlurmEngine:
        return SlurmEngine(
            self._directory,
            lease_s=60.0,
            credentials=lambda worker_id: WorkerCredentials(f"secret-of-{worker_id}"),
            look_s=0.1,
        )

    async def restart(self) -> None:
        await self.engine.abandon()
        self.engine = self._new()
        await self.engine.start(NOBODY)

    async def end_worker(self, worker_id: str) -> None:
        os.kill(wait_until(lambda: worker_pid(worker_id), worker_id), signal.SIGKILL)

    async def go_away(self) -> None:
        self.slurm.kill_controller()

    async def come_back(self) -> None:
        self.slurm.start_controller()

    def visible_devices(self, worker_id: str) -> tuple[int, ...]:
        pid = wait_until(lambda: worker_pid(worker_id), worker_id)
        shown = environment(pid).get("CUDA_VISIBLE_DEVICES", "")
        return tuple(int(number) for number in shown.split(",") if number)


def worker_pid(worker_id: str) -> int | None:
    """The worker's process; its reaper, which has the same command line, is its child."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"iris.cluster.worker" in words and worker_id.encode() in words:
            found.append(int(path.name))
    return min(found, default=None)


def environment(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    return {name: value for name, _, value in (each.partition("=") for each in text.split("\0")) if name}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """One for all tests of this module; each leaves it empty."""
    nodes = [Node("n0", ("zone=a",)), Node("n1", ("zone=b",))]
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), nodes) as slurm:
        yield slurm


@pytest.fixture
async def world(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SlurmWorld]:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    world = SlurmWorld(tmp_path, cluster)
    await world.engine.start(NOBODY)
    yield world
    await world.engine.close()
    cluster.wait_until_empty()
