"""Closing a client ends what its other threads wait for, and says so."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cluster import running_cluster, shell
from support.ports import free_port
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer
from iris.errors import ClientClosedError

Verb = Callable[[IrisClient, str], object]
# Each of these goes on for as long as a job does, or longer.
WAITS: dict[str, Verb] = {
    "client.wait": lambda client, job_id: client.wait(job_id),
    "client.wait with a timeout": lambda client, job_id: client.wait(job_id, timeout=3600),
    "client.wait with its lines": lambda client, job_id: client.wait(job_id, stream_logs=True),
    "job.wait": lambda client, job_id: client.job(job_id).wait(),
    "job.results": lambda client, job_id: client.job(job_id).results(),
    "job.logs": lambda client, job_id: list(client.job(job_id).logs(follow=True)),
    "task.logs through the controller": lambda client, job_id: list(
        client.stream_task_logs(job_id, 0, route="controller")
    ),
    "raw": lambda client, job_id: list(client.stream_task_logs(job_id, 0).raw()),  # type: ignore[arg-type]
    "lookup_endpoint": lambda client, job_id: client.lookup_endpoint(f"none of {job_id}", timeout=3600),
    "cluster.watch_job": lambda client, job_id: list(client.cluster.watch_job(job_id)),
    "watch_jobs": lambda client, job_id: list(client.watch_jobs(id_prefix=job_id)),
}


class Blocked:
    """Runs a verb in a thread of its own."""

    def __init__(self, client: IrisClient, verb: Verb, job_id: str) -> None:
        self.error: BaseException | None = None
        self._work = lambda: verb(client, job_id)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def ends_as_closed(self) -> None:
        wait_until(lambda: self.is_over, "the end of the verb")
        assert isinstance(self.error, ClientClosedError), self.error
        assert "was closed" in str(self.error)


@pytest.fixture
def job_id(client: IrisClient) -> Iterator[str]:
    """A job that has written a line and goes on."""
    job = client.run(shell("echo up; exec sleep 3600"))
    next(iter(job.logs(follow=True, sources=["stdout"])))
    yield job.job_id
    job.terminate()
    job.wait(raise_on_failure=False)


def open_connections(address: str) -> int:
    """How many connections this process has to a server."""
    import psutil

    port = int(address.rpartition(":")[2])
    return sum(c.raddr != () and c.raddr.port == port for c in psutil.Process().net_connections("tcp"))


@pytest.mark.parametrize("name", WAITS)
def test_closing_the_client_ends_waits_and_log_streams_in_other_threads(
    shared_cluster: LocalServer, job_id: str, name: str
) -> None:
    other = IrisClient.remote(shared_cluster.address)
    blocked = Blocked(other, WAITS[name], job_id)
    wait_until(lambda: blocked.is_over or open_connections(shared_cluster.address) > 0, "a connection")
    other.close()
    blocked.ends_as_closed()
    with pytest.raises(ClientClosedError, match="was closed"):
        other.status(job_id)


def test_close_ends_calls_and_retries_to_a_controller_that_does_not_answer() -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    ports = silent.getsockname()[1], free_port()
    with closing(silent):
        for port in ports:
            for verb in WAITS.values():
                client = IrisClient.remote(f"127.0.0.1:{port}", token="none")
                blocked = Blocked(client, verb, "job")
                client.close()
                wait_until(lambda blocked=blocked: blocked.is_over, "the end of the verb")
                assert isinstance(blocked.error, ClientClosedError), blocked.error


def test_close_of_a_client_does_not_end_waits_of_other_clients(shared_cluster: LocalServer, job_id: str) -> None:
    one, other = IrisClient.remote(shared_cluster.address), IrisClient.remote(shared_cluster.address)
    with other:
        follows = [Blocked(client, WAITS["job.logs"], job_id) for client in (one, other)]
        one.close()
        follows[0].ends_as_closed()
        assert other.status(job_id).job_id == job_id
        assert not follows[1].is_over
    follows[1].ends_as_closed()


def test_close_of_a_client_ends_a_started_iteration_over_logs(shared_cluster: LocalServer, job_id: str) -> None:
    client = IrisClient.remote(shared_cluster.address)
    stream = client.job(job_id).logs(follow=True, sources=["stdout"])
    assert next(stream).message == "up"
    client.close()
    with pytest.raises(ClientClosedError):
        next(stream)


def test_close_of_the_iterator_of_a_log_stream_ends_the_stream(client: IrisClient) -> None:
    job = client.run(["sh", "-c", "echo up; exec sleep 300"])
    lines = iter(job.logs(follow=True))
    assert next(lines).message == "up"
    with closing(lines):
        pass
    assert list(lines) == []
    job.terminate()


def test_close_of_a_local_cluster_ends_blocked_calls() -> None:
    client = IrisClient.local()
    job = client.run(["sleep", "3600"])
    blocked = [Blocked(client, WAITS[name], job.job_id) for name in ("client.wait", "job.logs")]
    client.close()
    for one in blocked:
        one.ends_as_closed()
    with pytest.raises(ClientClosedError):
        client.run(["true"])
    client.close()


def test_close_in_the_parent_leaves_the_client_of_a_forked_child_open(
    shared_cluster: LocalServer, tmp_path: Path
) -> None:
    program = (
        "import os, sys\n"
        "from iris.client import IrisClient\n"
        "client = IrisClient.remote(sys.argv[1])\n"
        "job = client.run(['sh', '-c', 'while [ ! -e gate ]; do sleep 0.05; done'], working_directory=os.getcwd())\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    status = client.wait(job.job_id)\n"
        "    os._exit(status.state)\n"
        "client.close()\n"
        "open('gate', 'w').close()\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, shared_cluster.address],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("4\n", "")


def test_close_ends_a_wait_while_the_controller_is_stopped(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as server:
        client = IrisClient.remote(server.address)
        job = client.run(["sleep", "3600"])
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            blocked = [Blocked(client, verb, job.job_id) for verb in WAITS.values()]
            client.close()
            for one in blocked:
                one.ends_as_closed()
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
