"""What every transport of the sync client promises: Iris's own over HTTP/1.1 and HTTP/2, and one of httpx that the user
gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyqwest import Client
from support.answering_server import Server, http
from support.certificates import CertificateAuthority
from support.two_version_server import TwoVersionServer
from support.waiting import wait_until

from iris.errors import ClientClosedError, ControllerUnreachableError, DeadlineExceededError, FailedPreconditionError
from iris.rpc import cluster_connect
from iris.rpc.calls import call, stream
from iris.rpc.cluster_pb2 import Controller
from iris.rpc.http.client.async_client_transport import user_transport
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.http.client.stream_handle import StreamHandle
from iris.rpc.http.tls import ClientTls
from iris.rpc.peer import Peer

Connect = Callable[[], "Caller"]
KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "HTTP/1.1": dict,
    "HTTP/2": lambda: {"http2": True},
    "httpx HTTP/1.1": lambda: {"given": httpx.HTTPTransport()},
    "httpx HTTP/2": lambda: {"given": httpx.HTTPTransport(http1=False, http2=True)},
}


class Caller:
    """A client with one of the transports."""

    def __init__(self, address: str, **options: Any) -> None:
        self.transport = HttpTransport(address, **options)
        self.peer = Peer(address, "the controller", ControllerUnreachableError, lifetime=self.transport.lifetime)
        self.stub = cluster_connect.ControllerServiceClientSync(
            address, accept_compression=(), send_compression=None, http_client=self.transport.connect_client()
        )

    def list_jobs(self) -> list[str]:
        return [job.job_id for job in call(self.stub.list_jobs, Controller.ListJobsRequest(), self.peer).jobs]

    def call_without_answer(self, timeout_s: float = 30.0) -> None:
        call(self.stub.list_tasks, Controller.ListTasksRequest(job_id="a"), self.peer, timeout_s=timeout_s)

    def watch(self, handle: StreamHandle | None = None) -> Iterator[Any]:
        return stream(self.stub.watch_job(Controller.WatchJobRequest(job_id="a")), self.peer, handle)


@pytest.fixture(scope="module")
def server() -> Iterator[TwoVersionServer]:
    with contextlib.closing(TwoVersionServer()) as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def caller(kind: str, server: TwoVersionServer) -> Iterator[Caller]:
    server.requests.clear()
    caller = Caller(server.address, **KINDS[kind]())
    yield caller
    caller.transport.close()
    wait_until(lambda: server.waiting == 0)


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run `work` in a thread, whose list gets the exception that it ends with, or None."""
    ends: list[object] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            ends.append(error)
        else:
            ends.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ends


def test_calls_use_the_chosen_http_version_and_share_a_connection(
    caller: Caller, kind: str, server: TwoVersionServer
) -> None:
    assert [caller.list_jobs() for _ in range(3)] == [["a"]] * 3
    assert {version for version, _ in server.requests} == {"2" if kind.endswith("/2") else "1.1"}
    assert len({port for _, port in server.requests}) == 1


def test_call_without_an_answer_ends_at_its_deadline_and_later_calls_succeed(caller: Caller) -> None:
    with pytest.raises(DeadlineExceededError):
        caller.call_without_answer(timeout_s=0.2)
    assert caller.list_jobs() == ["a"]


def test_ctrl_c_ends_a_blocked_call_and_later_calls_succeed(caller: Caller, server: TwoVersionServer) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        wait_until(lambda: server.waiting == 1)
        signal.pthread_kill(main, signal.SIGINT)

    thread, _ = in_thread(press)
    with pytest.raises(KeyboardInterrupt):
        caller.call_without_answer()
    thread.join()
    assert caller.list_jobs() == ["a"]


def test_server_notices_a_stream_that_is_closed_early(caller: Caller, server: TwoVersionServer) -> None:
    watching = caller.watch()
    assert next(watching).job.state == 3
    wait_until(lambda: server.waiting == 1)
    watching.close()  # type: ignore[attr-defined]
    wait_until(lambda: server.waiting == 0)
    assert caller.list_jobs() == ["a"]


def test_many_streams_that_are_closed_early_leave_the_client_usable(caller: Caller, server: TwoVersionServer) -> None:
    """An HTTP/2 connection that counted each of these streams as open would refuse further calls."""
    for _ in range(110):
        watching = caller.watch()
        next(watching)
        watching.close()  # type: ignore[attr-defined]
    assert caller.list_jobs() == ["a"]
    wait_until(lambda: server.waiting == 0)


def test_closing_a_transport_ends_a_blocked_call_of_another_thread(caller: Caller, server: TwoVersionServer) -> None:
    thread, ends = in_thread(caller.call_without_answer)
    wait_until(lambda: server.waiting == 1)
    caller.transport.close()
    thread.join()
    assert [type(end) for end in ends] == [ClientClosedError]


def test_closing_a_transport_ends_a_stream_of_another_thread(caller: Caller, server: TwoVersionServer) -> None:
    thread, ends = in_thread(lambda: list(caller.watch()))
    wait_until(lambda: server.waiting == 1)
    caller.transport.close()
    thread.join()
    assert [type(end) for end in ends] == [ClientClosedError]


def test_abort_from_another_thread_ends_a_stream(caller: Caller, server: TwoVersionServer) -> None:
    caller.list_jobs()  # a stream of httpx's transport then uses this connection
    handle = StreamHandle()
    thread, ends = in_thread(lambda: list(caller.watch(handle)))
    wait_until(lambda: server.waiting == 1)
    handle.abort()
    thread.join()
    assert [type(end) for end in ends] == [ControllerUnreachableError]
    assert caller.list_jobs() == ["a"]


def test_child_after_a_fork_uses_its_own_connections_or_raises_an_error(caller: Caller, kind: str) -> None:
    caller.list_jobs()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, repr(caller.list_jobs()).encode())
        except FailedPreconditionError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    if kind.startswith("httpx"):
        assert "cannot be used in a child process after a fork" in said
        assert said.endswith("make a new client in the child process")
    else:
        assert said == "['a']"
    assert caller.list_jobs() == ["a"]


# HTTP/2 that is required and not there.


def test_error_names_a_server_without_http2_after_the_first_try() -> None:
    with contextlib.closing(Server([http("400 Bad Request")])) as old:
        caller = Caller(old.address, http2=True)
        with contextlib.closing(caller.transport), pytest.raises(ControllerUnreachableError) as caught:
            caller.list_jobs()
    said = f"at {old.address} cannot be reached: the server does not speak HTTP/2 without TLS; leave http2=True out"
    assert said in str(caught.value)
    assert old.connections == 1


def test_http2_through_a_proxy_that_forwards_http1_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(FailedPreconditionError) as caught:
        HttpTransport("http://cluster.example:50051", http2=True)
    assert "the proxy http://proxy.example:3128 (from HTTP_PROXY) forwards such calls as HTTP/1.1" in str(caught.value)


WITHOUT_H2 = """
import importlib.machinery, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "h2" else super().find_spec(name, path, target)
sys.meta_path[:] = [Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from iris.client import IrisClient
from iris.errors import MissingExtraError
with IrisClient.remote(sys.argv[1], ca=sys.argv[2]) as client:
    print([job.job_id for job in client.list_jobs()])
try:
    IrisClient.remote(sys.argv[1], ca=sys.argv[2], http2=True)
except MissingExtraError as error:
    print(error)
"""


# HTTP/2 over TLS.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls_server(authority: CertificateAuthority) -> Iterator[TwoVersionServer]:
    with contextlib.closing(TwoVersionServer(authority.server())) as running:
        yield running


@pytest.mark.parametrize(("http2", "version"), [(None, "2"), (True, "2"), (False, "1.1")])
def test_https_uses_http2_by_default(
    http2: bool | None, version: str, tls_server: TwoVersionServer, authority: CertificateAuthority
) -> None:
    caller = Caller(tls_server.address, http2=http2, tls=ClientTls(str(authority.path)))
    tls_server.requests.clear()
    with contextlib.closing(caller.transport):
        assert caller.list_jobs() == ["a"]
        watching = caller.watch()
        next(watching)
        watching.close()  # type: ignore[attr-defined]
        wait_until(lambda: tls_server.waiting == 0)
    assert [used for used, _ in tls_server.requests] == [version, version]


def test_large_request_over_https_uses_http1_because_httpcore_ignores_early_answers_over_http2(
    tls_server: TwoVersionServer, authority: CertificateAuthority
) -> None:
    with contextlib.closing(HttpTransport(tls_server.address, tls=ClientTls(ca=authority.path))) as transport:
        client = cluster_connect.ControllerServiceClientSync(
            tls_server.address,
            accept_compression=(),
            send_compression=None,
            http_client=transport.connect_client(),
        )
        for size in (100, 100_000, 100):
            client.list_jobs(Controller.ListJobsRequest(page_token="x" * size))
    assert [version for version, _ in tls_server.requests[-3:]] == ["2", "1.1", "2"]


def test_https_server_without_http2_is_called_over_http1_unless_http2_is_required(
    authority: CertificateAuthority,
) -> None:
    tls = ClientTls(str(authority.path))
    with contextlib.closing(TwoVersionServer(authority.server(), ("http/1.1",))) as server:
        caller = Caller(server.address, tls=tls)
        with contextlib.closing(caller.transport):
            assert caller.list_jobs() == ["a"]
        assert server.requests[0][0] == "1.1"
        strict = Caller(server.address, http2=True, tls=tls)
        with contextlib.closing(strict.transport), pytest.raises(ControllerUnreachableError) as caught:
            strict.list_jobs()
    assert "the server does not offer HTTP/2 over TLS (ALPN); leave http2=True out" in str(caught.value)
    assert len(server.requests) == 1


def test_program_without_h2_uses_http1_and_the_error_for_http2_names_the_missing_extra(
    tls_server: TwoVersionServer, authority: CertificateAuthority
) -> None:
    tls_server.requests.clear()
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_H2, tls_server.address, authority.path], capture_output=True, text=True
    )
    assert ran.stdout.startswith("['a']\nhttp2=True needs the extra [http2]: pip install 'iris-cluster[http2]'"), ran
    assert [used for used, _ in tls_server.requests] == ["1.1"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_https_trusts_the_certificates_of_a_directory(
    tls_server: TwoVersionServer, authority: CertificateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(authority.path, tmp_path)
    subprocess.run(["openssl", "rehash", tmp_path], check=True)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    caller = Caller(tls_server.address)
    with contextlib.closing(caller.transport):
        assert caller.list_jobs() == ["a"]

    async def list_jobs(*, http2: bool) -> int:
        transport = user_transport(tls_server.address, ClientTls(), None, http2=http2)
        url = f"{tls_server.address}/iris.cluster.ControllerService/ListJobs"
        answer = await Client(transport).post(url, headers={"content-type": "application/proto"}, content=b"")
        return answer.status

    assert asyncio.run(list_jobs(http2=False)) == 200
    assert asyncio.run(list_jobs(http2=True)) == 200, "pyqwest's transport, which reads no directories"


@pytest.fixture
def hashed_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the name of a certificate, in the working directory of the test. No variable names the file."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("IRIS_CA", raising=False)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "0123abcd.0"
    file.write_bytes(b"certificate")
    return file


def test_link_to_a_missing_file_in_a_directory_of_certificates_is_ignored(
    hashed_certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hashed_certificate.parent / "89abcdef.0").symlink_to("missing.pem")
    monkeypatch.setenv("SSL_CERT_DIR", str(hashed_certificate.parent))
    assert ClientTls().pems() == {"tls_ca_cert": b"certificate"}


@pytest.mark.parametrize("folders", ["other:", ":other", "missing"])
def test_directories_without_certificates_are_refused_instead_of_the_working_directory(
    hashed_certificate: Path, monkeypatch: pytest.MonkeyPatch, folders: str
) -> None:
    (hashed_certificate.parent / "other").mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", folders)
    with pytest.raises(FailedPreconditionError, match=f"SSL_CERT_DIR={folders} has no certificates that OpenSSL finds"):
        ClientTls().pems()
