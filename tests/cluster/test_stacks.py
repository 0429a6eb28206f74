"""Stacks of running tasks are read from their workers, all at once, and the tasks continue."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cluster import launch, shell, unique, wait_for_end
from support.tokens import token
from support.waiting import wait_until

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.client.inspect.stacks import JobStacks, StackGroup
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.errors import NotFoundError
from iris.rpc import cluster_connect
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.credentials import BearerInterceptor

# Task 1 of the gang waits for its data, and the other tasks wait for task 1. Task 2 has a forked child.
GANG = """
import concurrent.futures, os, threading, time

def all_reduce(password):
    print("up", flush=True)
    time.sleep(1000)

def next_batch():
    print("up", flush=True)
    time.sleep(1000)

pool = concurrent.futures.ThreadPoolExecutor(2)
list(pool.map(abs, range(2)))
threading.Thread(target=threading.Event().wait, name="heartbeat-1", daemon=True).start()
rank = int(os.environ["IRIS_TASK_INDEX"])
is_forked = rank == 2 and os.fork() == 0
next_batch() if rank == 1 or is_forked else all_reduce("hunter2")
"""
BUSY = """
import sys, time

def spin(rounds):
    return sum(number * number % 7 for number in range(rounds))

print("up", flush=True)
total = 0
while not open(sys.argv[1]).read():
    total += spin(10_000)
print(total > 0)
"""


@pytest.fixture(scope="module")
def gang(shared_cluster: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gang of three tasks that hangs. Its programs are children of shells, which are no Python programs."""
    program = tmp_path_factory.mktemp("gang") / "gang.py"
    program.write_text(GANG)
    with RemoteClusterClient(shared_cluster.address) as cluster:
        job_id = launch(cluster, shell(f"{sys.executable} {program}; true"), replicas=3)
        wait_until(lambda: lines_of(cluster, job_id, 3) == 4, "the tasks to hang")
        yield job_id
        cluster.terminate_job(job_id)
        wait_for_end(cluster, job_id)


def lines_of(cluster: RemoteClusterClient, job_id: str, replicas: int) -> int:
    return sum(len(cluster.fetch_task_logs(f"{job_id}/task-{index}")) for index in range(replicas))


def functions(group: StackGroup) -> list[str]:
    return [frame.function for frame in group.frames]


def read_when_settled(client: IrisClient, job_id: str) -> JobStacks:
    """Return the stacks of the gang after its tasks have reached their last line."""
    found: list[JobStacks] = []

    def is_settled() -> bool:
        found.append(client.stacks(job_id))
        inner = {functions(group)[0] for group in found[-1].groups() if group.thread == "MainThread"}
        return inner == {"all_reduce", "next_batch"}

    wait_until(is_settled, "the stacks of the hanging tasks")
    return found[-1]


def test_stacks_of_a_hung_gang_show_the_task_that_runs_another_function(client: IrisClient, gang: str) -> None:
    stacks = read_when_settled(client, gang)
    main = {group.task_indices: functions(group) for group in stacks.groups() if group.thread == "MainThread"}
    assert main == {(0, 2): ["all_reduce", "<module>"], (1, 2): ["next_batch", "<module>"]}
    (heartbeat,) = [group for group in stacks.groups() if group.thread == "heartbeat"]
    assert heartbeat.task_indices == (0, 1, 2)
    assert "ThreadPoolExecutor" not in str(stacks)
    assert "waiting for work: not shown" in str(stacks)


def test_stacks_of_a_task_contain_parent_processes_before_their_children(client: IrisClient, gang: str) -> None:
    read_when_settled(client, gang)
    task = client.job(gang).tasks()[2].stacks()
    shell_process, python, child = task.processes
    assert (shell_process.reason, shell_process.state, shell_process.threads) == ("NOT_PYTHON", "sleeping", ())
    assert (python.parent_pid, child.parent_pid) == (shell_process.pid, python.pid)
    assert [one.threads[0].frames[0].function for one in (python, child)] == ["all_reduce", "next_batch"]
    assert python.threads[0].variables == ()
    assert (task.task_index, task.attempt_id, task.reason) == (2, 0, "")
    assert task.worker_id in {worker.worker_id for worker in client.cluster.list_workers()}


def test_stacks_contain_variables_only_on_request_and_the_request_is_an_event(
    client: IrisClient, gang: str, shared_cluster: LocalServer
) -> None:
    read_when_settled(client, gang)
    assert "hunter2" not in repr(client.stacks(gang, 0))
    before = stack_events(shared_cluster, gang)
    (task,) = client.stacks(gang, 0, variables=True).tasks
    python = task.processes[1].threads[0]
    assert [(one.name, one.value, one.is_argument) for one in python.variables[0]] == [("password", '"hunter2"', True)]
    (event,) = stack_events(shared_cluster, gang)[len(before) :]
    assert (event.fields["tasks"], bool(event.owner)) == ("1", True)
    assert "hunter2" not in str(event)


def stack_events(server: LocalServer, job_id: str) -> list[pb.Controller.Event]:
    """Return the events about the stacks of a job."""
    stub = cluster_connect.ControllerServiceClientSync(
        server.address, interceptors=(BearerInterceptor(lambda: token("admin")),)
    )
    with closing(stub.watch_cluster(pb.Controller.WatchClusterRequest(include_events=True))) as messages:
        events = next(iter(messages)).events
    return [event for event in events if event.name == "stacks.read" and event.job_id == job_id]


def test_async_client_returns_the_same_stacks_as_the_sync_client(
    client: IrisClient, gang: str, shared_cluster: LocalServer
) -> None:
    async def read() -> tuple[list[StackGroup], int]:
        async with AsyncIrisClient.remote(shared_cluster.address) as remote:
            job = remote.job(gang)
            task = (await job.tasks())[1]
            return (await job.stacks()).groups(), len((await task.stacks()).processes)

    expected = read_when_settled(client, gang).groups()
    assert asyncio.run(read()) == (expected, 2)


def test_tasks_without_readable_stacks_have_the_reason_not_python_or_not_running(client: IrisClient) -> None:
    script = 'if [ "$IRIS_TASK_INDEX" = 1 ]; then exec true; fi; echo up; exec sleep 1000'
    job_id = launch(client.cluster, shell(script), replicas=2, independent_tasks=True)
    wait_until(lambda: client.task_status(job_id, 1).state == pb.TASK_STATE_SUCCEEDED, "the end of task 1")
    wait_until(lambda: len(client.cluster.fetch_task_logs(f"{job_id}/task-0")) == 1, "task 0 to run")
    sleep, ended = client.stacks(job_id).tasks
    (process,) = sleep.processes
    assert (process.command, process.reason, sleep.reason) == ("sleep", "NOT_PYTHON", "")
    assert (ended.reason, ended.processes) == ("NOT_RUNNING", ())
    assert "SUCCEEDED" in ended.problem
    client.terminate(job_id)
    wait_for_end(client.cluster, job_id)


def test_stacks_of_an_unknown_job_or_task_are_not_found(client: IrisClient, gang: str) -> None:
    with pytest.raises(NotFoundError):
        client.stacks(unique("missing"))
    with pytest.raises(NotFoundError):
        client.stacks(gang, 3)


def test_busy_task_ends_as_usual_after_many_readings_of_its_stacks(client: IrisClient, tmp_path: Path) -> None:
    stop, program = tmp_path / "stop", tmp_path / "busy.py"
    stop.touch()
    program.write_text(BUSY)
    job_id = launch(client.cluster, [sys.executable, str(program), str(stop)])
    wait_until(lambda: lines_of(client.cluster, job_id, 1) == 1, "the task to be busy")
    read: list[bool] = []

    def read_stacks(count: int) -> None:
        for _ in range(count):
            (task,) = client.stacks(job_id).tasks
            read.extend(bool(process.threads) for process in task.processes)

    threads = [threading.Thread(target=read_stacks, args=(10,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.write_text("stop")
    assert wait_for_end(client.cluster, job_id).state == pb.JOB_STATE_SUCCEEDED
    assert [entry.data for entry in client.cluster.fetch_task_logs(f"{job_id}/task-0")] == ["up", "True"]
    assert len(read) == 20
    assert sum(read) >= 18  # A reading of a busy process may be inconsistent four times in a row.


def test_profile_of_two_busy_tasks_is_summed_and_written_by_the_command(
    client: IrisClient, shared_cluster: LocalServer, tmp_path: Path
) -> None:
    stop, program = tmp_path / "stop", tmp_path / "busy.py"
    stop.touch()
    program.write_text(BUSY)
    job_id = launch(client.cluster, shell(f"{sys.executable} {program} {stop}; true"), replicas=2)
    wait_until(lambda: lines_of(client.cluster, job_id, 2) == 2, "the tasks to be busy")
    progress: list[tuple[int, int]] = []
    profile = client.profile(job_id, duration_s=1, on_progress=lambda *done: progress.append(done))
    assert progress == [(1, 1)]
    assert [(task.task_index, task.reason, task.samples > 0) for task in profile.tasks] == [
        (0, "", True),
        (1, "", True),
    ]
    assert profile.samples == sum(task.samples for task in profile.tasks)
    assert {share.function: share.file for share in profile.functions()}["spin"] == str(program)
    main = next(share for share in profile.functions() if share.function == "<module>")
    assert main.total_samples >= 0.9 * profile.samples
    file = tmp_path / "one.svg"
    words = ["-o", str(file), "--duration", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "iris.cli", "profile", f"{job_id}/task-0", *words],
        env=os.environ | {"IRIS_CONTROLLER_ADDRESS": shared_cluster.address, "IRIS_TOKEN": token("admin")},
        capture_output=True,
        check=True,
    )
    document = json.loads(done.stdout)
    assert [task["task_id"] for task in document["tasks"]] == [f"{job_id}/task-0"]
    assert document["samples"] > 0
    assert ET.parse(file).getroot().tag.endswith("svg")
    stop.write_text("stop")
    assert wait_for_end(client.cluster, job_id).state == pb.JOB_STATE_SUCCEEDED


def test_profile_of_a_waiting_task_has_samples_only_with_idle_threads(client: IrisClient, gang: str) -> None:
    read_when_settled(client, gang)
    assert client.job(gang).tasks()[1].profile(duration_s=1).samples == 0
    waiting = client.profile(gang, 1, duration_s=1, idle=True)
    assert "next_batch" in {share.function for share in waiting.functions()}
