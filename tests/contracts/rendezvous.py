"""The contract of jobs with a rendezvous. Each kind of cluster runs these tests: this machine, Ray, and Slurm.

A test module imports these functions and brings a fixture `client`. The gang is a small program of our own that meets
as `torch.distributed` and JAX do: rank 0 listens at the port on all addresses of its machine, the others connect.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from support.cluster import shell
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.errors import InvalidArgumentError, JobFailedError
from iris.rpc import cluster_pb2 as pb

# Adds the ranks up and prints the sum and where it met. Then does what is asked of one rank: `kill` ends it by SIGKILL
# in its first attempt, `wait` lets it wait for a file. Whoever meets somebody of another job, or attempt, fails.
MEETING = """
import os, signal, socket, sys, time
what, who, gate = sys.argv[1], sys.argv[2], sys.argv[3]
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
me = os.environ["IRIS_JOB_ID"] + " " + os.environ["IRIS_ATTEMPT_ID"]
def receive(connection):
    line = connection.makefile().readline()
    name, _, number = line.rpartition(" ")
    assert name == me, (me, line)
    return int(number)
def send(connection, number):
    connection.sendall(f"{me} {number}\\n".encode())
if rank == 0:
    listener = socket.create_server(("", port), backlog=size)
    peers = [listener.accept()[0] for _ in range(size - 1)]
    total = sum(receive(peer) for peer in peers)
    for peer in peers:
        send(peer, total)
else:
    while True:
        try:
            connection = socket.create_connection((host, port))
            break
        except OSError:
            time.sleep(0.02)
    send(connection, rank)
    total = receive(connection)
print(f"sum {total} of {size} at {host} {port}", flush=True)
if str(rank) == who and what == "kill" and os.environ["IRIS_ATTEMPT_ID"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "wait" or (what == "kill" and os.environ["IRIS_ATTEMPT_ID"] == "0"):
    while not os.path.exists(gate):
        time.sleep(0.02)
sys.exit(int(os.environ["EXIT"]) if str(rank) == who and "EXIT" in os.environ else 0)
"""


def meeting(what: str = "-", who: int = -1, gate: Path | str = "-") -> list[str]:
    """Return the command of a gang whose tasks connect to each other."""
    return [sys.executable, "-S", "-c", MEETING, what, str(who), str(gate)]


def met(client: IrisClient, job: Job, task_index: int, attempt_id: int = 0) -> str:
    """Return the line that a rank prints after it has met all other ranks. Empty before that, also if the attempt has
    not begun."""
    if len(client.task_status(job.job_id, task_index).attempts) <= attempt_id:
        return ""
    lines = client.fetch_task_logs(job.job_id, task_index, attempt_id=attempt_id)
    return next((entry.message for entry in lines if entry.message.startswith("sum ")), "")


def environments(job: Job) -> list[dict[str, str]]:
    """Return the environment of each task, as the tasks have printed it with `env`."""
    return [dict(entry.message.partition("=")[::2] for entry in task.logs()) for task in job.tasks()]


def test_torch_variables_describe_the_rendezvous(client: IrisClient) -> None:
    stale = {"RANK": "77", "MASTER_PORT": "1", "LOCAL_RANK": "5"}
    job = client.run(shell("env"), replicas=4, rendezvous="torch", env=stale)
    job.wait(timeout=100)
    seen = environments(job)
    assert [env["RANK"] for env in seen] == ["0", "1", "2", "3"], "Iris's own values win over the user's"
    assert {env["WORLD_SIZE"] for env in seen} == {"4"}
    (place,) = {(env["MASTER_ADDR"], env["MASTER_PORT"]) for env in seen}
    assert place[0] == seen[0]["IRIS_ADVERTISE_HOST"]
    assert int(place[1]) > 1024
    # Each machine has the local ranks from 0, and its tasks know how many they are.
    local = Counter((int(env["LOCAL_RANK"]), int(env["LOCAL_WORLD_SIZE"])) for env in seen)
    for (_, size), count in local.items():
        assert [local[other, size] for other in range(size)] == [count] * size


def test_jax_variables_describe_the_rendezvous(client: IrisClient) -> None:
    job = client.run(shell("env"), replicas=2, rendezvous="jax")
    job.wait(timeout=100)
    seen = environments(job)
    assert [(env["JAX_PROCESS_ID"], env["JAX_NUM_PROCESSES"]) for env in seen] == [("0", "2"), ("1", "2")]
    (address,) = {env["JAX_COORDINATOR_ADDRESS"] for env in seen}
    host, _, port = address.rpartition(":")
    assert host.strip("[]") == seen[0]["IRIS_ADVERTISE_HOST"]
    assert int(port) > 1024
    assert not any(name in env for env in seen for name in ("RANK", "MASTER_ADDR"))


def test_tasks_of_a_gang_meet_at_the_rendezvous(client: IrisClient) -> None:
    job = client.run(meeting(), replicas=4, rendezvous="torch", timeout=90)
    assert job.wait(timeout=100).state == pb.JOB_STATE_SUCCEEDED
    (line,) = {met(client, job, index) for index in range(4)}
    assert line.startswith("sum 6 of 4 at ")


@pytest.mark.parametrize("who", [0, 2])
def test_gang_that_loses_a_rank_meets_again_at_a_new_rendezvous(client: IrisClient, who: int) -> None:
    job = client.run(meeting("kill", who), replicas=3, rendezvous="torch", max_retries_failure=1, timeout=90)
    status = job.wait(timeout=100)
    assert status.state == pb.JOB_STATE_SUCCEEDED
    assert [task.failure_count for task in status.tasks] == [int(index == who) for index in range(3)]
    for attempt_id in (0, 1):
        where = {met(client, job, index, attempt_id) for index in range(3)} - {""}  # one may be stopped before it says
        assert len(where) == 1
        assert where.pop().startswith("sum 3 of 3 at ")
    assert met(client, job, who, 0)
    assert all(met(client, job, index, 1) for index in range(3))


def test_two_gangs_at_the_same_time_have_different_rendezvous_addresses(client: IrisClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    jobs = [client.run(meeting("wait", gate=gate), replicas=2, rendezvous="torch", timeout=90) for _ in range(2)]
    one, other = (wait_until(lambda job=job: met(client, job, 0), "a gang to meet", 60) for job in jobs)
    assert one != other, "both are there, so that each has a port of its own"
    gate.touch()
    for job in jobs:
        assert job.wait(timeout=100).state == pb.JOB_STATE_SUCCEEDED


def test_gang_with_a_succeeded_task_is_not_restarted(client: IrisClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"""
        [ $RANK = 0 ] && exit 0
        while [ ! -e "{gate}" ]; do sleep 0.05; done
        [ $RANK = 1 ] && exit 3
        exec sleep 300"""
    job = client.run(shell(script), replicas=3, rendezvous="torch", max_retries_failure=5)
    wait_until(lambda: client.task_status(job.job_id, 0).state == pb.TASK_STATE_SUCCEEDED, "the end of rank 0", 60)
    gate.touch()
    with pytest.raises(JobFailedError, match="task 0 has succeeded already") as caught:
        job.wait(timeout=100)
    assert (caught.value.task_index, caught.value.exit_code) == (1, 3)
    states = [task.state for task in client.list_tasks(job.job_id)]
    assert states == [pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_FAILED, pb.TASK_STATE_KILLED]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rendezvous": "mpi"}, "one of 'torch', 'jax', or None"),
        ({"rendezvous": "torch", "coscheduled": False}, "start together"),
        ({"rendezvous": "jax", "max_task_failures": 1}, "max_task_failures must be 0 for a job with a rendezvous"),
    ],
)
def test_rendezvous_of_an_unknown_kind_or_with_contradicting_options_is_refused(
    client: IrisClient, options: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        client.run(["true"], replicas=2, **options)  # type: ignore[arg-type]
