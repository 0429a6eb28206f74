"""The remote client, by the contract of all cluster clients, over HTTP/1.1 and HTTP/2, and by what is its own."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contracts.cluster_client import *  # noqa: F403 - the contract's tests run here
from support.cluster import launch, running_cluster, shell, wait_for_end
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.errors import ControllerUnreachableError, InvalidAddressError, NotFoundError, WorkerUnreachableError
from iris.rpc import cluster_pb2


@pytest.fixture(scope="module", params=["http1", "http2"])
def cluster_client(request: pytest.FixtureRequest, shared_cluster: LocalServer) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(shared_cluster.address, http2=request.param == "http2") as client:
        yield client


def test_call_to_an_address_without_a_server_raises_controller_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes it, and nobody answers
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            RemoteClusterClient(address) as client,
            pytest.raises(ControllerUnreachableError, match=f"http://{address}.*iris up"),
        ):
            client.list_jobs()


@pytest.mark.parametrize("address", ["", "localhost", "ftp://host:1", "host:port"])
def test_address_in_no_accepted_form_is_refused(address: str) -> None:
    with pytest.raises(InvalidAddressError, match="host:port"):
        RemoteClusterClient(address)


def test_reading_the_log_of_a_silent_worker_raises_an_error(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as server, RemoteClusterClient(server.address) as client:
        ended = launch(client, shell("echo precious"))
        wait_for_end(client, ended)
        running = launch(client, shell("echo precious; exec sleep 300"))
        wait_until(lambda: client.fetch_task_logs(f"{running}/task-0"), "the line")
        (worker,) = client.list_workers()
        os.kill(_listener(worker.address), signal.SIGSTOP)  # it neither answers nor dies
        try:
            hurried = RemoteClusterClient(server.address, timeout_s=1.0)
            with hurried, pytest.raises(WorkerUnreachableError, match=worker.worker_id):
                hurried.fetch_task_logs(f"{running}/task-0")
            with RemoteClusterClient(server.address) as other:  # what has ended is kept, and needs no worker
                assert [entry.data for entry in other.fetch_task_logs(f"{ended}/task-0")] == ["precious"]
        finally:
            os.kill(_listener(worker.address), signal.SIGCONT)


def test_log_of_a_killed_worker_is_read_from_its_replacement(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as server, RemoteClusterClient(server.address) as client:
        job_id = launch(client, shell("echo precious"))
        wait_for_end(client, job_id)
        (worker,) = client.list_workers()
        os.kill(_listener(worker.address), signal.SIGKILL)
        wait_until(lambda: client.list_workers()[0].address != worker.address, "another worker process")
        (entry,) = client.fetch_task_logs(f"{job_id}/task-0")
        assert entry.data == "precious"


def test_reading_the_log_of_an_unknown_attempt_raises_not_found(cluster: RemoteClusterClient) -> None:
    job_id = launch(cluster, ["true"])
    wait_for_end(cluster, job_id)
    with pytest.raises(NotFoundError, match="has no attempt 1"):
        cluster.fetch_task_logs(f"{job_id}/task-0", attempt_id=1)


def test_log_bytes_that_are_not_text_arrive_unchanged(cluster: RemoteClusterClient) -> None:
    job_id = launch(cluster, shell(r"printf 'a\377b\nplain\nnul\000inside\n\303\n'"))
    wait_for_end(cluster, job_id)
    entries = cluster.fetch_task_logs(f"{job_id}/task-0")
    assert [entry.raw or entry.data.encode() for entry in entries] == [b"a\xffb", b"plain", b"nul\0inside", b"\xc3"]
    assert entries[0].data == "a\ufffdb"
    assert not entries[1].HasField("raw")


def test_log_line_of_ten_megabytes_arrives(cluster: RemoteClusterClient) -> None:
    size = 10 * 1024 * 1024
    job_id = launch(cluster, [sys.executable, "-c", f"import sys; sys.stdout.write('x' * {size})"])
    wait_for_end(cluster, job_id)
    entries = cluster.fetch_task_logs(f"{job_id}/task-0")
    assert "".join(entry.data for entry in entries) == "x" * size
    assert all(entry.partial for entry in entries)


def test_client_works_in_a_fork_while_another_thread_of_the_parent_reads(cluster: RemoteClusterClient) -> None:
    job_id = launch(cluster, ["sleep", "300"])
    watching = cluster.watch_job(job_id, timeout=60)
    next(watching)  # the parent has a connection in use
    try:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                cluster.terminate_job(job_id)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert [job.state for job in watching][-1] == cluster_pb2.JOB_STATE_KILLED
    finally:
        cluster.terminate_job(job_id)


def _listener(address: str) -> int:
    """The process that listens at an address of this machine."""
    import psutil

    port = int(address.rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return connection.pid
    raise AssertionError(f"nobody listens at {address}")


def test_watch_of_a_job_without_a_controller_ends_at_its_timeout_with_the_cause(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as server, RemoteClusterClient(server.address) as client:
        job_id = launch(client, ["sleep", "300"])
        server.process.kill()
        server.process.wait()
        start_s = time.monotonic()
        with pytest.raises(TimeoutError, match=r"as far as is known: the controller at .* does not answer"):
            list(client.watch_job(job_id, timeout=2))
        assert time.monotonic() - start_s >= 1.9, "not earlier: it may come back"
