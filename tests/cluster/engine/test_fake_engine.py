"""The engine that other tests use keeps the contract of all engines: or they would test against a dream."""

from __future__ import annotations

from typing import ClassVar

import pytest
from contracts.engine import *  # noqa: F403 - the contract's tests run here
from support.fake_engine import FakeEngine

from iris.cluster.engine.base import Resources


class FakeWorld:
    """See `contracts.engine.World`."""

    zones: ClassVar = {"A": "a", "B": "b"}

    def __init__(self) -> None:
        labels = {name: (("zone", zone),) for name, zone in self.zones.items()}
        self.engine = FakeEngine(dict.fromkeys(self.zones, Resources.of(cpu=4, memory_bytes=2**30, gpu=2)), labels)

    async def restart(self) -> None:
        self.engine = self.engine.for_next_controller()

    async def end_worker(self, worker_id: str) -> None:
        self.engine.end_worker(worker_id)

    async def go_away(self) -> None:
        self.engine.reachable = False

    async def come_back(self) -> None:
        self.engine.reachable = True

    def visible_devices(self, worker_id: str) -> None:
        return None


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def world() -> FakeWorld:
    return FakeWorld()
