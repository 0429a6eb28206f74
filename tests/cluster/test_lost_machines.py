"""Machines that lose their power or their network in mid-job. What ends is tried again elsewhere, never twice at once,
and what was written is read, up to the last two seconds of a machine that is gone."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine_cluster import (
    LOST,
    PEER,
    PROMISED_S,
    SUCCEEDED,
    MachineCluster,
    Witness,
    attempts,
    following,
    machine_cluster,
    now_ns,
    read_log,
)
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.client.logs.read_options import Route
from iris.cluster.types import ResourceSpec
from iris.rpc import cluster_pb2 as pb

LEASE_S = 4.0


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MachineCluster]:
    """Two machines, with a standing worker each, and a short lease; or as a test says, with options of the engine."""
    lease_s, *options = getattr(request, "param", (LEASE_S,))
    with machine_cluster(tmp_path / "lan", 2, lease_s, *options) as started:
        yield started


def both_kinds_of_workers(lease_s: float) -> pytest.MarkDecorator:
    """The test runs with standing workers, and with one for each slot."""
    params = [(lease_s,), (lease_s, "--worker-per-slot")]
    return pytest.mark.parametrize("cluster", params, indirect=True, ids=["standing workers", "a worker for each slot"])


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


def wait_for_end(job: Job) -> pb.JobStatus:
    return job.wait(timeout=60, stream_logs=False, raise_on_failure=False)


@both_kinds_of_workers(LEASE_S)
def test_gang_restarts_when_a_machine_loses_its_power(
    cluster: MachineCluster, client: IrisClient, witness: Witness
) -> None:
    job = run(client, witness, replicas=2, cpu=3)  # one on each machine
    lost = cluster.machine_of(job.tasks()[0].status().worker_address)
    lost.power_off()
    wait_until(lambda: job.status().preemption_count, "the loss to be known")
    wait_until(lambda: "waiting: " in job.status().status_message, "the gang to wait: one machine has no room for two")
    cluster.lan.boot(lost)
    cluster.start_worker(lost)
    witness.wait_for(0, 1)
    witness.wait_for(1, 1)
    witness.open()
    assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
    assert attempts(job, 0) == [LOST, SUCCEEDED]
    assert attempts(job, 1) == [PEER, SUCCEEDED]
    first, second = (task.status() for task in job.tasks())
    assert (first.preemption_count, first.failure_count) == (1, 0)
    assert (second.preemption_count, second.failure_count) == (0, 0), "a peer's end costs nothing"
    assert "silent for longer than its lease of 4 s" in first.attempts[0].error
    for index in range(2):
        witness.assert_no_overlap(index)
    log = read_log(client, job.job_id, task_index=1)
    assert log.written_ns == witness.times(1), "what its peer wrote is whole"
    assert not log.missing


@pytest.mark.parametrize("route", ["auto", "controller"])
def test_log_of_a_machine_that_loses_its_power_misses_only_the_last_lines(
    cluster: MachineCluster, client: IrisClient, witness: Witness, route: Route
) -> None:
    job = run(client, witness)
    with following(client, job.job_id, route=route) as follower:
        wait_until(lambda: len(follower.lines) > 300, "three seconds of lines")
        lost = cluster.machine_of(job.tasks()[0].status().worker_address)
        off_ns = now_ns()
        lost.power_off()
        witness.wait_for(0, 1)
        wait_until(lambda: follower.of(1), "who follows to go on to the next attempt")
        witness.open()
        assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
        follower.finish()
    assert attempts(job) == [LOST, SUCCEEDED]
    witness.assert_no_overlap()
    log = read_log(client, job.job_id)
    promised = [written for written in witness.times() if written < off_ns - PROMISED_S * 1e9]
    assert len(promised) > 50
    assert log.written_ns[: len(promised)] == promised
    assert log.end.missing_reason, "that the last moments may be missing is told"
    assert any(log.end.missing_reason in notice for notice in follower.notices)
    follower.check_whole(0)
    follower.check_whole(1)
    assert len(follower.of(0)) >= len(promised)
    assert follower.of(1)[-1] == "end"


# A busy machine needs seconds to notice a silence and to end it.
@pytest.mark.parametrize("cluster", [(12.0,)], indirect=True)
@pytest.mark.parametrize("route", ["auto", "controller"])
def test_network_partition_shorter_than_the_lease_ends_no_attempt(
    cluster: MachineCluster, client: IrisClient, witness: Witness, route: Route
) -> None:
    job = run(client, witness, replicas=2, cpu=3)
    worker_id = job.tasks()[0].status().worker_id
    machine = cluster.machine_of(job.tasks()[0].status().worker_address)
    with following(client, job.job_id, route=route) as follower:
        follower.wait_for_more()
        machine.cut()
        wait_until(lambda: health(client, worker_id).consecutive_failures, "its silence to be noticed")
        machine.heal()
        wait_until(lambda: not health(client, worker_id).consecutive_failures, "it to be heard again")
        follower.wait_for_more()
        witness.open()
        assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
        follower.finish()
    for index in range(2):
        assert attempts(job, index) == [SUCCEEDED]
        log = read_log(client, job.job_id, task_index=index)
        assert log.written_ns == witness.times(index)
        assert not log.missing
    follower.check_whole(0)
    assert len(follower.of(0)) == len(witness.times(0)) + 1
    assert follower.of(0)[-1] == "end"


@both_kinds_of_workers(LEASE_S)
def test_network_partition_longer_than_the_lease_restarts_the_task_once(
    cluster: MachineCluster, client: IrisClient, witness: Witness
) -> None:
    job = run(client, witness)
    machine = cluster.machine_of(job.tasks()[0].status().worker_address)
    wait_until(lambda: len(witness.times()) > 300, "three seconds of lines")
    cut_ns = now_ns()
    machine.cut()
    witness.wait_for(0, 1)
    machine.heal()
    wait_until(lambda: not machine.processes(), "the end of worker and reaper")
    witness.wait_for_more(0, 1)
    witness.open()
    assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
    assert attempts(job) == [LOST, SUCCEEDED]
    status = job.tasks()[0].status()
    assert (status.preemption_count, status.failure_count) == (1, 0)
    witness.assert_no_overlap()
    log = read_log(client, job.job_id)
    promised = [written for written in witness.times() if written < cut_ns - PROMISED_S * 1e9]
    assert len(promised) > 50
    assert log.written_ns[: len(promised)] == promised
    # It tries for a while to hand over what it has. Where it has done so, the log is whole; else that is said.
    # Who is killed between a proof and its line leaves one proof more.
    assert log.end.missing_reason or log.written_ns in (witness.times(), witness.times()[:-1])


def test_worker_suspended_during_a_partition_learns_that_it_was_lost(
    cluster: MachineCluster, client: IrisClient, witness: Witness
) -> None:
    """Nobody on the machine acts in time: worker and reaper are stopped, and so are its tasks, as when all of it is
    suspended. The controller must not take it back."""
    job = run(client, witness)
    machine = cluster.machine_of(job.tasks()[0].status().worker_address)
    machine.cut()
    frozen = list(machine.processes())
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    witness.wait_for(0, 1)
    machine.heal()
    for pid in reversed(frozen):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not machine.processes(), "the end of all that ran there")
    witness.open()
    assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
    assert attempts(job) == [LOST, SUCCEEDED]
    assert witness.attempts() == [0, 1]


@both_kinds_of_workers(60.0)  # a controller takes its time to start on a busy machine
def test_gang_continues_when_the_controller_is_killed(
    cluster: MachineCluster, client: IrisClient, witness: Witness
) -> None:
    job = run(client, witness, replicas=2, cpu=3)
    with following(client, job.job_id, 1) as direct, following(client, job.job_id, 0, route="controller") as relayed:
        direct.wait_for_more()
        relayed.wait_for_more()
        cluster.kill()
        for index in range(2):
            witness.wait_for_more(index)
        direct.wait_for_more()
        cluster.start()
        wait_until(lambda: len(client.cluster.list_workers()) == 2, "the workers to register again")
        relayed.wait_for_more()
        witness.open()
        assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
        direct.finish()
        relayed.finish()
    for index, follower in enumerate((relayed, direct)):
        assert attempts(job, index) == [SUCCEEDED]
        assert read_log(client, job.job_id, task_index=index).written_ns == witness.times(index)
        follower.check_whole(0)
        assert len(follower.of(0)) == len(witness.times(index)) + 1
    assert job.status().preemption_count == 0


# A busy machine needs seconds to notice a silence and to end it.
@pytest.mark.parametrize("cluster", [(12.0,)], indirect=True)
def test_short_partition_between_the_controller_and_all_machines_ends_no_attempt(
    cluster: MachineCluster, client: IrisClient, witness: Witness
) -> None:
    job = run(client, witness, replicas=2, cpu=3)
    for machine in cluster.lan.machines:
        machine.cut()
    wait_until(lambda: all(w.consecutive_failures for w in client.cluster.list_workers()), "their silence")
    witness.open()  # they end while nobody hears it
    wait_until(lambda: not any("-S -c" in c for m in cluster.lan.machines for c in m.processes().values()), "their end")
    for machine in cluster.lan.machines:
        machine.heal()
    assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
    for index in range(2):
        assert attempts(job, index) == [SUCCEEDED]
        log = read_log(client, job.job_id, task_index=index)
        assert log.written_ns == witness.times(index)


def health(client: IrisClient, worker_id: str) -> pb.Controller.WorkerHealthStatus:
    (found,) = (worker for worker in client.cluster.list_workers() if worker.worker_id == worker_id)
    return found
