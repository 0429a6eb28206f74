"""`wait` asks at least once, however short its timeout is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from support.chaos_proxy import ChaosProxy, Faults, always
from support.cluster import shell

from iris.client import IrisClient, Job
from iris.cluster.client.server_process import LocalServer
from iris.errors import JobFailedError, NotFoundError
from iris.rpc import cluster_pb2 as pb

SHORT = [0, 0.0, 1e-9, 0.001]


@pytest.fixture
def ended(client: IrisClient) -> Job:
    job = client.run(lambda: "value")
    job.wait(timeout=60)
    return job


@pytest.fixture
def slow_client(shared_cluster: LocalServer) -> Iterator[IrisClient]:
    """A client whose answers take a good part of a second."""
    place = urlsplit(shared_cluster.address)
    slow = always(Faults(bytes_per_s=4000, piece_bytes=100))
    with (
        ChaosProxy((place.hostname or "", place.port or 0), slow, seed=1) as proxy,
        IrisClient.remote(proxy.address) as client,
    ):
        yield client


@pytest.mark.parametrize("timeout", SHORT)
def test_wait_with_a_tiny_timeout_on_an_ended_job_returns_its_status(
    client: IrisClient, ended: Job, timeout: float
) -> None:
    assert client.wait(ended.job_id, timeout=timeout).state == pb.JOB_STATE_SUCCEEDED
    assert client.wait(ended.job_id, timeout=timeout, stream_logs=True).state == pb.JOB_STATE_SUCCEEDED
    assert ended.wait(timeout=timeout).state == pb.JOB_STATE_SUCCEEDED
    assert ended.results(timeout=timeout) == ["value"]
    (*_, last) = client.cluster.watch_job(ended.job_id, timeout=timeout)
    assert last.state == pb.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_wait_with_a_timeout_shorter_than_the_call_returns_the_status(
    slow_client: IrisClient, ended: Job, timeout: float
) -> None:
    assert slow_client.wait(ended.job_id, timeout=timeout).state == pb.JOB_STATE_SUCCEEDED


def test_wait_with_timeout_zero_on_a_failed_job_reports_the_reason(client: IrisClient) -> None:
    job = client.run(shell("echo why; exit 3"))
    job.wait(raise_on_failure=False)
    with pytest.raises(JobFailedError, match="exit code 3") as caught:
        job.wait(timeout=0)
    assert caught.value.last_lines == ("why",)


def test_wait_with_timeout_zero_on_a_running_job_gives_up_at_once(client: IrisClient) -> None:
    job = client.run(["sleep", "300"])
    try:
        for stream_logs in (False, True):
            began = time.monotonic()
            with pytest.raises(TimeoutError, match=f"'{job.job_id}' has not ended within 0 s$"):
                client.wait(job.job_id, timeout=0, stream_logs=stream_logs)
            assert time.monotonic() - began < 30, "it did not wait for the job"
    finally:
        job.terminate()
    job.wait(raise_on_failure=False)


def test_wait_with_timeout_zero_on_an_unknown_job_is_a_not_found_error(client: IrisClient) -> None:
    with pytest.raises(NotFoundError, match="no-such-job"):
        client.wait("no-such-job", timeout=0)


def test_wait_with_timeout_zero_without_a_controller_is_a_timeout_with_the_reason() -> None:
    with IrisClient.remote("127.0.0.1:1", token="none") as client, pytest.raises(TimeoutError, match="does not answer"):
        client.wait("job", timeout=0)
