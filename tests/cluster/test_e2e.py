"""Whole jobs on a cluster of this machine: what holds on every engine, and what is this one's alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from contracts.end_to_end import *  # noqa: F403 - the tests for all engines run here
from contracts.end_to_end import put, wait_for_file
from support.cluster import is_alive, running_cluster, shell
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.engine.machine import this_machine
from iris.cluster.types import ResourceSpec
from iris.errors import JobFailedError
from iris.rpc import cluster_pb2 as pb


@pytest.fixture
def own_client(tmp_path: Path) -> Iterator[IrisClient]:
    """A client of a cluster that the test may break."""
    with running_cluster(tmp_path / "cluster") as server, IrisClient.remote(server.address) as remote:
        yield remote


def test_tasks_of_a_job_run_on_different_workers(client: IrisClient) -> None:
    job = client.run(["true"], replicas=4)
    job.wait(timeout=60)
    workers = [task.worker_id for task in client.list_tasks(job.job_id)]
    assert sorted(workers) == ["local-0", "local-0", "local-1", "local-1"]


def test_small_job_overtakes_a_job_that_does_not_fit(own_client: IrisClient) -> None:
    cores = this_machine().cpu
    blocker = own_client.run(["sleep", "300"], resources=ResourceSpec(cpu=1))
    wait_until(lambda: blocker.status().state == pb.JOB_STATE_RUNNING, "the first job to run")
    large = own_client.run(["true"], resources=ResourceSpec(cpu=cores))
    reason = wait_until(lambda: large.status().status_message, "the reason why the large job waits")
    assert f"needs {cores} cpu" in reason
    assert f"{cores - 1} of {cores} cpu" in reason
    assert own_client.task_status(large.job_id, 0).status_message == reason
    small = own_client.run(["true"], resources=ResourceSpec(memory="1MiB"))
    assert small.wait(timeout=60).state == pb.JOB_STATE_SUCCEEDED
    assert large.status().state == pb.JOB_STATE_PENDING
    blocker.terminate()
    assert large.wait(timeout=60).state == pb.JOB_STATE_SUCCEEDED


def test_job_larger_than_the_cluster_ends_as_unschedulable(client: IrisClient) -> None:
    job = client.run(["true"], replicas=2, resources=ResourceSpec(cpu=9999))
    status = client.wait(job.job_id, timeout=60)
    assert status.state == pb.JOB_STATE_UNSCHEDULABLE
    assert "9999 cpu" in status.error
    assert {task.state for task in status.tasks} == {pb.TASK_STATE_UNSCHEDULABLE}
    with pytest.raises(JobFailedError, match="9999 cpu"):
        job.wait()


def test_job_not_placed_within_its_scheduling_timeout_ends_as_unschedulable(client: IrisClient) -> None:
    whole = this_machine().memory_bytes // 2  # of each of the two workers
    holders = [client.run(["sleep", "300"], resources=ResourceSpec(memory=int(whole * 0.9))) for _ in range(2)]
    try:
        for holder in holders:
            wait_until(lambda holder=holder: holder.status().state == pb.JOB_STATE_RUNNING, "both workers to be full")
        late = client.run(["true"], resources=ResourceSpec(memory=whole // 2), scheduling_timeout=1)
        status = client.wait(late.job_id, timeout=60)
        assert status.state == pb.JOB_STATE_UNSCHEDULABLE
        assert "scheduling timeout of 1 s" in status.error
        assert "memory" in status.error
    finally:
        for holder in holders:
            holder.terminate()
            holder.wait(raise_on_failure=False)


def test_waiting_job_that_is_terminated_ends_as_killed_without_attempts(client: IrisClient) -> None:
    whole = this_machine().memory_bytes // 2  # of each of the two workers
    holders = [client.run(["sleep", "300"], resources=ResourceSpec(memory=int(whole * 0.9))) for _ in range(2)]
    for holder in holders:
        wait_until(lambda holder=holder: holder.status().state == pb.JOB_STATE_RUNNING, "both workers to be full")
    waiting = client.run(["true"], resources=ResourceSpec(memory=whole // 2))
    wait_until(lambda: waiting.status().status_message, "the job to wait")
    waiting.terminate()
    status = client.wait(waiting.job_id, timeout=60)
    assert status.state == pb.JOB_STATE_KILLED
    assert not status.tasks[0].attempts
    for holder in holders:
        holder.terminate()
        holder.wait(raise_on_failure=False)


def test_kill_of_a_worker_restarts_both_gangs_that_run_on_it(own_client: IrisClient, tmp_path: Path) -> None:
    script = f"""
        {put(f"{tmp_path}/$IRIS_JOB_ID.$IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID", "$PPID $$")}
        [ $IRIS_ATTEMPT_ID = 1 ] && exit 0
        exec sleep 300"""
    jobs = [own_client.run(shell(script), replicas=2, name=name) for name in ("one", "two")]
    first = [
        [int(pid) for pid in wait_for_file(tmp_path / f"{name}.{index}.0").split()]
        for name in ("one", "two")
        for index in range(2)
    ]
    (worker,) = {parent for parent, _ in first}
    os.kill(worker, signal.SIGKILL)
    for job in jobs:
        status = job.wait(timeout=60)
        for task in status.tasks:
            assert [attempt.state for attempt in task.attempts] == [
                pb.TASK_STATE_WORKER_FAILED,
                pb.TASK_STATE_SUCCEEDED,
            ]
            assert task.attempts[0].is_worker_failure
            assert (task.failure_count, task.preemption_count) == (0, 1)
        assert status.preemption_count == 2
    wait_until(lambda: not [pid for _, pid in first if is_alive(pid)], "the end of the dead worker's tasks")


def test_job_whose_preemption_budget_is_used_up_ends_as_worker_failed(own_client: IrisClient, tmp_path: Path) -> None:
    job = own_client.run(shell(f"{put(tmp_path / 'up', '$PPID')}; exec sleep 300"), max_retries_preemption=0)
    os.kill(int(wait_for_file(tmp_path / "up")), signal.SIGKILL)
    status = job.wait(timeout=60, raise_on_failure=False)
    assert status.state == pb.JOB_STATE_WORKER_FAILED
    assert "was lost" in status.error


def test_ended_jobs_are_listed_and_interrupted_jobs_continue_after_a_restart(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    with running_cluster(directory) as server, IrisClient.remote(server.address) as client:
        done = client.run(int, args=("42",), name="done")
        done.wait(timeout=60)
        script = f"{put(f'{tmp_path}/$IRIS_ATTEMPT_ID', 'x')}; [ $IRIS_ATTEMPT_ID = 1 ] || exec sleep 300"
        client.run(shell(script), name="interrupted")
        wait_for_file(tmp_path / "0")
    with running_cluster(directory) as server, IrisClient.remote(server.address) as client:
        assert client.job("done").results() == [42]
        status = client.wait("interrupted", timeout=60)
        assert status.state == pb.JOB_STATE_SUCCEEDED
        (task,) = status.tasks
        assert [attempt.state for attempt in task.attempts] == [pb.TASK_STATE_WORKER_FAILED, pb.TASK_STATE_SUCCEEDED]
        assert task.failure_count == 0


def test_killed_controller_continues_its_jobs_after_a_restart(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    with running_cluster(directory) as server, IrisClient.remote(server.address) as client:
        script = f"{put(f'{tmp_path}/$IRIS_ATTEMPT_ID', '$$')}; [ $IRIS_ATTEMPT_ID = 1 ] || exec sleep 300"
        client.run(shell(script), name="x")
        pid = int(wait_for_file(tmp_path / "0"))
        server.process.kill()
        wait_until(lambda: not is_alive(pid), "the end of the task, which nobody controls any more")
    with running_cluster(directory) as server, IrisClient.remote(server.address) as client:
        assert client.wait("x", timeout=60).state == pb.JOB_STATE_SUCCEEDED


def test_many_tasks_succeed_under_a_low_limit_of_open_files(tmp_path: Path) -> None:
    program = (
        "import resource\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))\n"
        "from iris.client import IrisClient\n"
        "with IrisClient.local() as client:\n"
        f"    script = 'while [ ! -e {tmp_path}/gate ]; do sleep 0.1; done; ulimit -Sn'\n"
        "    job = client.run(['sh', '-c', script], replicas=100)\n"
        "    while client.status(job.job_id).state != 3: pass\n"
        f"    open('{tmp_path}/gate', 'w').close()\n"
        "    print(job.wait(timeout=60).tasks_succeeded, {line.message for line in job.logs()})\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.stdout == "100 {'128'}\n", ran.stderr
