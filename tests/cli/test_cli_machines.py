"""`iris machines`: the machines, the jobs that use them, and the queued gangs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import launch
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.base import Resources
from iris.rpc import cluster_pb2 as pb

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.
GIB = 2**30
MACHINES = {"a1": Resources.of(4, 8 * GIB, 2), "b1": Resources.of(8, 16 * GIB), "b2": Resources.of(8, 16 * GIB)}
LABELS = {"a1": (("zone", "a"),), "b1": (("zone", "b"),), "b2": (("zone", "b"),)}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(MACHINES, LABELS)


@pytest.fixture
def controller(engine: FakeEngine) -> Iterator[ControllerThread]:
    with serving(engine, Store(None)) as running:
        yield running


def told(client: RemoteClusterClient, waiting: int) -> pb.Controller.ListMachinesResponse:
    """What there is once so many wait, and each knows why."""

    def answer() -> pb.Controller.ListMachinesResponse | None:
        found = client.list_machines()
        return found if [bool(gang.reason) for gang in found.waiting] == [True] * waiting else None

    return wait_until(answer, f"{waiting} queued gangs with their reasons")


def test_machines_shows_capacity_jobs_and_queued_gangs(iris: Iris, controller: ControllerThread) -> None:
    env = {"IRIS_CONTROLLER_ADDRESS": controller.address, "IRIS_TOKEN": os.environ["IRIS_TOKEN"]}
    assert "nothing waits" in iris("machines", **env).stdout
    with RemoteClusterClient(controller.address) as client:
        need = pb.ResourceSpecProto(cpu=3)
        launch(client, ["true"], replicas=5, name="holds", resources=need)
        wait_until(lambda: sum(machine.free.cpu for machine in client.list_machines().machines) == 5, "its room")
        gpus = pb.ResourceSpecProto(cpu=2, device=pb.DeviceConfig(gpu=pb.GpuDevice(count=1)))
        zone = pb.Constraint(key="zone", op=pb.CONSTRAINT_OP_EQ, value=pb.AttributeValue(string_value="a"))
        launch(client, ["true"], name="gpus", resources=gpus, constraints=[zone])
        need = pb.ResourceSpecProto(cpu=4, memory_bytes=GIB)
        launch(client, ["true"], replicas=2, name="spread", resources=need, placement=pb.PLACEMENT_SPREAD)
        told(client, 2)
    document = json.loads(iris("machines", "--json", "--address", controller.address, IRIS_TOKEN=token()).stdout)
    assert (document["engine"], document["problem"], document["num_waiting"]) == ("fake", None, 2)
    first, second, _ = document["machines"]
    assert (first["name"], first["labels"], first["alive"]) == ("a1", {"zone": "a"}, True)
    assert first["total"] == {"cpu": 4, "memory_bytes": 8 * GIB, "gpu": 2}
    assert first["free"] == {"cpu": 1, "memory_bytes": 8 * GIB, "gpu": 2}
    assert second["free"]["cpu"] == 2
    held = {machine["name"]: machine["holdings"] for machine in document["machines"]}
    assert sorted(index for holdings in held.values() for index in holdings[0]["task_indices"]) == [0, 1, 2, 3, 4]
    assert {holding["job_id"] for holdings in held.values() for holding in holdings} == {"holds"}
    gang, other = document["waiting"]
    assert (gang["job_id"], gang["slots"], gang["labels"]) == ("gpus", 1, {"zone": "a"})
    assert "needs 2 cpu, 1 gpu, on machines with zone=a; free now: 1 of 4 cpu" in gang["reason"]
    assert (other["job_id"], other["placement"], other["has_reservation"]) == ("spread", "spread", False)
    assert "needs 2 x (4 cpu, 1.0 GiB memory), each on a machine of its own; free now:" in other["reason"]

    done = iris("machines", **env, NO_COLOR="")
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("fake: 3 machines; free: 5 of 20 cpu, 40.0 of 40.0 GiB memory, 2 of 2 gpu; 2 wait\n")
    rows = {words[0]: line for line in done.stdout.splitlines()[1:] if (words := line.split())}
    assert "zone=a" in rows["a1"]
    assert "holds (2 tasks)" in rows["b1"]
    assert "1 gpu, zone=a" in rows["gpus"]
    assert "2 x 4 cpu 1.0 GiB, spread" in rows["spread"]
    reader = {**env, "IRIS_TOKEN": token("reader")}
    assert iris("machines", **reader).stdout.startswith("fake: 3 machines")
    assert "  iris machines --json" in iris("machines", "--help").stdout


def test_unreachable_engine_is_reported_beside_its_last_known_machines(
    iris: Iris, engine: FakeEngine, controller: ControllerThread
) -> None:
    env = {"IRIS_CONTROLLER_ADDRESS": controller.address, "IRIS_TOKEN": os.environ["IRIS_TOKEN"]}
    iris("machines", **env)
    engine.reachable = False
    done = iris("machines", **env)
    assert "fake: 3 machines" in done.stdout
    assert "out of reach" in done.stderr


def test_machines_command_sums_up_hundreds_of_machines_and_lists_only_the_first(iris: Iris, tmp_path: Path) -> None:
    engine = FakeEngine({f"m{number:03}": Resources.of(number % 7 + 1, GIB) for number in range(500)})
    with serving(engine, Store(None)) as controller:
        env = {"IRIS_CONTROLLER_ADDRESS": controller.address, "IRIS_TOKEN": os.environ["IRIS_TOKEN"]}
        controller.call(lambda: engine.bury("m007"))
        done = iris("machines", **env)
        lines = done.stdout.splitlines()
        assert lines[0].startswith("fake: 499 machines and 1 not alive; free: 1")
        assert len(lines) == 3 + 50, "a summary, an empty line, a header, and so many machines"
        assert lines[3].split()[:2] == ["m007", "dead"]
        assert lines[4].split()[2] == "7", "then the one with the most free"
        assert "450 more machines: iris machines --all" in done.stderr
        assert len(iris("machines", "--all", **env).stdout.splitlines()) == 3 + 500
        screen = iris.terminal("machines", **env)
        assert screen.exit_code() == 0
