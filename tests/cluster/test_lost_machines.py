"""Machines that lose their power or their network in mid-job. What ends is tried again elsewhere, never twice at once,
and what was written is read, up to the last two seconds of a machine that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine_cluster import (
    PROMISED_S,
    MachineCluster,
    Witness,
    following,
    machine_cluster,
    now_ns,
    read_log,
)
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.cluster.types import ResourceSpec
from iris.rpc import cluster_pb2 as pb

LEASE_S = 4.0


@pytest.fixture(params=["shared workers", "a worker for each slot"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MachineCluster]:
    options = ["--worker-per-slot"] if request.param == "a worker for each slot" else []
    with machine_cluster(tmp_path / "lan", 2, LEASE_S, *options) as started:
        yield started


@pytest.fixture
def client(cluster: MachineCluster) -> Iterator[IrisClient]:
    with cluster.client() as remote:
        yield remote


@pytest.fixture
def witness(cluster: MachineCluster) -> Witness:
    return Witness(cluster.lan.directory / "witness")


def run(client: IrisClient, witness: Witness, replicas: int = 1, cpu: int = 1, **options: object) -> Job:
    """A job of witnesses that run."""
    job = client.run(witness.command(), replicas=replicas, resources=ResourceSpec(cpu=cpu), **options)  # type: ignore[arg-type]
    for index in range(replicas):
        witness.wait_for(index)
    wait_until(lambda: job.status().state == pb.JOB_STATE_RUNNING, "the job to be known to run")
    return job


def attempts(job: Job, index: int = 0) -> list[tuple[int, bool]]:
    """How each attempt of a task has ended, and whether that was its worker's fault."""
    status = job.tasks()[index].status()
    return [(attempt.state, attempt.is_worker_failure) for attempt in status.attempts]


def wait_for_end(job: Job) -> pb.JobStatus:
    return job.wait(timeout=60, stream_logs=False, raise_on_failure=False)


LOST = (pb.TASK_STATE_WORKER_FAILED, True)
SUCCEEDED = (pb.TASK_STATE_SUCCEEDED, False)
PEER = (pb.TASK_STATE_KILLED, False)


def test_the_power_of_a_machine_fails(cluster: MachineCluster, client: IrisClient, witness: Witness) -> None:
    job = run(client, witness, replicas=2, cpu=3)  # one on each machine
    lost = cluster.machine_of(job.tasks()[0].status().worker_id)
    with following(client, job.job_id) as follower:
        wait_until(lambda: len(follower.lines) > 300, "three seconds of lines")
        lost.power_off()
        off_ns = now_ns()
        wait_until(lambda: job.status().preemption_count, "the loss to be known")
        assert job.status().state == pb.JOB_STATE_PENDING, "the gang waits for room: the other machine has none for two"
        cluster.lan.boot(lost)
        cluster.start_worker(lost)
        witness.wait_for(0, 1)
        witness.wait_for(1, 1)
        witness.open()
        assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
        follower.finish()
    assert attempts(job, 0) == [LOST, SUCCEEDED]
    assert attempts(job, 1) == [PEER, SUCCEEDED]
    first, second = (task.status() for task in job.tasks())
    assert (first.preemption_count, first.failure_count) == (1, 0)
    assert (second.preemption_count, second.failure_count) == (0, 0), "a peer's end costs nothing"
    assert "silent for longer than its lease of 4 s" in first.attempts[0].error
    for index in range(2):
        witness.assert_no_overlap(index)
    log = read_log(client, job.job_id)
    should_be_there = [written for written in witness.times() if written < off_ns - PROMISED_S * 1e9]
    assert len(should_be_there) > 50
    assert log.written_ns[: len(should_be_there)] == should_be_there
    assert log.end.missing_reason, "that the last moments may be missing is told"
    follower.check_whole(0)
    follower.check_whole(1)
    assert len(follower.of(0)) >= len(should_be_there)
    assert follower.of(1)[-1] == "end"
    peers = read_log(client, job.job_id, task_index=1)
    assert len(peers.written_ns) == len(witness.times(1)), "what its peer wrote is whole"
