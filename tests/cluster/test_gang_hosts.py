"""The tasks of a gang know where all of them are, and find each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import launch, shell, unique, wait_for_end
from support.controller_thread import serving
from support.process_engine import ProcessEngine, slot_processes
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.base import Resources
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.types import ResourceSpec
from iris.errors import DeadlineExceededError
from iris.rpc import cluster_pb2 as pb

MACHINE = Resources.of(cpu=2, memory_bytes=2**30)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[IrisClient]:
    """A cluster of two machines, at 127.0.0.2 and 127.0.0.3, with a worker for each slot."""
    with slot_processes(tmp_path / "workers") as slots:
        slots.hosts = {"a": "127.0.0.2", "b": "127.0.0.3"}
        engine = ProcessEngine(slots, {"a": MACHINE, "b": MACHINE})
        with (
            serving(engine, Store(None), kept_logs=Keeping(LogDirectories(tmp_path / "kept"))) as controller,
            IrisClient.remote(controller.address) as client,
        ):
            slots.address = controller.address
            yield client


def test_each_task_gets_the_hosts_of_its_gang(machines: IrisClient) -> None:
    job = machines.run(
        shell("cat $IRIS_HOSTS_FILE; echo $IRIS_ADVERTISE_HOST"), replicas=3, resources=ResourceSpec(cpu=1)
    )
    job.wait()
    said = [[line.message for line in task.logs()] for task in job.tasks()]
    hosts = [lines[-1] for lines in said]
    assert set(hosts) == {"127.0.0.2", "127.0.0.3"}
    assert [lines[:-1] for lines in said] == [hosts] * 3


def test_retried_independent_task_gets_the_last_hosts_of_the_other_tasks(machines: IrisClient, tmp_path: Path) -> None:
    # The first task has ended when the second one fails: only that one starts again.
    script = f"""
    cp $IRIS_HOSTS_FILE {tmp_path}/hosts.$IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID
    [ $IRIS_TASK_INDEX = 0 ] && exit 0
    [ $IRIS_ATTEMPT_ID = 1 ] && exit 0
    while [ ! -e {tmp_path}/gate ]; do sleep 0.05; done
    exit 1
    """
    job = machines.run(shell(script), replicas=2, max_retries_failure=1, resources=ResourceSpec(cpu=2))
    wait_until(lambda: job.tasks()[0].status().state == pb.TASK_STATE_SUCCEEDED, "the end of the first task")
    (tmp_path / "gate").touch()
    status = job.wait()
    assert [len(task.attempts) for task in status.tasks] == [1, 2]
    first, second = ((tmp_path / f"hosts.1.{attempt}").read_text().splitlines() for attempt in (0, 1))
    assert sorted(first) == ["127.0.0.2", "127.0.0.3"]
    assert second[0] == first[0], "where the other one was"
    last = status.tasks[1].attempts[1].worker_address
    assert second[1] in last


def test_tasks_of_a_gang_can_connect_to_each_other(machines: IrisClient) -> None:
    def greet_the_next() -> tuple[str, str]:
        import os
        import socket

        from iris.client import IrisClient
        from iris.cluster.types import get_job_info

        me = get_job_info()
        assert me is not None
        with socket.create_server((os.environ["IRIS_BIND_HOST"], me.ports["hello"])) as listener:
            next_one = (me.task_index + 1) % me.num_tasks
            with IrisClient.remote() as inner:
                name = f"{me.job_id}/{me.attempt_id}"
                own = f"{os.environ['IRIS_ADVERTISE_HOST']}:{me.ports['hello']}"
                inner.register_endpoint(f"{name}/{me.task_index}", own)
                address = inner.lookup_endpoint(f"{name}/{next_one}", timeout=60).address
            host, _, port = address.rpartition(":")
            assert host == me.hosts[next_one]
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(f"hello from {me.task_index}".encode())
            connection, (whose, _) = listener.accept()
            with connection, connection.makefile() as text:
                return text.read(), whose

    job = machines.run(greet_the_next, replicas=3, ports=["hello"], resources=ResourceSpec(cpu=1))
    said = [text for text, _ in job.results()]
    assert said == ["hello from 2", "hello from 0", "hello from 1"]


def test_independent_tasks_have_no_hosts(cluster: RemoteClusterClient) -> None:
    script = "echo ${IRIS_HOSTS_FILE-none}"
    request = {"IRIS_HOSTS_FILE": "/somebody/else's"}
    job_id = launch(
        cluster,
        shell(script),
        replicas=2,
        independent_tasks=True,
        environment=pb.EnvironmentConfig(env_vars=request),
    )
    wait_for_end(cluster, job_id)
    assert [line.data for line in cluster.fetch_task_logs(f"{job_id}/task-1")] == ["none"]


def test_hosts_file_emptied_by_a_task_is_complete_for_its_peers_and_later_attempts(
    client: IrisClient, tmp_path: Path
) -> None:
    spoil = f"echo someone-else > $IRIS_HOSTS_FILE; touch {tmp_path}/gate"
    script = f"""
    if [ $IRIS_TASK_INDEX = 0 ]; then {spoil}; fi
    while [ ! -e {tmp_path}/gate ]; do sleep 0.05; done
    stat -c %h $IRIS_HOSTS_FILE; wc -l < $IRIS_HOSTS_FILE
    [ $IRIS_TASK_INDEX.$IRIS_ATTEMPT_ID != 0.0 ]
    """
    spoiling = client.run(shell(script), replicas=8, max_retries_failure=1, retry_pause=0.0)
    spoiling.wait()
    later = client.run(shell("stat -c %h $IRIS_HOSTS_FILE; wc -l < $IRIS_HOSTS_FILE"), replicas=8)
    later.wait()
    for task in (*spoiling.tasks()[1:], *later.tasks()):
        assert [line.message for line in task.logs()][-2:] == ["1", "8"], task.task_id


def test_task_can_wait_until_an_endpoint_is_registered(client: IrisClient) -> None:
    name = unique("late")
    with pytest.raises(DeadlineExceededError, match=f"{name}.* was not registered within 0.1 s"):
        client.lookup_endpoint(name, timeout=0.1)
    program = f"""
from iris.client import IrisClient
with IrisClient.remote() as inner:
    inner.register_endpoint({name!r}, "somewhere:1")
    inner.lookup_endpoint({name + "-done"!r}, timeout=60)
"""
    job = client.run([sys.executable, "-c", program])
    assert client.lookup_endpoint(name, timeout=60).address == "somewhere:1"
    client.register_endpoint(f"{name}-done", "somewhere:2")
    job.wait()
