"""What a reader of the log route may cost a controller, which runs in a thread of the test."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from support.cluster import launch, shell
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.plain_http import ask
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.quotas import Quota
from iris.rpc.auth.caller import READER


@pytest.fixture(scope="module")
def controller() -> Iterator[ControllerThread]:
    """A controller without workers, so that jobs wait; one user may have two streams."""
    with serving(FakeEngine(), Store(None), quota=Quota(streams=2)) as running:
        yield running


@pytest.fixture(scope="module")
def job(controller: ControllerThread) -> str:
    with RemoteClusterClient(controller.address) as cluster:
        return launch(cluster, shell("echo never"))


class Reader:
    """A follow over a plain socket."""

    def __init__(self, address: str, job: str, own: str, accept: str = "text/event-stream") -> None:
        url = urlsplit(address)
        self.connection = socket.create_connection((url.hostname or "", url.port or 0), 30)
        head = f"GET /v1/jobs/{job}/logs?follow=1 HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\n"
        self.connection.sendall(f"{head}authorization: Bearer {own}\r\n\r\n".encode())
        self.received = b""

    def read_until(self, text: bytes) -> None:
        while text not in self.received:
            data = self.connection.recv(4096)
            assert data, f"the connection ended after {self.received!r}"
            self.received += data


def open_streams(controller: ControllerThread) -> int:
    return controller.call(lambda: len(controller.controller.authority.streams.callers()))


def test_followed_log_of_a_waiting_job_begins_at_once_and_ends_with_its_reader(
    controller: ControllerThread, job: str
) -> None:
    wait_until(lambda: open_streams(controller) == 0, "the end of the streams of earlier tests")
    reader = Reader(controller.address, job, token(READER, name="leaver"))
    reader.read_until(b"retry: ")
    assert open_streams(controller) == 1
    reader.connection.close()
    wait_until(lambda: open_streams(controller) == 0, "the end of the stream")


def test_followed_logs_count_as_open_streams_of_their_user(controller: ControllerThread, job: str) -> None:
    own = token(READER, name="greedy")
    readers = [Reader(controller.address, job, own) for _ in range(2)]
    for reader in readers:
        reader.read_until(b"retry: ")
    refused = ask(controller.address, "GET", f"/v1/jobs/{job}/logs?follow=1", authorization=f"Bearer {own}")
    assert refused.status == 429
    assert b"'greedy' has 2 streams open" in refused.body
    other = token(READER, name="other")
    assert ask(controller.address, "GET", f"/v1/jobs/{job}/logs", authorization=f"Bearer {other}").status == 200
    for reader in readers:
        reader.connection.close()
    wait_until(
        lambda: ask(controller.address, "GET", f"/v1/jobs/{job}/logs", authorization=f"Bearer {own}").status == 200,
        "the streams to be given back",
    )


def test_revoked_token_ends_a_followed_log_with_the_reason(controller: ControllerThread, job: str) -> None:
    with RemoteClusterClient(controller.address) as cluster:
        made = cluster.create_token("short", "reader")
        reader = Reader(controller.address, job, made.secret, "application/x-ndjson")
        reader.read_until(b"\r\n\r\n")
        cluster.revoke_token(made.token.token_id)
    reader.read_until(b"\r\n0\r\n")
    (document,) = [json.loads(line) for line in reader.received.splitlines() if line.startswith(b"{")]
    assert (document["event"], document["code"]) == ("failed", "unauthenticated")
    assert ask(controller.address, "GET", f"/v1/jobs/{job}/logs", authorization=f"Bearer {made.secret}").status == 401


def test_end_of_a_terminated_job_ends_its_followed_log_without_lines(controller: ControllerThread) -> None:
    with RemoteClusterClient(controller.address) as cluster:
        job = launch(cluster, shell("echo never"))
        reader = Reader(controller.address, job, token(READER, name="waiter"), "text/plain")
        reader.read_until(b"\r\n\r\n")
        cluster.terminate_job(job)
    reader.read_until(b"\r\n0\r\n")
    assert f"iris: job {job} ended as KILLED".encode() in reader.received


def test_server_sent_events_of_too_many_tasks_are_refused(controller: ControllerThread) -> None:
    with RemoteClusterClient(controller.address) as cluster:
        job = launch(cluster, shell("echo never"), 1001)
    path = f"/v1/jobs/{job}/logs"
    refused = ask(controller.address, "GET", path, accept="text/event-stream")
    assert (refused.status, refused.document["code"]) == (400, "invalid_argument")
    assert "at most 1,000 tasks, got 1,001: choose tasks with task=" in refused.document["message"]
    assert ask(controller.address, "GET", f"{path}?task=1000", accept="text/event-stream").status == 200
    assert ask(controller.address, "GET", path, accept="application/x-ndjson").document["event"] == "ended"


def test_followed_log_over_http2_begins_at_once_and_ends_with_its_reader(
    controller: ControllerThread, job: str
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    wait_until(lambda: open_streams(controller) == 0, "the end of the streams of earlier tests")
    words = ["curl", "-sS", "-N", "--http2-prior-knowledge", "-i", "-H", "Accept: text/event-stream"]
    words += ["-H", f"Authorization: Bearer {token(READER, name='over-http2')}"]
    with subprocess.Popen(
        [*words, f"{controller.address}/v1/jobs/{job}/logs?follow=1"], stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"HTTP/2 200 \r\n"
        while not reader.stdout.readline().startswith(b"retry: "):
            pass
        assert open_streams(controller) == 1
        reader.kill()
    wait_until(lambda: open_streams(controller) == 0, "the end of the stream")
