"""What befalls machines of a Ray cluster: the controller dies, one is cut off, one loses its power, the head goes.

A cluster takes long to start, so each of these tests is a story with several parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine_cluster import (
    LOST,
    PEER,
    PROMISED_S,
    SUCCEEDED,
    Witness,
    attempts,
    following,
    now_ns,
    read_log,
)
from support.ray_machine import RayMachineCluster, end_ray, ray_machine_cluster, start_ray
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.cluster.types import ResourceSpec
from iris.rpc import cluster_pb2 as pb

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]  # a start takes most of it on a busy machine


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RayMachineCluster]:
    """With a lease of so many seconds."""
    with ray_machine_cluster(tmp_path / "lan", 3, request.param) as started:
        yield started


@pytest.fixture
def client(cluster: RayMachineCluster) -> Iterator[IrisClient]:
    with cluster.client() as remote:
        yield remote


@pytest.fixture
def witness(cluster: RayMachineCluster) -> Witness:
    return Witness(cluster.lan.directory / "witness")


def run_two(client: IrisClient, witness: Witness) -> Job:
    """A gang of two witnesses that run, on a machine each."""
    job = client.run(witness.command(), replicas=2, resources=ResourceSpec(cpu=3))
    for index in range(2):
        witness.wait_for(index)
    wait_until(lambda: job.status().state == pb.JOB_STATE_RUNNING, "the job to be known to run")
    return job


def wait_for_attempt(job: Job, witness: Witness, attempt_id: int) -> None:
    """Until both tasks run an attempt, and neither of them one before it."""
    wait_until(lambda: all(len(task.status().attempts) > attempt_id for task in job.tasks()), "another attempt", 90)
    for index in range(2):
        witness.wait_for(index, attempt_id)
        witness.wait_for_more(index, attempt_id)
        witness.assert_no_overlap(index)


def wait_for_end(job: Job) -> pb.JobStatus:
    return job.wait(timeout=90, stream_logs=False, raise_on_failure=False)


def task_away_from_the_head(cluster: RayMachineCluster, job: Job) -> int:
    """The index of a task that runs on another machine."""
    wait_until(lambda: all(task.status().worker_address for task in job.tasks()), "the machines to be known")
    places = [cluster.machine_of(task.status().worker_address) for task in job.tasks()]
    return next(index for index, machine in enumerate(places) if machine is not cluster.head)


@pytest.mark.parametrize("cluster", [20.0], indirect=True)  # the controller is back in that time on a busy machine too
def test_gang_on_ray_survives_a_controller_kill_a_partition_and_a_machine_loss(
    cluster: RayMachineCluster, client: IrisClient, witness: Witness
) -> None:
    job = run_two(client, witness)
    lost = task_away_from_the_head(cluster, job)
    machine = cluster.machine_of(job.tasks()[lost].status().worker_address)
    worker_id = job.tasks()[lost].status().worker_id
    with following(client, job.job_id, lost) as follower:
        # 1. The controller is killed: the gang goes on, and the next one finds it.
        follower.wait_for_more()
        cluster.kill()
        for index in range(2):
            witness.wait_for_more(index)
        cluster.start()
        wait_until(lambda: len(client.cluster.list_workers()) == 2, "the workers to register again")
        follower.wait_for_more()

        # 2. A partition that is shorter than the lease: nothing ends.
        machine.cut()
        wait_until(lambda: health(client, worker_id).consecutive_failures, "its silence to be noticed")
        machine.heal()
        wait_until(lambda: not health(client, worker_id).consecutive_failures, "it to be heard again")
        follower.wait_for_more()
        assert not follower.of(1)
        last = follower.of(0)[-1]
        wait_until(lambda: last.encode() in cluster.kept(), "the controller to have what was written meanwhile")

        # 3. The machine's power fails: the gang starts again on what is left.
        machine.power_off()
        off_ns = now_ns()
        wait_for_attempt(job, witness, 1)
        wait_until(lambda: follower.of(1), "who follows to go on to the next attempt")
        witness.open()
        assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
        follower.finish()
    assert attempts(job, lost) == [LOST, SUCCEEDED]
    assert attempts(job, 1 - lost) == [PEER, SUCCEEDED]
    budgets = [(task.status().preemption_count, task.status().failure_count) for task in job.tasks()]
    assert budgets[lost] == (1, 0)
    assert budgets[1 - lost] == (0, 0)
    for index in range(2):
        witness.assert_no_overlap(index)
    promised = [written for written in witness.times(lost) if written < off_ns - PROMISED_S * 1e9]
    log = read_log(client, job.job_id, task_index=lost)
    assert log.written_ns[: len(promised)] == promised
    assert log.end.missing_reason
    assert len(follower.of(0)) >= len(promised)
    follower.check_whole(0)
    follower.check_whole(1)
    wait_until(lambda: not tasks_left(cluster), "the end of all that tasks were")


@pytest.mark.parametrize("cluster", [5.0], indirect=True)
def test_ray_cluster_survives_a_machine_without_network_and_a_restarted_head(
    cluster: RayMachineCluster, client: IrisClient, witness: Witness
) -> None:
    job = run_two(client, witness)
    cut = task_away_from_the_head(cluster, job)
    machine = cluster.machine_of(job.tasks()[cut].status().worker_address)

    # 1. A partition that is longer than the lease.
    machine.cut()
    wait_for_attempt(job, witness, 1)
    machine.heal()
    wait_until(lambda: not tasks_left(cluster, machine), "the end of all that tasks were there")
    assert attempts(job, cut)[0] == LOST
    assert attempts(job, 1 - cut)[0] == PEER

    # 2. The head goes, and a new one comes, which knows nothing of what the one before held. What the machines of the
    # old one run goes on there until its Ray notices, and must not run anew before it has ended.
    others = [other for other in cluster.lan.machines if other is not cluster.head]
    end_ray(cluster.head)
    start_ray(cluster.head, *others)
    wait_for_attempt(job, witness, 2)
    witness.open()
    assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
    for index in range(2):
        witness.assert_no_overlap(index)
        assert attempts(job, index)[-1] == SUCCEEDED
        assert job.tasks()[index].status().failure_count == 0
    wait_until(lambda: not tasks_left(cluster), "the end of all that tasks were")


@pytest.mark.parametrize("cluster", [30.0], indirect=True)  # the new head is up before the lease is over
def test_ray_head_lost_while_a_machine_has_no_network_restarts_the_gang(
    cluster: RayMachineCluster, client: IrisClient, witness: Witness
) -> None:
    """The new Ray knows nothing of the gang, and cannot ask the machine: what runs there is not over for that."""
    job = run_two(client, witness)
    cut = task_away_from_the_head(cluster, job)
    machine = cluster.machine_of(job.tasks()[cut].status().worker_address)
    machine.cut()
    end_ray(cluster.head)
    start_ray(cluster.head, *(other for other in cluster.lan.machines if other not in (cluster.head, machine)))
    wait_for_attempt(job, witness, 1)
    witness.open()
    assert wait_for_end(job).state == pb.JOB_STATE_SUCCEEDED
    assert attempts(job, cut) == [LOST, SUCCEEDED]


def health(client: IrisClient, worker_id: str) -> pb.Controller.WorkerHealthStatus:
    (found,) = (worker for worker in client.cluster.list_workers() if worker.worker_id == worker_id)
    return found


def tasks_left(cluster: RayMachineCluster, *where: object) -> list[str]:
    """What runs that a task is."""
    machines = [machine for machine in cluster.lan.machines if not where or machine in where]
    return [command for machine in machines for command in machine.processes().values() if " -S -c " in command]
