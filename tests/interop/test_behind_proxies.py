"""A cluster behind real proxies, which run the configurations of docs/proxies.md."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from contracts.log_following import (  # noqa: F401 - the tests and fixtures of the contract run here
    Reach,
    python,
    read_and_leave,
    test_follow_continues_after_connections_were_refused,
    test_follow_of_an_unknown_job_or_task_is_not_found,
    test_prompt_is_returned_once_while_the_task_waits,
)
from support.certificates import CertificateAuthority
from support.chaos_proxy import ChaosProxy, Faults, gentle
from support.cluster import running_cluster, shell, unique
from support.port_server import digest_of, stream_of
from support.ports import free_port
from support.reverse_proxies import BARE_HOST, KINDS, program, running_proxy
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.client.forwarding.forward import Forward
from iris.cluster.client.server_process import LocalServer
from iris.errors import ControllerUnreachableError, NotFoundError, ResourceExhaustedError, UnauthenticatedError
from iris.rpc import cluster_pb2 as pb

ROOT = Path(__file__).parents[2]


@dataclass
class Behind(Reach):
    """A way to the logs that leads through a real proxy.

    Attributes:
        kind: The name of the proxy.
        address: The URL of the proxy.
        ca: The certificate authority that clients trust.
    """

    kind: str = ""
    address: str = ""
    ca: Path | None = None

    def connect(self, token: str | None = None) -> IrisClient:
        """Return a client that calls the proxy."""
        return IrisClient.remote(self.address, ca=self.ca, token=token)


def buf_curl(
    reach: Behind, protocol: str, call: str, request: str, *, token: str | None = None, reflection: bool = False
) -> list[str | Path]:
    """Return a command that makes a call with `buf curl` over HTTP/2."""
    words: list[str | Path] = [program("buf"), "curl", "--protocol", protocol]
    words += ["--cacert", reach.ca] if reach.ca else ["--http2-prior-knowledge"]
    words += ["--reflect-header", "*"] if reflection else ["--schema", ROOT / "proto"]
    words += ["--header", f"authorization: Bearer {token or os.environ['IRIS_TOKEN']}", "--data", request]
    return [*words, f"{reach.address}/iris.cluster.ControllerService/{call}"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", params=KINDS)
def reach(
    request: pytest.FixtureRequest,
    shared_cluster: LocalServer,
    authority: CertificateAuthority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Behind]:
    """A real proxy, and behind it another one that can break the proxy's connections to the controller."""
    port = urlsplit(shared_cluster.address).port or 0
    directory = tmp_path_factory.mktemp(request.param)
    with (
        ChaosProxy(("127.0.0.1", port)) as between,
        running_proxy(request.param, directory, between.port, authority.server("127.0.0.1", BARE_HOST)) as address,
        IrisClient.remote(shared_cluster.address) as beside,
    ):
        # All logs that the controller reads for clients are read from the workers.
        workers = wait_until(lambda: len(found := beside.cluster.list_workers()) == 2 and found, "two workers")
        behind = Behind(
            "controller",
            lambda: behind.connect(),
            beside,
            [between],
            [worker.address for worker in workers],
            gentle,
            request.param,
            address,
            authority.path if address.startswith("https") else None,
        )
        yield behind


def test_controller_behind_a_proxy_notices_a_disconnected_reader_before_the_next_message(
    reach: Behind, run: Callable[..., Job], tmp_path: Path
) -> None:
    """haproxy, for example, tells the controller only with `option abortonclose`."""
    gate = tmp_path / "gate"
    job = run(python(f"print('hello'); wait_for({str(gate)!r}); print('again'); wait_for('/nowhere')"))
    with reach.between(gentle, 0), reach.open_client() as client:
        before = reach.connections()
        read_and_leave(reach, client, job, "close", gate)
        (between,) = reach.proxies
        sent = between.answer_bytes
        # The controller may keep a connection to each worker.
        wait_until(lambda: reach.connections() <= before + len(reach.servers), "the controller to stop reading the log")
        assert between.answer_bytes == sent


def test_each_state_of_a_watched_job_arrives_before_the_next_state_begins(
    reach: Behind, run: Callable[..., Job], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = run(python(f"wait_for({str(gate)!r})"))
    seen = []
    with reach.between(gentle, 0), reach.open_client() as client:
        for status in client.cluster.watch_job(job.job_id):
            seen.append(status.state)
            if status.state == pb.JOB_STATE_RUNNING:
                gate.touch()
    assert seen[-1] == pb.JOB_STATE_SUCCEEDED
    assert pb.JOB_STATE_RUNNING in seen


def test_error_of_the_controller_passes_a_proxy_unchanged(reach: Behind) -> None:
    with reach.open_client() as client, pytest.raises(NotFoundError, match="no job named 'no-such-job'"):
        client.status("no-such-job")
    with reach.connect(token="no-token") as client, pytest.raises(UnauthenticatedError, match="not a token of Iris"):
        client.list_jobs()


def test_port_forward_through_a_proxy_carries_large_transfers_in_both_directions(
    reach: Behind, run: Callable[..., Job]
) -> None:
    job = run(
        [sys.executable, ROOT / "tests" / "support" / "port_server.py", "source", "sink"], ports=["source", "sink"]
    )
    size = 3 * 1024**2
    with reach.open_client() as client:
        with client.forward(job.job_id, "source") as forward, dial(forward) as connection:
            connection.sendall(b"%d\n" % size)
            with connection.makefile("rb") as received:
                assert hashlib.sha256(received.read()).hexdigest() == digest_of(size)
        with client.forward(job.job_id, "sink") as forward, dial(forward) as connection:
            for chunk in stream_of(size):
                connection.sendall(chunk)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as received:
                assert received.read() == f"{size} {digest_of(size)}\n".encode()


def dial(forward: Forward) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", forward.local_port))
    connection.settimeout(60)
    return connection


@pytest.mark.parametrize(("version", "media_type"), [("1.1", "text/plain"), ("2", "text/event-stream")])
def test_curl_follows_the_log_route(
    reach: Behind, run: Callable[..., Job], version: str, media_type: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = run(python(f"print('hello'); wait_for({str(gate)!r}); print('bye'); sys.exit(3)"))
    # Without TLS, as through SSH, curl chooses HTTP/2 only if it is told that the server speaks it.
    words = ["--cacert", str(reach.ca), f"--http{version}"] if reach.ca else []
    headers = [f"accept: {media_type}", f"authorization: Bearer {os.environ['IRIS_TOKEN']}"]
    words += [word for header in headers for word in ("--header", header)]
    url = f"{reach.address}/v1/jobs/{job.job_id}/logs?follow=1"
    log = b""
    with (
        reach.between(gentle, 0),
        subprocess.Popen([program("curl"), "--silent", "--no-buffer", *words, url], stdout=subprocess.PIPE) as curl,
    ):
        assert curl.stdout is not None
        for line in curl.stdout:
            log += line
            if b"hello" in line:
                gate.touch()
    assert curl.returncode == 0
    assert b"bye" in log
    assert b"exit code 3" in log or b'"exit_code": 3' in log


@pytest.mark.parametrize("protocol", ["connect", "grpc", "grpcweb"])
def test_buf_follows_a_log_and_reads_its_end(
    reach: Behind, run: Callable[..., Job], protocol: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = run(python(f"print('hello'); wait_for({str(gate)!r}); print('bye'); sys.exit(3)"))
    request = json.dumps({"jobId": job.job_id, "follow": True})
    with (
        reach.between(gentle, 0),
        subprocess.Popen(buf_curl(reach, protocol, "StreamTaskLogs", request), stdout=subprocess.PIPE) as buf,
    ):
        assert buf.stdout is not None
        log = b""
        for line in buf.stdout:
            found = re.search(rb'"records": "(.*)"', line)
            log += base64.b64decode(found[1]) if found else line
            if b"hello" in log:
                gate.touch()
    assert buf.returncode == 0
    assert b"bye" in log
    assert b'"state": "TASK_STATE_FAILED"' in log


@pytest.mark.parametrize("protocol", ["connect", "grpc", "grpcweb"])
def test_buf_reads_the_schema_and_receives_the_code_of_an_error(reach: Behind, protocol: str) -> None:
    for token, code in ((None, "not_found"), ("no-token", "unauthenticated")):
        # Reflection is a call that streams in both directions, and it needs a valid token.
        job = '{"jobId": "no-such-job"}'
        words = buf_curl(reach, protocol, "GetJobStatus", job, token=token, reflection=token is None)
        assert f'"code": "{code}"' in subprocess.run(words, capture_output=True, text=True, check=False).stderr


def test_workspace_of_3_mb_passes_a_proxy(reach: Behind, run: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(3_000_000))
    with reach.between(gentle, 0), reach.open_client() as client:
        job = client.run(shell("wc -c < large"), name=unique("upload"), workspace=tmp_path)
        job.wait(timeout=60)
        (entry,) = job.logs(route="controller", sources=["stdout"])
        assert entry.message.strip() == "3000000"


@pytest.mark.parametrize("reach", ["nginx"], indirect=True, scope="module")  # No other proxy has a limit by default.
def test_upload_over_the_default_limit_of_a_proxy_names_the_setting(reach: Behind, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(3_000_000))
    with (
        IrisClient.remote(f"https://{BARE_HOST}:{urlsplit(reach.address).port}", ca=reach.ca) as client,
        pytest.raises(ResourceExhaustedError, match=r"nginx.* answered 413 .*client_max_body_size 200m;"),
    ):
        client.run(["true"], name=unique("upload"), workspace=tmp_path)


def test_log_is_complete_although_the_proxy_loses_the_controller_while_it_is_read(
    reach: Behind, run: Callable[..., Job]
) -> None:
    """Caddy 2.6, for example, ends an answer in an orderly way after it has lost the controller."""
    job = run(["seq", "20000"])
    job.wait(timeout=60)
    cuts = itertools.count()

    def cut_three(chance: random.Random) -> Faults:
        return Faults("cut", after_bytes=20_000) if next(cuts) < 3 else Faults()

    with reach.between(cut_three, 0), reach.open_client() as client:
        stream = client.stream_task_logs(job.job_id, 0, route="controller", on_notice=lambda text: None)
        assert [entry.message for entry in stream] == [str(number) for number in range(1, 20001)]
        assert stream.ends[0].complete
        assert reach.struck() > 0


# haproxy tries to connect for 3 s, and the client calls it five times: that would take 15 s.
@pytest.mark.parametrize("reach", [kind for kind in KINDS if kind != "haproxy"], indirect=True, scope="module")
def test_controller_that_is_down_behind_a_proxy_is_reported_as_unreachable(reach: Behind) -> None:
    (between,) = reach.proxies
    with between.refusing(), reach.open_client() as client, pytest.raises(ControllerUnreachableError) as caught:
        client.list_jobs()
    assert "is the controller running?" in str(caught.value)


def test_cluster_that_advertises_a_proxy_runs_jobs(
    authority: CertificateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy ends TLS, so the controller and its worker do not use it."""
    monkeypatch.setenv("IRIS_CA", str(authority.path))  # The worker trusts the proxy.
    port = free_port()
    with (
        running_proxy("nginx", tmp_path, port, authority.server("127.0.0.1", BARE_HOST)) as address,
        running_cluster(tmp_path / "cluster", port=port, advertise=address, workers=1),
        IrisClient.remote(address) as client,
    ):
        job = client.run(shell("echo $IRIS_CONTROLLER_ADDRESS"))
        job.wait(timeout=60)
        assert [entry.message for entry in job.logs()] == [address]
