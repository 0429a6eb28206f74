"""What the Ray engine makes of the process that talks with Ray; a program of ours takes its place."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from iris.cluster.engine.ray.engine import RayEngine
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.errors import UnavailableError

pytestmark = pytest.mark.anyio

# In its first life it dies in the middle of a line when it gets an order; in the next ones Ray knows nothing.
_TALKER = """#!{python}
import json, pathlib, sys

def say(message):
    print(json.dumps(message), flush=True)

json.loads(sys.stdin.readline())
has_lived = pathlib.Path(sys.argv[0]).with_name("has-lived")
held = {{"state": "HELD", "reason": "", "slots": [["a.0", "n0"], ["a.1", "n1"]], "lost": []}}
gangs = {{}} if has_lived.exists() else {{"a@0": held}}
say({{"ready": []}})
say({{"state": {{"gangs": gangs, "machines": []}}}})
for line in sys.stdin:
    order = json.loads(line)
    if not has_lived.exists():
        has_lived.touch()
        print('{{"state": {{"gangs": {{"a@', end="", flush=True)
        sys.exit(1)
    say({{"id": order["id"]}})
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RayEngine]:
    talker = tmp_path / "talker"
    talker.write_text(_TALKER.format(python=sys.executable))
    talker.chmod(0o755)
    engine = RayEngine(
        tmp_path / "engine",
        ray_address="auto",
        lease_s=60.0,
        worker_options=[],
        credentials=lambda worker_id: WorkerCredentials("none", bytes(32)),
    )
    monkeypatch.setattr(sys, "executable", str(talker))
    await engine.start("http://127.0.0.1:9")
    yield engine
    await engine.abandon()


async def test_ray_driver_that_dies_while_it_writes_a_line_is_restarted(engine: RayEngine) -> None:
    """The order to start the workers of the gang that is held is what it dies of."""
    while True:
        try:
            if await engine.snapshot() == {}:
                return  # told by its next life
        except UnavailableError:
            pass
        await engine.wait_for_change(0.05)
