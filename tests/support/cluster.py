"""Real clusters for tests, and what tests need to talk to them."""

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
    """A cluster of this machine whose files, messages of its processes included, stay in `directory` as evidence."""
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
    """A job name that no other test uses."""
    return f"{name}-{secrets.token_hex(4)}"


def launch(cluster: RemoteClusterClient, command: list[str], replicas: int = 1, **fields: Any) -> str:
    """Submits a command by the wire's own message, and answers with the job's id."""
    request = cluster_pb2.Controller.LaunchJobRequest(
        name=fields.pop("name", unique("job")), command=command, submission_id=secrets.token_hex(8), **fields
    )
    request.resources.replicas = replicas
    return cluster.launch_job(request)


def wait_for_end(cluster: RemoteClusterClient, job_id: str) -> cluster_pb2.JobStatus:
    """The final status of a job."""
    return wait_until(
        lambda: (job := cluster.get_job_status(job_id)) and is_job_finished(job.state) and job,
        f"the end of {job_id}",
    )


def wait_for_state(cluster: RemoteClusterClient, job_id: str, state: int) -> cluster_pb2.JobStatus:
    """The status of a job once it is in a state."""
    seen: list[cluster_pb2.JobStatus] = []

    def reached() -> bool:
        seen[:] = [cluster.get_job_status(job_id)]
        return seen[0].state == state

    wait_until(reached, f"{job_id} in state {state}")
    return seen[0]


def shell(script: str) -> list[str]:
    """A command that runs a shell script."""
    return ["sh", "-c", script]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def iris_processes() -> dict[int, str]:
    """Servers, workers and reapers that this test run has started, and what their tasks started, by process id.

    What the run starts inherits a variable of its own (conftest.py sets it): other runs may be going on beside it.
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
    """The reaper of a worker, if it has one."""
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
    """Whether a process has sockets, as workers and launchers have, and reapers have not."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
        return any(os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:") for name in names)
    except OSError:
        return False


def parent_of(pid: int) -> int | None:
    """The parent of a process; None when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
