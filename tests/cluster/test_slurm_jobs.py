"""Whole jobs on a real Slurm, through the real controller."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contracts.end_to_end import test_command_runs_in_the_directory_of_a_running_task as run_command
from contracts.end_to_end import test_requested_and_other_ports_are_reached_through_the_controller as reach_ports
from support.cluster import is_alive, launch, shell, wait_for_end
from support.slurm_cluster import Node, SlurmCluster, skip_where_there_is_none, worker_pid
from support.standing_cluster import Proofs, StandingCluster, standing_cluster
from support.waiting import wait_until

from iris.client import IrisClient
from iris.rpc import cluster_pb2

skip_where_there_is_none()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """One for all tests of this module; each leaves it empty."""
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), [Node("n0"), Node("n1")]) as slurm:
        yield slurm


@pytest.fixture
def controller(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandingCluster]:
    """A real controller with this engine, and its state directory."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    with standing_cluster(
        tmp_path / "iris", engine="slurm", slurm_options=("--partition=main",), lease=20.0
    ) as controller:
        yield controller
    cluster.wait_until_empty()


def test_task_on_slurm_is_reached_through_the_controller_by_port_and_by_command(controller: StandingCluster) -> None:
    with IrisClient.remote(controller.address) as client:
        reach_ports(client)
        run_command(client)


def test_job_on_slurm_runs_from_submission_to_result(controller: StandingCluster) -> None:
    script = "echo out $IRIS_TASK_INDEX $CUDA_VISIBLE_DEVICES; env | grep -c SLURM_JOB; exit $IRIS_TASK_INDEX"
    with controller.client() as client:
        job_id = launch(client, shell(script), replicas=2, max_task_failures=1, **one_gpu())
        job = wait_for_end(client, job_id)
        assert [task.state for task in job.tasks] == [cluster_pb2.TASK_STATE_SUCCEEDED, cluster_pb2.TASK_STATE_FAILED]
        assert job.tasks[1].exit_code == 1
        for index in range(2):
            lines = [entry.data for entry in client.fetch_task_logs(f"{job_id}/task-{index}")]
            words = lines[0].split()
            assert words[:2] == ["out", str(index)]
            assert words[2] in ("0", "1"), "the task sees its own device"
            assert lines[1] == "0", "and nothing of Slurm's job"


def test_task_on_slurm_is_warned_before_the_time_limit_of_its_allocation(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    options = ("--partition=main", "--time=10")
    with (
        standing_cluster(tmp_path / "iris", engine="slurm", slurm_options=options, lease=20.0) as controller,
        controller.client() as client,
    ):
        job_id = launch(client, shell("trap 'exit 0' USR1; sleep 600 & wait"), timeout_warning_seconds=600)
        assert wait_for_end(client, job_id).state == cluster_pb2.JOB_STATE_SUCCEEDED
        lines = [entry.data for entry in client.fetch_task_logs(f"{job_id}/task-0") if entry.source == "build"]
        assert any("sent SIGUSR1" in line and "the time limit of the allocation" in line for line in lines)
    cluster.wait_until_empty()


def test_lost_worker_on_slurm_causes_one_retry_of_its_gang(controller: StandingCluster, tmp_path: Path) -> None:
    proofs = Proofs(tmp_path / "proofs")
    with controller.client() as client:
        job_id = launch(client, proofs.command(), replicas=2)
        for index in range(2):
            proofs.wait_for(index)
        first = client.get_task_status(job_id, 1)
        worker = wait_until(lambda: worker_pid(first.worker_id), "the worker")
        os.kill(worker, signal.SIGKILL)
        for index in range(2):
            proofs.wait_for(index, 1)
        proofs.open()
        job = wait_for_end(client, job_id)
        assert job.state == cluster_pb2.JOB_STATE_SUCCEEDED
        assert (job.preemption_count, job.failure_count) == (1, 0)
        assert job.tasks[1].attempts[0].is_worker_failure
        assert job.tasks[0].attempts[0].state == cluster_pb2.TASK_STATE_KILLED
        for index in range(2):
            proofs.assert_no_overlap(index)
            lines = [entry.data for entry in client.fetch_task_logs(f"{job_id}/task-{index}")]
            assert lines == ["went on"]


def test_job_continues_without_its_controller(controller: StandingCluster, tmp_path: Path) -> None:
    proofs = Proofs(tmp_path / "proofs")
    with controller.client() as client:
        job_id = launch(client, proofs.command(3), replicas=2)
    for index in range(2):
        proofs.wait_for(index)
    controller.kill()
    for index in range(2):
        proofs.wait_for_more(index)
    proofs.open()
    server = controller.start()
    assert server.found["workers_running"] == 2
    with controller.client() as client:
        job = wait_for_end(client, job_id)
        assert [task.exit_code for task in job.tasks] == [3, 3]
        assert [len(task.attempts) for task in job.tasks] == [1, 1]


def test_jobs_end_with_the_cluster_and_their_logs_are_kept(controller: StandingCluster, tmp_path: Path) -> None:
    proofs = Proofs(tmp_path / "proofs")
    with controller.client() as client:
        job_id = launch(client, ["sh", "-c", f"echo last words; exec {shlex.join(proofs.command())}"])
        proofs.wait_for()
        worker = wait_until(lambda: worker_pid(client.get_task_status(job_id, 0).worker_id), "the worker")
    assert controller.server is not None
    controller.server.stop()
    assert not is_alive(worker)
    server = controller.start()
    assert server.found["workers_running"] == 0
    with controller.client() as client:
        lines = [entry.data for entry in client.fetch_task_logs(f"{job_id}/task-0", attempt_id=0)]
        assert lines == ["last words"]
        client.terminate_job(job_id)
        wait_for_end(client, job_id)


def one_gpu() -> dict[str, Any]:
    return {"resources": cluster_pb2.ResourceSpecProto(device={"gpu": {"count": 1}})}
