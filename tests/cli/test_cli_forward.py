"""`iris forward` and `iris endpoints`, as processes."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique
from support.tokens import token

from iris.client import IrisClient, Job
from iris.cluster.client.server_process import LocalServer

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.
PROGRAM = Path(__file__).parents[1] / "support" / "port_server.py"


@pytest.fixture(scope="module")
def job(shared_cluster: LocalServer) -> Iterator[Job]:
    """A job of two tasks, each of which echoes on its port `echo`."""
    with IrisClient.remote(shared_cluster.address) as client:
        started = client.run([sys.executable, str(PROGRAM), "echo"], name=unique("cli"), ports=["echo"], replicas=2)
        for index in range(2):
            assert next(iter(client.stream_task_logs(started.job_id, index))).message == "listening"
        yield started
        started.terminate()


def echoed(address: str, data: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(60)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


def test_forward_command_prints_and_serves_local_addresses_until_ctrl_c(remote_iris: Iris, job: Job) -> None:
    number = job.tasks()[1].status().ports["echo"]
    running = remote_iris.start("forward", f"{job.job_id}/task-1", "echo", f"{number}:0")
    for port in ("echo", number):
        address, _, rest = running.line().partition(" -> ")
        assert rest == f"{job.job_id}/task-1, port {port}"
        assert echoed(address, b"hello") == b"hello"
    running.interrupt()
    assert running.exit_code() == 130
    assert running.stderr == ""


def test_forward_command_with_json_prints_one_line_for_scripts(remote_iris: Iris, job: Job) -> None:
    running = remote_iris.start("forward", job.job_id, "echo", "--json", "--listen", "127.0.0.2")
    document = json.loads(running.line())
    (forward,) = document.pop("forwards")
    assert document == {"job_id": job.job_id, "task_index": 0}
    assert forward["port"] == "echo"
    assert forward["address"].startswith("127.0.0.2:")
    assert forward["url"] == f"http://{forward['address']}"
    assert echoed(forward["address"], b"x") == b"x"
    assert "without a token" not in running.stderr
    running.interrupt()
    assert running.exit_code() == 130


def test_forward_command_ends_when_its_job_ends(remote_iris: Iris, client: IrisClient) -> None:
    job = client.run(["sleep", "600"], name=unique("sleeper"))
    running = remote_iris.start("forward", job.job_id, "8000:0")
    running.line()
    job.terminate()
    assert running.exit_code() == 0
    assert f"iris: task {job.job_id}/task-0 has ended: KILLED; the ports are closed" in running.stderr
    assert f"{job.job_id!r} has ended (KILLED)" in remote_iris("forward", job.job_id, "8000:0", code=1).stderr


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ("0", "PORT must be a number from 1 to 65535, got '0'"),
        ("99999", "PORT must be a number from 1 to 65535, got '99999'"),
        ("80:", "LOCAL must be a number from 0 to 65535, got ''"),
        ("80:x-", "LOCAL must be a number from 0 to 65535, got 'x-'"),
        ("8080:web", "the port of the task must come before the local port: write web:8080"),
        ("a b", "expected PORT or PORT:LOCAL, for example 8000, 8000:9000 or web:8080"),
    ],
)
def test_forward_command_with_an_invalid_port_is_refused(remote_iris: Iris, port: str, said: str) -> None:
    assert said in remote_iris("forward", "job", port, code=2).stderr


def test_forward_to_a_taken_local_port_is_refused_with_a_command_for_a_free_port(remote_iris: Iris, job: Job) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        refused = remote_iris("forward", f"{job.job_id}/task-1", f"echo:{taken}", "8000:0", code=1).stderr
    assert f"another program uses local port {taken}" in refused
    assert f"'iris forward {job.job_id}/task-1 echo:0 8000:0'" in refused


def test_forward_command_with_reversed_ports_prints_a_notice(remote_iris: Iris, job: Job) -> None:
    number = job.tasks()[0].status().ports["echo"]
    running = remote_iris.start("forward", job.job_id, f"1:{number}", "--listen", "127.0.0.3")
    running.line()
    running.says(f"the task has port {number} ('echo'), but 1 is the port of the task")
    running.interrupt()
    assert running.exit_code() == 130


def test_forward_command_with_an_unknown_port_name_lists_the_known_names(remote_iris: Iris, job: Job) -> None:
    assert "has no port named 'web'; its ports are: echo" in remote_iris("forward", job.job_id, "web", code=1).stderr


def test_forward_command_without_a_port_lists_the_ports_with_commands(
    remote_iris: Iris, client: IrisClient, job: Job
) -> None:
    name, number = unique("api"), job.tasks()[1].status().ports["echo"]
    endpoint_id = client.cluster.register_endpoint(name, "http://10.0.0.1:8000/v1", job.job_id)
    refused = remote_iris("forward", f"{job.job_id}/task-1", code=2).stderr
    assert f"echo (port {number}): iris forward {job.job_id}/task-1 echo" in refused
    assert name not in refused, "the endpoint is not one of this task"
    refused = remote_iris("forward", job.job_id, code=2).stderr
    assert f"{name!r} ('http://10.0.0.1:8000/v1'): iris forward {job.job_id}/task-0 8000" in refused
    client.cluster.unregister_endpoint(endpoint_id)


def test_forward_command_without_a_port_explains_ports_that_are_not_known(
    remote_iris: Iris, client: IrisClient
) -> None:
    first = client.run(["sleep", "600"], name=unique("first"))
    waiting = client.run(["true"], name=unique("later"), ports=["Web"], after=[first.job_id])
    refused = remote_iris("forward", waiting.job_id, code=2).stderr
    assert f"web (its number is not known yet): iris forward {waiting.job_id} web" in refused
    refused = remote_iris("forward", first.job_id, code=2).stderr
    assert "has no endpoints, and has requested no ports with 'iris run --port'" in refused
    assert f"'iris forward {first.job_id} 8000'" in refused
    waiting.terminate()
    first.terminate()


def test_forward_command_for_a_job_of_another_user_is_refused(remote_iris: Iris, job: Job) -> None:
    refused = remote_iris("forward", job.job_id, "echo", code=1, IRIS_TOKEN=token("user", name="somebody"))
    assert "only the owner 'tests'" in refused.stderr


def test_endpoints_shows_registered_names_and_ports_of_running_tasks(
    remote_iris: Iris, client: IrisClient, job: Job
) -> None:
    name = unique("name")
    client.cluster.register_endpoint(name, "host:1234", job.job_id, {"kind": "test"})
    document = remote_iris.json("endpoints", job.job_id)
    (endpoint,) = document["endpoints"]
    del endpoint["endpoint_id"]
    assert endpoint == {
        "name": name,
        "address": "host:1234",
        "job_id": job.job_id,
        "task_index": None,
        "attempt_id": None,
        "metadata": {"kind": "test"},
    }
    ports = [task.status().ports["echo"] for task in job.tasks()]
    shown = [
        {"job_id": job.job_id, "task_index": index, "name": "echo", "port": port, "host": "127.0.0.1"}
        for index, port in enumerate(ports)
    ]
    assert document["ports"] == shown
    assert remote_iris.json("endpoints", f"{job.job_id}/task-1") == {"endpoints": [], "ports": [shown[1]]}
    everything = remote_iris.json("endpoints")
    assert [one for one in everything["ports"] if one["job_id"] == job.job_id] == shown
    assert name in [one["name"] for one in everything["endpoints"]]
    lines = remote_iris("endpoints", job.job_id).stdout.splitlines()
    assert lines[1].split() == [name, job.job_id, "host:1234", "kind=test"]
    assert lines[-1].split() == ["echo", f"{job.job_id}/task-1", f"127.0.0.1:{ports[1]}"]
