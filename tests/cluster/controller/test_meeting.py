"""The rendezvous of a gang at the real controller: the order of starts, lost answers, restarts, and GPUs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from contracts.rendezvous import meeting
from support.cluster import launch, shell, wait_for_end
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.lossy_proxy import Loss, LossyProxy
from support.ports import free_port
from support.waiting import wait_until
from support.worker_process import running_worker

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.workers.rendezvous import LocalRank, assign_local_ranks
from iris.cluster.engine.base import Resources, Slot
from iris.cluster.logs.directories import LogDirectories
from iris.rpc import cluster_pb2 as pb

HOST = "127.0.0.4"  # the advertised host of the worker of task 0, where only its proxy listens
TORCH: dict[str, Any] = {"rendezvous": pb.RENDEZVOUS_TORCH}


@pytest.mark.parametrize(
    ("machines", "devices", "expected"),
    [
        ("aba", ["0", "0", "1"], [(0, 2, "01"), (0, 1, ""), (1, 2, "01")]),
        ("aa", ["3", "1"], [(0, 2, "31"), (1, 2, "31")]),  # in the order of the ranks, not of the device numbers
        ("aa", ["", ""], [(0, 2, ""), (1, 2, "")]),
        ("aa", ["01", "23"], [(0, 2, ""), (1, 2, "")]),
        ("aa", ["0", ""], [(0, 2, ""), (1, 2, "")]),
        (
            "aab",
            ["0", "0", "1"],
            [(0, 1, ""), (0, 1, ""), (0, 1, "")],
        ),  # the engine numbers the devices of each slot from 0
        ("abc", ["0", "0", "0"], [(0, 1, ""), (0, 1, ""), (0, 1, "")]),
    ],
)
def test_tasks_on_a_machine_get_local_ranks_and_visible_devices(
    machines: str, devices: list[str], expected: list[tuple[int, int, str]]
) -> None:
    made = assign_local_ranks(list(machines), devices, share_devices=True)
    assert made == [LocalRank(rank, size, tuple(visible)) for rank, size, visible in expected]


def test_task_without_shared_devices_sees_only_the_devices_of_its_slot() -> None:
    assert assign_local_ranks(["a", "a"], [["0"], ["1"]], share_devices=False) == [LocalRank(0, 2), LocalRank(1, 2)]


class World:
    """Run a controller with a machine for each of two tasks. The worker of task 0 is called through a proxy."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = FakeEngine({name: Resources.of(cpu=1) for name in ("a", "b")})
        self.port = free_port()
        self.stack = ExitStack()

    @contextmanager
    def controller(self) -> Iterator[RemoteClusterClient]:
        store = Store(self.directory / "db")
        with serving(self.engine, store, port=self.port) as self.serving, RemoteClusterClient(self.address) as client:
            yield client
        self.engine = self.engine.for_next_controller()

    @property
    def address(self) -> str:
        return self.serving.address

    def start_workers(self, client: RemoteClusterClient) -> None:
        self.first = self.start_worker("a", "--advertise", HOST)
        self.start_worker("b")
        wait_until(lambda: len(client.list_workers()) == 2, "two workers")
        port = next(int(w.address.rpartition(":")[2]) for w in client.list_workers() if w.worker_id == "a")
        self.proxy = self.stack.enter_context(LossyProxy(f"http://127.0.0.1:{port}", host=HOST, port=port))

    def start_worker(self, name: str, *options: str) -> Popen[bytes]:
        directory = self.directory / f"{name}-{len(list(self.directory.iterdir()))}"
        logs = ("--log-directory", str(directory / "logs"))  # without it, the worker waits until it can upload its logs
        return self.stack.enter_context(running_worker(self.address, directory, *options, *logs, worker_id=name))

    def lose_answers(self) -> Loss:
        return self.proxy.lose("WorkerService/RunTasks", "response", 10_000)

    def launch(self, client: RemoteClusterClient, script: str, **fields: Any) -> str:
        """Return a command that appends its variables as a line to a file of its attempt."""
        proof = f'echo "$MASTER_ADDR $MASTER_PORT" >> "{self.directory}/ran.$RANK.$IRIS_ATTEMPT_ID"; '
        resources = pb.ResourceSpecProto(cpu=1)
        request = fields | TORCH | {"resources": resources}
        return launch(client, shell(proof + script), replicas=2, **request)

    def ran(self, task_index: int, attempt_id: int = 0) -> list[str]:
        proof = self.directory / f"ran.{task_index}.{attempt_id}"
        return proof.read_text().splitlines() if proof.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.stack:
        yield made


def test_repeated_start_of_task_0_returns_the_same_rendezvous_port(world: World) -> None:
    gate = world.directory / "gate"
    with world.controller() as client:
        world.start_workers(client)
        loss = world.lose_answers()
        job_id = world.launch(client, f'while [ ! -e "{gate}" ]; do sleep 0.05; done')
        wait_until(lambda: loss.left < 10_000 - 3, "answers that are lost")
        wait_until(lambda: world.ran(0), "the first task")
        assert client.get_task_status(job_id, 1).state == pb.TASK_STATE_BUILDING
        assert not world.ran(1)
        loss.left = 0
        wait_until(lambda: world.ran(1), "the other task")
        gate.touch()
        job = wait_for_end(client, job_id)
    assert (job.state, [len(task.attempts) for task in job.tasks]) == (pb.JOB_STATE_SUCCEEDED, [1, 1])
    assert world.ran(0) == world.ran(1)
    assert [line.split()[0] for line in world.ran(0)] == [HOST]


def test_rendezvous_completes_after_a_controller_restart_between_the_starts(world: World) -> None:
    gate = world.directory / "gate"
    with world.controller() as client:
        world.start_workers(client)
        loss = world.lose_answers()
        job_id = world.launch(client, f'while [ ! -e "{gate}" ]; do sleep 0.05; done')
        wait_until(lambda: client.get_task_status(job_id, 0).state == pb.TASK_STATE_RUNNING, "task 0")
        wait_until(lambda: world.ran(0), "its proof")
    loss.left = 0
    with world.controller() as client:
        wait_until(lambda: world.ran(1), "the other task")
        gate.touch()
        job = wait_for_end(client, job_id)
    assert (job.state, [len(task.attempts) for task in job.tasks]) == (pb.JOB_STATE_SUCCEEDED, [1, 1])
    assert len(world.ran(0)) == 1
    assert world.ran(0) == world.ran(1)


def test_rendezvous_fails_after_a_controller_restart_if_task_0_has_succeeded(world: World) -> None:
    with world.controller() as client:
        world.start_workers(client)
        world.lose_answers()
        job_id = world.launch(client, "exit 0", max_retries_failure=5)
        wait_until(lambda: client.get_task_status(job_id, 0).state == pb.TASK_STATE_SUCCEEDED, "the end of task 0")
    with world.controller() as client:
        job = wait_for_end(client, job_id)
    assert job.state == pb.JOB_STATE_FAILED
    assert "task 1 has no port for the rendezvous of its gang, because task 0 has ended already" in job.error
    assert "since task 0 has succeeded already" in job.error
    assert not world.ran(1)


def test_gang_restarts_if_the_worker_of_task_0_dies_before_it_answers(world: World) -> None:
    with world.controller() as client:
        world.start_workers(client)
        loss = world.lose_answers()
        script = '[ $IRIS_ATTEMPT_ID = 1 ] || exec sleep 300; [ "$MASTER_ADDR" = 127.0.0.1 ]'
        job_id = world.launch(client, script)
        wait_until(lambda: loss.left < 10_000 and world.ran(0), "an answer that is lost")
        world.first.send_signal(signal.SIGKILL)
        world.first.wait()
        world.serving.call(lambda: world.engine.lose(f"{job_id}@0", 0))
        wait_until(lambda: client.get_task_status(job_id, 1).attempts[0].state == pb.TASK_STATE_KILLED, "the other")
        world.start_worker("a")
        job = wait_for_end(client, job_id)
    assert job.state == pb.JOB_STATE_SUCCEEDED
    assert [[one.state for one in task.attempts] for task in job.tasks] == [
        [pb.TASK_STATE_WORKER_FAILED, pb.TASK_STATE_SUCCEEDED],
        [pb.TASK_STATE_KILLED, pb.TASK_STATE_SUCCEEDED],
    ]
    assert job.tasks[1].attempts[0].error == "stopped before it started"
    assert not world.ran(1), "it never heard of its first attempt"
    assert world.ran(0, 1) == world.ran(1, 1)


GPU = pb.ResourceSpecProto(device=pb.DeviceConfig(gpu=pb.GpuDevice(count=1)))
SEEN = shell('echo "$RANK $LOCAL_RANK $CUDA_VISIBLE_DEVICES"')


def seen(client: RemoteClusterClient, job_id: str) -> list[str]:
    job = wait_for_end(client, job_id)
    assert job.state == pb.JOB_STATE_SUCCEEDED, job.error
    return [client.fetch_task_logs(task.task_id)[0].data for task in job.tasks]


def test_local_rank_of_a_task_is_the_index_of_its_gpu(tmp_path: Path) -> None:
    engine = FakeEngine({name: Resources(gpu=2) for name in ("a", "b")})
    with (
        serving(engine, Store(None)) as controller,
        RemoteClusterClient(controller.address) as client,
        running_worker(controller.address, tmp_path / "a", worker_id="a"),
        running_worker(controller.address, tmp_path / "b", worker_id="b"),
    ):
        wait_until(lambda: len(client.list_workers()) == 2, "the workers")
        job_id = launch(client, SEEN, replicas=4, resources=GPU, **TORCH)
        assert seen(client, job_id) == ["0 0 0,1", "1 0 0,1", "2 1 0,1", "3 1 0,1"]
        alone = launch(client, SEEN, replicas=4, resources=GPU, rendezvous=pb.RENDEZVOUS_JAX)
        assert seen(client, alone) == ["  0", "  0", "  1", "  1"]


class EngineOfNamedGpus(FakeEngine):
    """An engine whose GPUs have ids instead of numbers, as in a container with CUDA_VISIBLE_DEVICES=GPU-…,GPU-…"""

    def _hold(self, name: str, need: Resources) -> Slot:
        slot = super()._hold(name, need)
        return replace(slot, gpu_ids=tuple(gpu if isinstance(gpu, str) else f"GPU-{gpu}" for gpu in slot.gpu_ids))


def test_tasks_see_the_ids_of_their_own_gpus_if_the_gpus_have_no_numbers(tmp_path: Path) -> None:
    engine = EngineOfNamedGpus({"a": Resources(gpu=2)})
    with (
        serving(engine, Store(None)) as controller,
        RemoteClusterClient(controller.address) as client,
        running_worker(controller.address, tmp_path / "a", worker_id="a"),
    ):
        wait_until(lambda: client.list_workers(), "the worker")
        gang = launch(client, SEEN, replicas=2, resources=GPU, **TORCH)
        assert seen(client, gang) == ["0 0 GPU-0,GPU-1", "1 1 GPU-0,GPU-1"]
        alone = launch(client, SEEN, replicas=2, resources=GPU)
        assert sorted(seen(client, alone)) == ["  GPU-0", "  GPU-1"]


class EngineOfSlots(FakeEngine):
    """An engine with a worker for each slot (w0, w1, …); only the worker knows its devices."""

    shared_workers = False

    def _hold(self, name: str, need: Resources) -> Slot:
        super()._hold(name, need)
        return Slot(f"w{sum(machine.tasks for machine in self._machines) - 1}", name)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (["GPU-7", "GPU-5"], ["0 0 GPU-7,GPU-5", "1 1 GPU-7,GPU-5"]),
        (["0", "0"], ["0 0 0", "1 0 0"]),  # each task sees its own device as number 0
    ],
)
def test_devices_come_from_the_slot_worker_if_the_engine_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: list[str], expected: list[str]
) -> None:
    engine = EngineOfSlots({"m": Resources(gpu=2)})
    kept = Keeping(LogDirectories(tmp_path / "kept"))  # workers and their logs end with their gang
    with ExitStack() as stack:
        controller: ControllerThread = stack.enter_context(serving(engine, Store(None), kept_logs=kept))
        client = stack.enter_context(RemoteClusterClient(controller.address))
        for number, device in enumerate(devices):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", device)
            name = f"w{number}"
            stack.enter_context(running_worker(controller.address, tmp_path / name, worker_id=name))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
        wait_until(lambda: len(client.list_workers()) == len(devices), "the workers")
        assert seen(client, launch(client, SEEN, replicas=2, resources=GPU, **TORCH)) == expected


def test_gangs_with_task_0_on_the_same_worker_get_different_ports(world: World) -> None:
    gate = world.directory / "gate"
    with world.controller() as client:
        world.start_workers(client)
        jobs = [launch(client, meeting("wait", gate=gate), replicas=2, **TORCH) for _ in range(3)]

        def places() -> list[str]:
            found = [client.fetch_task_logs(f"{job_id}/task-0") for job_id in jobs]
            return [entries[0].data for entries in found if entries]

        where = wait_until(lambda: len(places()) == 3 and places(), "three gangs to meet")
        assert len(set(where)) == 3
        gate.touch()
        assert [wait_for_end(client, job_id).state for job_id in jobs] == [pb.JOB_STATE_SUCCEEDED] * 3
