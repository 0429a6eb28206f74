"""The wall clock of a whole cluster is set, while it runs and between two of its lives: nothing ends by that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import launch, shell, wait_for_end, wait_for_state
from support.standing_cluster import Proofs, StandingCluster, standing_cluster
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.rpc import cluster_pb2 as pb
from iris.system.clock import VARIABLE

LEASE_S = 2.0
LONGER_LEASE_S = 16.0  # than a restart of the controller takes on a busy machine
HOUR_S = 3600
BACK, AHEAD, FAR_AHEAD = -HOUR_S, 30 * HOUR_S, 40 * 24 * HOUR_S


class Clock:
    """The wall clock of the cluster, set by a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_text("0")

    def set(self, seconds: int) -> None:
        """So many seconds from the right time."""
        beside = self._path.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.rename(self._path)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "clock"))
    monkeypatch.setenv("IRIS_TOKEN", token(ttl_s=365 * 24 * HOUR_S))  # what a person made ends by the wall clock
    return Clock(tmp_path / "clock")


@pytest.fixture
def proofs(tmp_path: Path) -> Proofs:
    return Proofs(tmp_path / "proofs")


@pytest.fixture
def cluster(tmp_path: Path, clock: Clock, request: pytest.FixtureRequest) -> Iterator[StandingCluster]:
    with standing_cluster(tmp_path / "state", lease=getattr(request, "param", LEASE_S)) as started:
        yield started


with_longer_lease = pytest.mark.parametrize("cluster", [LONGER_LEASE_S], indirect=True)


def wait_for_heartbeats(client: RemoteClusterClient, count: int = 6) -> None:
    """Until the worker was heard so often; by default until more than its lease has passed."""
    seen: set[int] = set()

    def heard() -> bool:
        seen.update(worker.last_heartbeat_ms for worker in client.list_workers())
        return len(seen) > count

    wait_until(heard, f"{count} heartbeats")


def test_running_task_survives_each_step_of_the_wall_clock(
    cluster: StandingCluster, clock: Clock, proofs: Proofs
) -> None:
    with cluster.client() as client:
        job_id = launch(client, proofs.command())
        proofs.wait_for()
        for step_s in (BACK, 0, AHEAD, 0, FAR_AHEAD, 0):
            clock.set(step_s)
            wait_for_heartbeats(client)
            assert wait_for_end(client, launch(client, ["true"])).state == pb.JOB_STATE_SUCCEEDED
        proofs.open()
        (task,) = wait_for_end(client, job_id).tasks
    assert (task.state, len(task.attempts)) == (pb.TASK_STATE_SUCCEEDED, 1)


@with_longer_lease
def test_task_survives_a_step_of_the_wall_clock_and_a_controller_restart(
    cluster: StandingCluster, clock: Clock, proofs: Proofs
) -> None:
    with cluster.client() as client:
        job_id = launch(client, proofs.command(), job_timeout_seconds=600)
        proofs.wait_for()
    for step_s in (BACK, AHEAD):
        cluster.kill()
        clock.set(step_s)
        cluster.start()
        with cluster.client() as client:
            wait_for_heartbeats(client, 1)
            assert wait_for_end(client, launch(client, ["true"])).state == pb.JOB_STATE_SUCCEEDED
    proofs.open()
    with cluster.client() as client:
        (task,) = wait_for_end(client, job_id).tasks
    assert (task.state, len(task.attempts)) == (pb.TASK_STATE_SUCCEEDED, 1), task


@with_longer_lease
def test_logs_are_kept_when_the_controller_starts_with_a_clock_far_ahead(
    cluster: StandingCluster, clock: Clock
) -> None:
    with cluster.client() as client:
        job_id = launch(client, ["echo", "kept"])
        wait_for_end(client, job_id)
    cluster.kill()
    clock.set(FAR_AHEAD)
    cluster.start()
    with cluster.client() as client:
        wait_for_heartbeats(client, 2)  # by then it has looked at what is to be removed
        assert [entry.data for entry in client.fetch_task_logs(f"{job_id}/task-0")] == ["kept"]


def test_new_jobs_start_after_a_step_of_the_wall_clock_and_a_worker_restart(
    cluster: StandingCluster, clock: Clock
) -> None:
    with cluster.client() as client:
        assert wait_for_end(client, launch(client, ["true"])).state == pb.JOB_STATE_SUCCEEDED
        for step_s in (BACK, AHEAD):
            before = cluster.worker()
            clock.set(step_s)
            cluster.kill_worker()
            wait_until(lambda before=before: cluster.worker() != before, "another process of the worker")
            assert wait_for_end(client, launch(client, ["true"])).state == pb.JOB_STATE_SUCCEEDED


@with_longer_lease
def test_waiting_job_keeps_its_scheduling_timeout_after_a_clock_step_and_a_controller_restart(
    cluster: StandingCluster, clock: Clock, proofs: Proofs
) -> None:
    with cluster.client() as client:
        (worker,) = wait_until(client.list_workers, "the worker")
        cores = worker.metadata.cpu_count
        running = launch(client, proofs.command(), resources=pb.ResourceSpecProto(cpu=cores))
        wait_for_state(client, running, pb.JOB_STATE_RUNNING)
        waits = launch(client, shell("true"), resources=pb.ResourceSpecProto(cpu=cores), scheduling_timeout_seconds=600)
    cluster.kill()
    clock.set(AHEAD)
    cluster.start()
    with cluster.client() as client:
        wait_for_heartbeats(client, 1)
        assert client.get_job_status(waits).state == pb.JOB_STATE_PENDING
        proofs.open()
        assert wait_for_end(client, waits).state == pb.JOB_STATE_SUCCEEDED
        assert wait_for_end(client, running).state == pb.JOB_STATE_SUCCEEDED
