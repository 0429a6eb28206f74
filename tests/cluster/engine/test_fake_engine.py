"""The engine that other tests use keeps the contract of all engines: or they would test against a dream."""

from __future__ import annotations

import pytest
from contracts.engine import *  # noqa: F403 - the contract's tests run here
from support.fake_engine import FakeEngine


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()
