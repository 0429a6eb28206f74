"""On engines where each slot has a worker of its own, that worker hands over what it has before it is ended, and is
forgotten after that."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from support.cluster import launch, shell, unique, wait_for_end, wait_for_state
from support.controller_thread import ControllerThread, serving
from support.ports import free_port
from support.process_engine import ProcessEngine, Slots, slot_processes
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.workers.worker_record import WorkerLimits
from iris.cluster.engine.base import GangState, GangStatus
from iris.cluster.lease_terms import DEFAULT_LEASE_S
from iris.cluster.logs.directories import LogDirectories
from iris.rpc import cluster_pb2 as pb


class World:
    """A controller on such an engine."""

    def __init__(self, directory: Path, slots: Slots, engine: ProcessEngine, controller: ControllerThread) -> None:
        self.directory = directory
        self.slots = slots
        self.engine = engine
        self.controller = controller

    def workers(self) -> set[str]:
        with RemoteClusterClient(self.controller.address) as client:
            return {worker.worker_id for worker in client.list_workers()}

    def until_forgotten(self) -> None:
        wait_until(
            lambda: not self.slots.processes and not self.workers(), "the end of all workers, and of their names"
        )


@contextmanager
def on_slots(
    directory: Path,
    slots: Slots,
    engine: ProcessEngine | None = None,
    *,
    port: int = 0,
    limits: WorkerLimits | None = None,
    lease_s: float = DEFAULT_LEASE_S,
) -> Iterator[World]:
    engine = engine or ProcessEngine(slots)
    keeping = Keeping(LogDirectories(directory / "kept"))
    store = Store(directory / "controller.db")
    port = port or free_port()  # A test may start the next controller on the same port.
    with serving(engine, store, kept_logs=keeping, port=port, worker_limits=limits, lease_s=lease_s) as controller:
        slots.address = controller.address
        yield World(directory, slots, engine, controller)


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[Slots]:
    with slot_processes(tmp_path / "workers") as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, slots: Slots) -> Iterator[World]:
    with on_slots(tmp_path, slots) as made:
        yield made


@pytest.fixture
def client(world: World) -> Iterator[IrisClient]:
    with IrisClient.remote(world.controller.address) as made:
        yield made


def lines_of(client: IrisClient, job_id: str, task_index: int = 0) -> list[str]:
    return [line.message for line in client.fetch_task_logs(job_id, task_index)]


def test_last_lines_are_readable_after_the_workers_have_ended(world: World, client: IrisClient) -> None:
    job = client.run(shell("seq 100000; echo end $IRIS_TASK_INDEX"), replicas=3)
    assert job.wait().state == pb.JOB_STATE_SUCCEEDED
    world.until_forgotten()
    for task_index in range(3):
        numbers = [str(number) for number in range(1, 100001)]
        assert lines_of(client, job.job_id, task_index) == [*numbers, f"end {task_index}"]
    assert len(world.slots.ended) == 3
    assert client.status(job.job_id).state == pb.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("route", ["controller", "auto"])
def test_follower_gets_every_line_when_the_worker_ends(world: World, client: IrisClient, route: str) -> None:
    gate = world.directory / "gate"
    script = f"while [ ! -e {gate} ]; do echo .; sleep 0.01; done; seq 100000"
    with RemoteClusterClient(world.controller.address) as cluster:
        job_id = launch(cluster, shell(script), replicas=2)
        wait_for_state(cluster, job_id, pb.JOB_STATE_RUNNING)
    lines = []
    notices: list[str] = []
    for line in client.stream_task_logs(job_id, 1, route=route, on_notice=notices.append):
        if not lines:
            gate.touch()
        lines.append(line.message)
    assert [line for line in lines if line != "."] == [str(number) for number in range(1, 100001)]
    world.until_forgotten()
    assert lines_of(client, job_id, 1) == lines


def test_job_ends_before_its_logs_are_uploaded_and_other_jobs_start_meanwhile(tmp_path: Path, slots: Slots) -> None:
    with (
        on_slots(tmp_path, slots, limits=WorkerLimits(drain_s=6)) as world,
        RemoteClusterClient(world.controller.address) as client,
    ):
        gate = tmp_path / "gate"
        # Its directory cannot be read any more once it is a file: nothing of the log can be handed over.
        first = launch(client, shell(f"echo line; while [ ! -e {gate} ]; do sleep 0.05; done"))
        wait_for_state(client, first, pb.JOB_STATE_RUNNING)
        kept = tmp_path / "kept"
        wait_until(lambda: list(kept.glob("*/*/*")), "the log's beginning")
        for folder in kept.iterdir():
            folder.rename(tmp_path / "away")
            folder.touch()
        gate.touch()
        assert wait_for_end(client, first).state == pb.JOB_STATE_SUCCEEDED
        assert set(slots.processes) == {f"{first}@0.0"}, "it still waits to hand over"
        assert wait_for_end(client, launch(client, ["true"])).state == pb.JOB_STATE_SUCCEEDED
        world.until_forgotten()


def test_gang_of_a_killed_controller_is_drained_by_the_next_controller(tmp_path: Path, slots: Slots) -> None:
    gate = tmp_path / "gate"
    with on_slots(tmp_path, slots) as world, RemoteClusterClient(world.controller.address) as client:
        port = int(world.controller.address.rpartition(":")[2])
        job_id = launch(client, shell(f"while [ ! -e {gate} ]; do sleep 0.05; done; seq 100000"))
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
        (worker,) = slots.processes.values()
        world.engine.reachable = False  # it cannot release
        gate.touch()
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
    assert worker.poll() is None
    engine = world.engine.for_next_controller()
    with (
        on_slots(tmp_path, slots, engine, port=port) as world,
        IrisClient.remote(world.controller.address) as client,
    ):
        world.until_forgotten()
        assert engine.released == [f"{job_id}@0"]
        assert lines_of(client, job_id) == [str(number) for number in range(1, 100001)]


@pytest.mark.parametrize("rendezvous", [0, pb.RENDEZVOUS_TORCH], ids=["alone", "that meets"])
def test_running_gang_continues_after_a_restart_although_the_engine_reports_no_slots_yet(
    tmp_path: Path, slots: Slots, rendezvous: int
) -> None:
    gate = tmp_path / "gate"
    with on_slots(tmp_path, slots) as world, RemoteClusterClient(world.controller.address) as client:
        port = int(world.controller.address.rpartition(":")[2])
        command = shell(f"while [ ! -e {gate} ]; do sleep 0.05; done")
        job_id = launch(client, command, replicas=2, rendezvous=rendezvous)
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
    engine = world.engine.for_next_controller()
    request, status = engine._gangs[f"{job_id}@0"]
    engine._gangs[f"{job_id}@0"] = request, GangStatus(GangState.WAITING, reason="it is being looked for")
    engine.granting = False
    with (
        on_slots(tmp_path, slots, engine, port=port, limits=WorkerLimits(unplaced_s=0)) as world,
        RemoteClusterClient(world.controller.address) as client,
    ):
        wait_until(lambda: len(world.workers()) == 2, "its workers to come back")
        waits = launch(client, ["true"])  # said with a pass
        wait_until(lambda: "takes its time" in client.get_job_status(waits).status_message, "passes that have seen it")
        assert not client.list_machines().machines[0].holdings
        assert len(world.workers()) == 2

        def find() -> None:
            engine._gangs[f"{job_id}@0"] = request, status

        world.controller.call(find)
        wait_until(lambda: client.list_machines().machines[0].holdings, "it to be found")
        gate.touch()
        job = wait_for_end(client, job_id)
        assert job.state == pb.JOB_STATE_SUCCEEDED
        assert [len(task.attempts) for task in job.tasks] == [1, 1]


def test_drain_does_not_wait_for_a_dead_worker(world: World, client: IrisClient) -> None:
    job = client.run(["sleep", "300"], replicas=2, max_retries_preemption=0)
    wait_until(lambda: client.status(job.job_id).state == pb.JOB_STATE_RUNNING, "it to run")
    gang_id = f"{job.job_id}@0"
    os.kill(world.slots.processes[f"{gang_id}.1"].pid, signal.SIGKILL)
    world.controller.call(lambda: world.engine.lose(gang_id, 1))
    assert job.wait(raise_on_failure=False).state == pb.JOB_STATE_WORKER_FAILED
    world.until_forgotten()


def test_no_worker_remains_after_many_jobs_have_ended(world: World, client: IrisClient) -> None:
    for _ in range(3):
        jobs = [client.run(shell("echo $IRIS_JOB_ID"), name=unique("one")) for _ in range(2)]
        for job in jobs:
            assert job.wait().state == pb.JOB_STATE_SUCCEEDED
            assert lines_of(client, job.job_id) == [job.job_id]
    world.until_forgotten()
    assert world.controller.call(lambda: len(world.controller.controller.fleet.workers)) == 0


def test_worker_of_a_released_gang_is_refused(world: World, client: IrisClient) -> None:
    world.engine.starting = lambda worker_id: False
    job = client.run(["true"])
    gang_id = f"{job.job_id}@0"
    wait_until(lambda: gang_id in world.engine.submitted, "its room")
    wait_until(lambda: "still starting" in client.status(job.job_id).status_message, "the wait for its worker")
    job.terminate()
    wait_until(lambda: gang_id in world.engine.released, "the release of its room")
    world.slots.start(f"{gang_id}.0")
    late = world.slots.processes[f"{gang_id}.0"]
    late.wait(30)
    assert world.workers() == set()
    said = (world.slots.directory / f"{gang_id}.0.log").read_text()
    assert f"the controller refuses this worker: no gang of this cluster has worker '{gang_id}.0' any more" in said


def test_worker_that_its_engine_could_not_end_is_ended_by_the_controller(world: World, client: IrisClient) -> None:
    job = client.run(["sleep", "300"])
    wait_until(lambda: client.status(job.job_id).state == pb.JOB_STATE_RUNNING, "it to run")
    worker = world.slots.processes.pop(f"{job.job_id}@0.0")  # so the engine does not find it any more
    try:
        job.terminate()
        assert job.wait(raise_on_failure=False).state == pb.JOB_STATE_KILLED
        wait_until(lambda: not world.workers(), "its name to be forgotten")
        worker.wait(30)
        assert world.workers() == set()
    finally:
        worker.kill()
        worker.wait()


WRITER = """
import time
number = 0
while True:
    number += 1
    print(number, time.time(), flush=True)
    time.sleep(0.01)
"""


def test_log_of_a_lost_machine_misses_at_most_two_seconds(world: World, client: IrisClient) -> None:
    job = client.run([sys.executable, "-S", "-c", WRITER], max_retries_preemption=0)
    worker_id = f"{job.job_id}@0.0"
    wait_until(lambda: len(lines_of(client, job.job_id)) > 200, "enough lines")
    worker = psutil.Process(world.slots.processes[worker_id].pid)
    machine = [worker, *worker.children(recursive=True)]  # its reaper among them
    gone_s = time.time()
    for process in machine:
        process.suspend()  # none of them sees the others go
    for process in machine:
        process.kill()
    world.slots.processes[worker_id].wait()
    shutil.rmtree(world.slots.directory / worker_id)
    world.controller.call(lambda: world.engine.lose(f"{job.job_id}@0", 0))
    assert job.wait(raise_on_failure=False).state == pb.JOB_STATE_WORKER_FAILED
    world.until_forgotten()
    with client.stream_task_logs(job.job_id, 0, follow=False, on_notice=lambda text: None) as stream:
        lines = [line for line in stream if line.source == "stdout" and not line.partial and not line.missing_bytes]
        end = stream.ends[0]
    assert [int(line.message.split()[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert float(lines[-1].message.split()[1]) > gone_s - 2.0
    assert end.complete
    assert end.missing_reason


@pytest.mark.parametrize("restarted", [False, True])
def test_attempts_of_a_gang_forgotten_by_its_engine_continue(tmp_path: Path, slots: Slots, restarted: bool) -> None:
    """Its head may have been replaced: the workers know better."""
    gate = tmp_path / "gate"
    with ExitStack() as stack:
        world = stack.enter_context(on_slots(tmp_path, slots))
        port = int(world.controller.address.rpartition(":")[2])
        client = stack.enter_context(RemoteClusterClient(world.controller.address))
        job_id = launch(client, shell(f"while [ ! -e {gate} ]; do sleep 0.05; done; echo end"), replicas=2)
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
        if restarted:
            stack.close()
            world.engine.forget(f"{job_id}@0")
            world = stack.enter_context(on_slots(tmp_path, slots, world.engine.for_next_controller(), port=port))
            client = stack.enter_context(RemoteClusterClient(world.controller.address))
        else:
            world.controller.call(lambda: world.engine.forget(f"{job_id}@0"))
        other = launch(client, ["true"])  # by whose end the engine has been looked at, several times
        assert wait_for_end(client, other).state == pb.JOB_STATE_SUCCEEDED
        assert client.get_job_status(job_id).state == pb.JOB_STATE_RUNNING
        gate.touch()
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
        assert [task.preemption_count for task in client.list_tasks(job_id)] == [0, 0]
        wait_until(lambda: not client.list_workers(), "the workers to be forgotten")


def test_attempts_of_a_gang_forgotten_by_its_engine_are_lost_when_the_lease_expires(
    tmp_path: Path, slots: Slots
) -> None:
    with (
        # On a busy machine, the worker that lives may be silent for some seconds.
        on_slots(tmp_path, slots, lease_s=15) as world,
        RemoteClusterClient(world.controller.address) as client,
    ):
        script = "[ $IRIS_ATTEMPT_ID = 0 ] || exit 0; exec sleep 300"
        job_id = launch(client, shell(script), replicas=2)
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
        world.controller.call(lambda: world.engine.forget(f"{job_id}@0"))
        worker = client.get_task_status(job_id, 1).worker_id
        slots.processes[worker].kill()
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
        one = client.get_task_status(job_id, 1)
        assert "silent for longer than its lease" in one.attempts[0].error
        assert (one.preemption_count, client.get_task_status(job_id, 0).preemption_count) == (1, 0)
