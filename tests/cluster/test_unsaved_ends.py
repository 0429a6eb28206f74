"""What the controller cannot save is not shown: a state that readers have seen is there after any kill."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import launch, shell, wait_for_end, wait_for_state
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.waiting import wait_until
from support.worker_process import running_worker

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.engine.base import Resources
from iris.cluster.types import is_job_finished
from iris.errors import ResourceExhaustedError
from iris.rpc import cluster_pb2 as pb

WAITS = "while [ ! -e {gate} ]; do sleep 0.05; done"


class Disk(Store):
    """A store that fails to write while its disk is full."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.is_full = False
        self.failures = 0

    def write(self, changes: Changes) -> None:
        if self.is_full:
            self.failures += 1
            raise ResourceExhaustedError("no space left on device")
        super().write(changes)


class World:
    """A controller with such a disk, and a worker."""

    def __init__(self, directory: Path, disk: Disk, engine: FakeEngine, controller: ControllerThread) -> None:
        self.directory = directory
        self.disk = disk
        self.engine = engine
        self.controller = controller

    def until_end_is_known(self, client: RemoteClusterClient, job_id: str) -> None:
        """Until the controller knows that a job has ended, and has failed to save that more than once."""
        jobs = self.controller.controller.jobs.by_id
        wait_until(lambda: is_job_finished(jobs[job_id].job.state), "the end, in the controller's memory")
        failures = self.disk.failures
        wait_until(lambda: self.disk.failures > failures + 1, "the end not to be saved")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    disk = Disk(tmp_path / "controller.db")
    engine = FakeEngine({"w": Resources.of(cpu=8, memory_bytes=2**30)})
    with serving(engine, disk) as controller, running_worker(controller.address, tmp_path / "worker"):
        yield World(tmp_path, disk, engine, controller)


def test_readers_do_not_see_the_end_of_a_job_before_it_is_saved(world: World) -> None:
    gate = world.directory / "gate"
    with RemoteClusterClient(world.controller.address) as client:
        job_id = launch(client, shell(WAITS.format(gate=gate)), max_retries_failure=1)
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
        world.disk.is_full = True
        gate.touch()
        world.until_end_is_known(client, job_id)
        job = client.get_job_status(job_id)
        assert job.state == pb.JOB_STATE_RUNNING
        assert job.tasks[0].state == pb.TASK_STATE_RUNNING
        assert "newer changes are not shown because they cannot be saved now: no space left" in job.status_message
        (listed,) = client.list_jobs()
        assert listed.state == pb.JOB_STATE_RUNNING
        assert client.get_task_status(job_id, 0).state == pb.TASK_STATE_RUNNING
        (task,) = client.list_tasks(job_id)
        assert task.state == pb.TASK_STATE_RUNNING
        first = next(client.watch_job(job_id))
        assert first.state == pb.JOB_STATE_RUNNING
        world.disk.is_full = False
        job = wait_for_end(client, job_id)
        assert (job.state, job.status_message) == (pb.JOB_STATE_SUCCEEDED, "")


def test_waiting_watching_and_following_clients_learn_of_the_end_of_a_job_once_it_is_saved(world: World) -> None:
    gate = world.directory / "gate"
    with (
        IrisClient.remote(world.controller.address) as client,
        RemoteClusterClient(world.controller.address) as cluster,
    ):
        job = client.run(["sh", "-c", f"echo begun; {WAITS.format(gate=gate)}; echo ended"])
        wait_for_state(cluster, job.job_id, pb.JOB_STATE_RUNNING)
        saved: list[bool] = []
        lines: list[bytes] = []

        def wait() -> None:
            job.wait(timeout=60)
            saved.append(not world.disk.is_full)

        def follow() -> None:
            for entry in job.logs(follow=True):
                lines.append(entry.data)
            saved.append(not world.disk.is_full)

        waiters = [threading.Thread(target=work) for work in (wait, follow)]
        for waiter in waiters:
            waiter.start()
        wait_until(lambda: lines, "the first line")
        world.disk.is_full = True
        gate.touch()
        world.until_end_is_known(cluster, job.job_id)
        wait_until(lambda: b"ended" in lines, "the last line")
        assert saved == []
        world.disk.is_full = False
        for waiter in waiters:
            waiter.join(60)
        assert saved == [True, True]


def test_result_and_the_end_of_child_jobs_follow_the_saved_end_of_a_job(world: World) -> None:
    gate = world.directory / "gate"

    def parent(gate: str) -> str:
        import os
        import time

        with IrisClient.remote() as inner:
            inner.run(["sleep", "600"], name="child")
            while not os.path.exists(gate):
                time.sleep(0.05)
        return "value"

    with (
        IrisClient.remote(world.controller.address) as client,
        RemoteClusterClient(world.controller.address) as cluster,
    ):
        job = client.run(parent, args=[str(gate)])
        child_id = f"{job.job_id}/child"
        wait_until(lambda: [one for one in cluster.list_jobs() if one.job_id == child_id], "the child")
        wait_for_state(cluster, child_id, pb.JOB_STATE_RUNNING)
        world.disk.is_full = True
        gate.touch()
        world.until_end_is_known(cluster, job.job_id)
        jobs = world.controller.controller.jobs.by_id
        assert jobs[child_id].job.ending is None, "it ends with its parent's end, which may not have happened"
        assert cluster.get_task_status(job.job_id, 0, include_result=True).serialized_result == b""
        world.disk.is_full = False
        assert job.results(timeout=60) == ["value"]
        assert wait_for_end(cluster, child_id).state == pb.JOB_STATE_KILLED


def test_job_with_an_unsaved_end_runs_again_after_a_kill(world: World) -> None:
    gate, runs = world.directory / "gate", world.directory / "runs"
    with RemoteClusterClient(world.controller.address) as client:
        job_id = launch(client, shell(f"echo run >> {runs}; {WAITS.format(gate=gate)}"))
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
        world.disk.is_full = True
        gate.touch()
        world.until_end_is_known(client, job_id)
        seen = client.get_job_status(job_id).state
    remembered = {stored.job.job_id: stored.job.state for stored in world.disk.load_jobs([job_id]).values()}
    assert remembered == {job_id: seen}, "what the next controller will know"
