"""`IrisClient.remote(…, transport=…)`: a transport of httpx that the user gives sends all requests of the client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.cluster import LocalServer

from iris.client import IrisClient
from iris.errors import ControllerUnreachableError, InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2
from iris.rpc.calls import TRIES

ADDRESS = "https://cluster.example"


def jobs(*job_ids: str) -> httpx.Response:
    """The answer of a controller to ListJobs."""
    message = cluster_pb2.Controller.ListJobsResponse(jobs=[cluster_pb2.JobStatus(job_id=job_id) for job_id in job_ids])
    return httpx.Response(200, content=message.SerializeToString(), headers={"content-type": "application/proto"})


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> IrisClient:
    return IrisClient.remote(ADDRESS, token="my-token", transport=httpx.MockTransport(answer))


def test_request_reaches_the_transport_with_url_token_and_timeout() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return jobs("a", "b")

    with client_of(answer) as client:
        assert [job.job_id for job in client.list_jobs()] == ["a", "b"]
    (request,) = seen
    assert str(request.url) == f"{ADDRESS}/iris.cluster.ControllerService/ListJobs"
    assert request.headers["authorization"] == "Bearer my-token"
    assert 0 < request.extensions["timeout"]["read"] <= 30


def test_error_of_the_server_arrives_through_the_transport() -> None:
    error = httpx.Response(404, json={"code": "not_found", "message": "no job named 'x'"})
    with client_of(lambda _: error) as client, pytest.raises(NotFoundError, match="no job named 'x'"):
        client.status("x")


def test_broken_connection_of_the_transport_is_retried() -> None:
    tries: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        tries.append(request)
        raise httpx.ConnectError("nobody there", request=request)

    with client_of(answer) as client, pytest.raises(ControllerUnreachableError, match=ADDRESS):
        client.list_jobs()
    assert len(tries) == TRIES


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ValueError("no route for cluster.example"), "ValueError: no route for cluster.example"),
        (httpx.UnsupportedProtocol("only http"), "UnsupportedProtocol: only http"),
    ],
)
def test_unexpected_exception_of_a_given_transport_is_named_and_not_retried(raised: Exception, said: str) -> None:
    tries: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        tries.append(request)
        raise raised

    with client_of(answer) as client, pytest.raises(ControllerUnreachableError) as caught:
        client.list_jobs()
    assert f"the given transport raised {said}" in str(caught.value)
    assert len(tries) == 1


class Odd(httpx.BaseTransport):
    """A transport that returns something other than an answer."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return None  # type: ignore[return-value]


def test_error_names_a_given_transport_that_returns_no_answer() -> None:
    with IrisClient.remote(ADDRESS, transport=Odd()) as client, pytest.raises(ControllerUnreachableError) as caught:
        client.list_jobs()
    assert "the given transport returned no answer: None" in str(caught.value)


class Recording(httpx.BaseTransport):
    """Passes requests on, and records them."""

    def __init__(self) -> None:
        self._next = httpx.HTTPTransport()
        self.urls: list[str] = []
        self.closed = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.urls.append(str(request.url))
        return self._next.handle_request(request)

    def close(self) -> None:
        self.closed += 1
        self._next.close()


def test_job_and_its_log_go_through_the_transport(shared_cluster: LocalServer) -> None:
    transport = Recording()
    with IrisClient.remote(shared_cluster.address, transport=transport) as client:
        job = client.run(["sh", "-c", "echo one; echo two"])
        assert [entry.message for entry in job.logs(follow=True) if entry.source == "stdout"] == ["one", "two"]
        assert job.wait().state == cluster_pb2.JOB_STATE_SUCCEEDED
        assert not transport.closed
        client.close()
    assert transport.closed == 1
    called = {url.rpartition("/")[2] for url in transport.urls}
    assert {"LaunchJob", "StreamTaskLogs"} <= called
    hosts = {httpx.URL(url).port for url in transport.urls}
    assert len(hosts) == 2, "the requests to the worker go through the transport too"


@pytest.mark.parametrize(
    ("transport", "said"),
    [
        (httpx.Client(transport=httpx.MockTransport(jobs)), "and not an HTTP client"),
        (httpx.AsyncBaseTransport(), "AsyncIrisClient takes an httpx.AsyncBaseTransport"),
        (httpx.HTTPTransport, "and not a class"),
        ("http://proxy:3128", "for example httpx.HTTPTransport(retries=1)"),
    ],
)
def test_object_that_is_not_a_transport_of_httpx_is_refused_with_advice(transport: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"transport must be an httpx\.BaseTransport or None, got") as caught:
        IrisClient.remote(ADDRESS, transport=transport)
    assert said in str(caught.value)


@pytest.mark.parametrize("other", [{"ca": "ca.pem"}, {"cert": "me.pem"}, {"http2": True}], ids=["ca", "cert", "http2"])
def test_settings_of_connections_are_refused_together_with_a_given_transport(other: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        IrisClient.remote(ADDRESS, transport=httpx.HTTPTransport(), **other)
    assert f"{next(iter(other))} and transport are mutually exclusive" in str(caught.value)


# A blocking call in a running event loop.

IN_A_LOOP = """
import asyncio, linecache, warnings
import httpx
from iris.client import IrisClient
from iris.errors import BlockingCallWarning

client = IrisClient.remote("http://cluster.example", transport=httpx.MockTransport(
    lambda request: httpx.Response(200, headers={"content-type": "application/proto"})))

async def main():
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        await asyncio.to_thread(client.list_jobs)
        print(len(given))
        for _ in range(3):
            client.list_jobs()  # the line that blocks
        for warning in list(given):
            line = linecache.getline(warning.filename, warning.lineno)
            print(warning.category is BlockingCallWarning, "AsyncIrisClient" in str(warning.message), line.strip())

client.list_jobs()
asyncio.run(main())
asyncio.run(main())  # as the next cell of a notebook
"""


def test_blocking_call_in_an_event_loop_succeeds_and_warns_once(tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(IN_A_LOOP)
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["0", "True True client.list_jobs()  # the line that blocks", "0"]
