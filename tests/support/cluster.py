"""Starts real clusters for tests, and has functions for submitting jobs and waiting for them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support.tokens import keep_key
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.cluster.types import is_job_finished
from iris.config import ClusterConfig
from iris.rpc import cluster_pb2

RUN_VARIABLE = "IRIS_TEST_RUN"


@contextmanager
def running_cluster(directory: Path, **options: Any) -> Iterator[LocalServer]:
    """Run a cluster on this machine. Its files, including event logs, stay in `directory` as evidence."""
    keep_key(directory)
    server = start_server(ClusterConfig(**{"state_dir": directory, "port": 0, **options}), ends_with_us=True)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_http2_cluster(directory: Path, advertise_host: str) -> Iterator[tuple[str, dict[str, int]]]:
    """A cluster of two workers whose controller speaks HTTP/2 and 1.1, see http2_cluster.py: the controller's address,
    and the ports of the workers, by worker id. They say that they are at `advertise_host`, where nobody is yet."""
    directory.mkdir(exist_ok=True)
    words = [str(directory), "--workers", "2", "--advertise-host", advertise_host]
    with (directory / "server.log").open("w") as log:
        program = subprocess.Popen(
            [sys.executable, "-m", "support.http2_cluster", *words],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with program:
        try:
            assert program.stdout is not None
            address = program.stdout.readline().strip()
            with RemoteClusterClient(address, http2=True) as client:
                wait_until(lambda: len(client.list_workers()) == 2, "two workers")
                ports = {worker.worker_id: urlsplit(worker.address).port or 0 for worker in client.list_workers()}
            yield address, ports
        finally:
            program.send_signal(signal.SIGTERM)


def unique(name: str) -> str:
    """Return a job name that no other test uses."""
    return f"{name}-{secrets.token_hex(4)}"


def launch(cluster: RemoteClusterClient, command: list[str], replicas: int = 1, **fields: Any) -> str:
    """Submit a command as a message of the wire, and return the job's id."""
    request = cluster_pb2.Controller.LaunchJobRequest(
        name=fields.pop("name", unique("job")), command=command, submission_id=secrets.token_hex(8), **fields
    )
    request.resources.replicas = replicas
    return cluster.launch_job(request)


def wait_for_end(cluster: RemoteClusterClient, job_id: str) -> cluster_pb2.JobStatus:
    """Wait for the end of a job, and return its final status."""
    return wait_until(
        lambda: (job := cluster.get_job_status(job_id)) and is_job_finished(job.state) and job,
        f"the end of {job_id}",
    )


def wait_for_state(cluster: RemoteClusterClient, job_id: str, state: int) -> cluster_pb2.JobStatus:
    """Wait until a job is in a state, and return its status."""
    seen: list[cluster_pb2.JobStatus] = []

    def reached() -> bool:
        seen[:] = [cluster.get_job_status(job_id)]
        return seen[0].state == state

    wait_until(reached, f"{job_id} in state {state}")
    return seen[0]


def shell(script: str) -> list[str]:
    """Return a command that runs a shell script."""
    return ["sh", "-c", script]


def is_alive(pid: int) -> bool:
    """Return whether a process runs. A zombie does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def iris_processes() -> dict[int, str]:
    """Return the processes that this test run has started, by process id: servers, workers, reapers, and the processes
    of tasks.

    The processes of a test run inherit a variable that conftest.py sets. Other test runs may be running at the same
    time.
    """
    own = f"{RUN_VARIABLE}={os.environ[RUN_VARIABLE]}".encode()
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            variables = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            command = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        marked = any(variable.startswith(b"IRIS_ATTEMPT_MARK=") for variable in variables)
        if own in variables and (marked or "-m iris.server" in command or "-m iris.cluster.worker" in command):
            found[int(name)] = command
    return found


def reapers(worker: int) -> list[int]:
    """Return the reapers of a worker."""
    own = Path(f"/proc/{worker}/cmdline").read_bytes()
    try:
        children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        # A task's process that has not become what it runs yet looks the same, but has the worker's sockets.
        return [
            int(pid)
            for pid in children
            if Path(f"/proc/{pid}/cmdline").read_bytes() == own and not has_socket(int(pid))
        ]
    except OSError:
        return []


def has_socket(pid: int) -> bool:
    """Return whether a process has sockets. Workers and launchers have sockets, reapers do not."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
        return any(os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:") for name in names)
    except OSError:
        return False


def parent_of(pid: int) -> int | None:
    """Return the id of a process's parent. None if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
