"""Workers that are away: for a moment, or for longer than their lease. No attempt of a task runs twice at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import launch, wait_for_end
from support.standing_cluster import Proofs, StandingCluster, standing_cluster
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.rpc import cluster_pb2 as pb

LEASE_S = 3.0


@pytest.fixture
def proofs(tmp_path: Path) -> Proofs:
    return Proofs(tmp_path / "proofs")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[StandingCluster]:
    with standing_cluster(tmp_path / "state", lease=LEASE_S) as started:
        yield started


@pytest.fixture
def client(cluster: StandingCluster) -> Iterator[RemoteClusterClient]:
    with cluster.client() as remote:
        yield remote


def test_worker_stopped_for_longer_than_its_lease_loses_its_attempts(
    cluster: StandingCluster, client: RemoteClusterClient, proofs: Proofs
) -> None:
    job_id = launch(client, proofs.command())
    proofs.wait_for()
    stopped = cluster.worker()
    os.kill(stopped.pid, signal.SIGSTOP)
    proofs.wait_for_more()  # its task is not stopped with it
    proofs.wait_for(0, 1)  # it was ended, and runs again on another worker process
    assert not stopped.is_alive, "what is stopped cannot end itself: its reaper has done it"
    proofs.open()
    job = wait_for_end(client, job_id)
    assert job.state == pb.JOB_STATE_SUCCEEDED
    (task,) = job.tasks
    assert (len(task.attempts), task.preemption_count, task.failure_count) == (2, 1, 0)
    assert task.attempts[0].is_worker_failure
    assert proofs.attempts() == [0, 1]
    proofs.assert_no_overlap()


def test_worker_stopped_for_less_than_its_lease_keeps_its_attempts(tmp_path: Path, proofs: Proofs) -> None:
    # A busy machine may need seconds to notice the silence and to continue the worker.
    with standing_cluster(tmp_path / "state", lease=10.0) as cluster, cluster.client() as client:
        job_id = launch(client, proofs.command())
        proofs.wait_for()
        worker = cluster.worker()
        os.kill(worker.pid, signal.SIGSTOP)
        wait_until(lambda: client.list_workers()[0].consecutive_failures, "its silence to be noticed")
        os.kill(worker.pid, signal.SIGCONT)
        wait_until(lambda: not client.list_workers()[0].consecutive_failures, "it to be heard again")
        proofs.open()
        (task,) = wait_for_end(client, job_id).tasks
        assert (task.state, len(task.attempts)) == (pb.TASK_STATE_SUCCEEDED, 1)
        assert cluster.worker() == worker


def test_worker_stopped_with_its_reaper_is_lost_and_ends_its_tasks_when_it_continues(
    cluster: StandingCluster, client: RemoteClusterClient, proofs: Proofs
) -> None:
    """As when the whole machine stands still, and time goes on: nobody there can end anything. The tasks stand still
    with it, so none of this one's runs at once with another's."""
    job_id = launch(client, proofs.command())
    proofs.wait_for()
    worker = cluster.worker()
    frozen = _all_below(worker.pid)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: client.get_task_status(job_id, 0).preemption_count == 1, "the worker to be declared lost")
    task = client.get_task_status(job_id, 0)
    assert f"silent for longer than its lease of {LEASE_S:g} s" in task.attempts[0].error
    written = len(proofs.times())
    os.kill(worker.pid, signal.SIGCONT)  # the worker first: it ends its tasks before it does anything else
    wait_until(lambda: not worker.is_alive, "the end of the worker")
    for pid in frozen:
        _continue(pid)
    proofs.wait_for(0, 1)
    assert len(proofs.times()) == written, "its task did not run again"
    proofs.assert_no_overlap()
    proofs.open()
    assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED


def test_tasks_end_when_the_controller_is_absent_for_longer_than_the_lease(
    cluster: StandingCluster, proofs: Proofs
) -> None:
    with cluster.client() as client:
        job_id = launch(client, proofs.command())
        proofs.wait_for()
    worker = cluster.worker()
    cluster.kill()
    wait_until(lambda: not cluster.standing(), "the worker to end, and what it runs")
    assert not worker.is_alive
    log = (cluster.directory / "workers" / "local-0.log").read_text()
    assert f"the worker has not heard from the controller for longer than its lease of {LEASE_S:g} s" in log
    ends = list((cluster.directory / "logs").glob("*/0/end"))
    assert len(ends) == 1, "the log of the attempt has its end"
    assert cluster.start().found == {"jobs_going_on": 1, "jobs_ended": 0, "workers_running": 0}
    proofs.wait_for(0, 1)
    proofs.assert_no_overlap()
    proofs.open()
    with cluster.client() as client:
        (task,) = wait_for_end(client, job_id).tasks
    assert (task.state, task.preemption_count, task.failure_count) == (pb.TASK_STATE_SUCCEEDED, 1, 0)


def test_task_that_ends_while_the_controller_is_stopped_is_reported_afterwards(
    cluster: StandingCluster, client: RemoteClusterClient, proofs: Proofs
) -> None:
    assert cluster.server is not None
    job_id = launch(client, proofs.command(exit_code=5))
    proofs.wait_for()
    cluster.server.process.send_signal(signal.SIGSTOP)
    proofs.open()
    wait_until(lambda: list((cluster.directory / "logs").glob("*/0/end")), "the end of the task")
    cluster.server.process.send_signal(signal.SIGCONT)
    job = wait_for_end(client, job_id)
    assert (job.state, job.exit_code) == (pb.JOB_STATE_FAILED, 5)


def test_stopped_worker_is_listed_as_unhealthy_until_another_process_replaces_it(
    cluster: StandingCluster, client: RemoteClusterClient
) -> None:
    wait_until(lambda: client.list_workers() and client.list_workers()[0].healthy, "the worker")
    worker = cluster.worker()
    os.kill(worker.pid, signal.SIGSTOP)
    wait_until(lambda: not client.list_workers()[0].healthy, "its silence to count")
    wait_until(lambda: cluster.find_worker() not in (None, worker), "another process in its place")
    wait_until(lambda: client.list_workers()[0].healthy, "that to be there")


def test_an_idle_cluster_keeps_its_worker_for_longer_than_a_lease(
    cluster: StandingCluster, client: RemoteClusterClient
) -> None:
    worker = cluster.worker()
    job_id = launch(client, ["sleep", str(2 * LEASE_S)])
    (task,) = wait_for_end(client, job_id).tasks
    assert (task.state, len(task.attempts)) == (pb.TASK_STATE_SUCCEEDED, 1)
    assert cluster.worker() == worker


def _all_below(pid: int) -> list[int]:
    """A process and its descendants, parents first: whoever is stopped first cannot act on the stop of the others."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(below for child in children for below in _all_below(child))]


def _continue(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
