"""Whole jobs on a real Ray cluster.

Only the tests of the contract that depend on where workers come from run here, because each slot on Ray costs a second
of CPU time. `test_e2e.py` runs the whole contract on the local engine, and `test_more_jobs_on_ray.py` runs further
tests of the contract on Ray, with the long tests.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from contracts.end_to_end import (  # noqa: F401 - the tests of the contract run here
    put,
    test_a_gang_restarts_as_a_whole,
    test_job_that_is_terminated_while_it_is_prepared_ends_killed,
    test_outputs_are_stored_when_the_job_has_ended,
    test_status_of_a_running_task_contains_its_measured_usage,
    test_terminate_ends_the_process_group_and_processes_that_left_it,
    wait_for_file,
)
from support.cluster import is_alive, shell
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer
from iris.cluster.types import ResourceSpec
from iris.rpc import cluster_pb2 as pb


@pytest.fixture
def client(ray_server: LocalServer) -> Iterator[IrisClient]:
    with IrisClient.remote(ray_server.address) as remote:
        yield remote


def test_task_on_ray_sees_its_devices_and_no_variable_of_ray(client: IrisClient) -> None:
    job = client.run(shell("env"), replicas=2, resources=ResourceSpec(gpu=1), constraints={"zone": "a"})
    job.wait(timeout=60)
    seen = [dict(entry.message.partition("=")[::2] for entry in task.logs()) for task in job.tasks()]
    for env in seen:
        assert [name for name in env if name.startswith("RAY_")] == []
        assert not {"OMP_NUM_THREADS", "SPT_NOENV", "PYTHONBREAKPOINT", "LD_PRELOAD"} & env.keys()
        assert env["PATH"] == os.environ["PATH"], "what the machine's Ray was started with"
    assert sorted(env["CUDA_VISIBLE_DEVICES"] for env in seen) == ["0", "1"]


def test_tasks_with_spread_placement_run_on_different_machines(client: IrisClient) -> None:
    job = client.run(["true"], replicas=3, placement="spread")
    reason = wait_until(lambda: job.status().status_message, "the reason why it waits")
    assert "machine" in reason
    job.terminate()
    job = client.run(["true"], replicas=2, placement="spread", resources=ResourceSpec(cpu=1))
    assert job.wait(timeout=60).tasks_succeeded == 2


def test_killed_worker_is_charged_to_the_preemption_budget(client: IrisClient, tmp_path: Path) -> None:
    script = f"""
        {put(f"{tmp_path}/$IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID", "$PPID $$")}
        [ $IRIS_ATTEMPT_ID = 1 ] && exit 0
        exec sleep 300"""
    job = client.run(shell(script), replicas=2)
    workers, tasks = zip(*(wait_for_file(tmp_path / f"{index}.0").split() for index in range(2)), strict=True)
    os.kill(int(workers[1]), signal.SIGKILL)
    status = job.wait(timeout=60)
    assert [[attempt.state for attempt in task.attempts] for task in status.tasks] == [
        [pb.TASK_STATE_KILLED, pb.TASK_STATE_SUCCEEDED],
        [pb.TASK_STATE_WORKER_FAILED, pb.TASK_STATE_SUCCEEDED],
    ]
    assert (status.preemption_count, status.failure_count) == (1, 0)
    assert not [pid for pid in tasks if is_alive(int(pid))]
