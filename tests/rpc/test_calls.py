"""Calls over real sockets, to servers that misbehave: what is tried again, what is not, and what the errors say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.answering_server import Answer, Connection, Server, http
from support.waiting import wait_until

from iris.errors import (
    ERROR_FOR_CODE,
    ControllerUnreachableError,
    DeadlineExceededError,
    InternalError,
    IrisError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.calls import TRIES, call, call_async, left_until, stream
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.peer import Peer

Request = cluster_pb2.Controller.ListJobsRequest
Response = cluster_pb2.Controller.ListJobsResponse


def jobs(*job_ids: str, close: bool = False) -> Answer:
    """What a controller answers."""
    message = Response(jobs=[cluster_pb2.JobStatus(job_id=job_id) for job_id in job_ids])
    return http("200 OK", message.SerializeToString(), "application/proto", close=close)


def error(code: str, message: str, status: str = "400 Bad Request") -> Answer:
    """An error as Connect writes it."""
    return http(status, json.dumps({"code": code, "message": message}).encode(), "application/json")


def reset(connection: Connection) -> bool:
    """RST instead of an answer."""
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def hang_up(_: Connection) -> bool:
    """FIN instead of an answer."""
    return False


def cut_off(connection: Connection) -> bool:
    """Half an answer."""
    connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\nContent-Length: 100\r\n\r\n12345")
    return False


def no_http(connection: Connection) -> bool:
    connection.sock.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    return False


def silence(connection: Connection) -> bool:
    """No answer for as long as the server is there."""
    connection.server.closing.wait()
    return False


def drip(connection: Connection) -> bool:
    """A whole answer, a byte at a time: whoever waits for each byte anew waits for seconds."""
    body = Response(jobs=[cluster_pb2.JobStatus(job_id="x" * 50)]).SerializeToString()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sock.sendall(head.encode())
    for position in range(len(body)):
        connection.sock.sendall(body[position : position + 1])
        connection.server.closing.wait(0.05)
    return True


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*answers: Answer, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(answers, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


# Three transports: Iris's own and one of httpx for users, and the async one by which controller and workers call each
# other.


def peer_at(address: str) -> Peer:
    return Peer(address, "the controller", ControllerUnreachableError, advice="start one with 'iris up'")


def list_jobs(address: str, *, timeout_s: float = 30.0) -> list[str]:
    """One call by the clients of users."""
    with contextlib.closing(HttpTransport(address)) as transport:
        return list_jobs_with(transport, address, timeout_s=timeout_s)


def list_jobs_with(transport: HttpTransport, address: str, *, timeout_s: float = 30.0) -> list[str]:
    stub = cluster_connect.ControllerServiceClientSync(
        address, accept_compression=(), send_compression=None, http_client=transport.connect_client()
    )
    return [job.job_id for job in call(stub.list_jobs, Request(), peer_at(address), timeout_s=timeout_s).jobs]


def list_jobs_httpx(address: str, *, timeout_s: float = 30.0) -> list[str]:
    """One call over a transport of httpx that the user gives."""
    with contextlib.closing(HttpTransport(address, given=httpx.HTTPTransport())) as transport:
        return list_jobs_with(transport, address, timeout_s=timeout_s)


def list_jobs_async(address: str, *, timeout_s: float = 30.0) -> list[str]:
    """One call as a worker makes it."""

    async def main() -> Response:
        stub = cluster_connect.ControllerServiceClient(address, accept_compression=(), send_compression=None)
        return await call_async(stub.list_jobs, Request(), peer_at(address), timeout_s=timeout_s)

    return [job.job_id for job in asyncio.run(main()).jobs]


ListJobs = Callable[..., list[str]]
every_transport = pytest.mark.parametrize(
    "ask", [list_jobs, list_jobs_httpx, list_jobs_async], ids=["sync", "httpx", "async"]
)


@every_transport
def test_call_returns_the_answer_after_one_request(ask: ListJobs, serve: Callable[..., Server]) -> None:
    server = serve(jobs("a", "b"))
    assert ask(server.address) == ["a", "b"]
    assert len(server.requests) == 1
    assert server.requests[0].startswith(b"POST /iris.cluster.ControllerService/ListJobs HTTP/1.1\r\n")


def test_call_sends_its_deadline_in_a_header(serve: Callable[..., Server]) -> None:
    server = serve(jobs())
    list_jobs(server.address, timeout_s=7)
    header = next(line for line in server.requests[0].lower().split(b"\r\n") if line.startswith(b"connect-timeout-ms:"))
    assert 0 < int(header.split(b":")[1]) <= 7000


@every_transport
def test_call_to_a_port_without_a_listener_is_unreachable(ask: ListJobs) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, but nobody listens
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ControllerUnreachableError) as caught:
            ask(address)
    assert isinstance(caught.value, ConnectionError)
    text = str(caught.value)
    assert f"the controller at {address} does not answer" in text
    assert "refused" in text.lower()
    assert text.endswith("start one with 'iris up'")


def test_call_to_an_unknown_host_raises_controller_unreachable() -> None:
    address = "http://iris.invalid:50051"
    with pytest.raises(ControllerUnreachableError) as caught:
        list_jobs(address)
    assert f"the controller at {address} does not answer" in str(caught.value)


@every_transport
@pytest.mark.parametrize("fault", [reset, hang_up, cut_off])
def test_call_is_retried_after_a_broken_connection(ask: ListJobs, fault: Answer, serve: Callable[..., Server]) -> None:
    server = serve(fault, fault, jobs("a"))
    assert ask(server.address) == ["a"]
    assert len(server.requests) == 3
    assert server.connections == 3


@every_transport
@pytest.mark.parametrize("fault", [reset, hang_up, no_http])
def test_call_fails_after_several_tries(ask: ListJobs, fault: Answer, serve: Callable[..., Server]) -> None:
    server = serve(fault)
    with pytest.raises(ControllerUnreachableError, match=f"the controller at {server.address} does not answer"):
        ask(server.address)
    assert len(server.requests) == TRIES


@every_transport
@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"])
def test_call_is_retried_after_the_gateway_error_of_a_proxy(
    ask: ListJobs, status: str, serve: Callable[..., Server]
) -> None:
    server = serve(http(status, b"<h1>upstream</h1>"), http(status), jobs("a"))
    assert ask(server.address) == ["a"]
    assert len(server.requests) == 3


def test_call_fails_after_repeated_gateway_errors_of_a_proxy(serve: Callable[..., Server]) -> None:
    server = serve(http("503 Service Unavailable", b"<h1>upstream</h1>"))
    with pytest.raises(ControllerUnreachableError) as caught:
        list_jobs(server.address)
    assert f"the controller at {server.address} is not available now" in str(caught.value)
    assert "Service Unavailable" in str(caught.value)
    assert len(server.requests) == TRIES


# An answer is an answer.

NOT_RETRIED = sorted(set(ERROR_FOR_CODE) - {"unavailable"})


@every_transport
@pytest.mark.parametrize("code", NOT_RETRIED)
def test_call_is_not_retried_after_an_error_from_the_server(
    ask: ListJobs, code: str, serve: Callable[..., Server]
) -> None:
    server = serve(error(code, "no job named 'é'"), jobs("a"))
    with pytest.raises(IrisError) as caught:
        ask(server.address)
    assert type(caught.value) in (ERROR_FOR_CODE[code], ControllerUnreachableError)
    assert "no job named 'é'" in str(caught.value)
    assert len(server.requests) == 1


def test_call_to_an_unavailable_server_is_retried(serve: Callable[..., Server]) -> None:
    server = serve(error("unavailable", "shutting down", "503 Service Unavailable"), jobs("a"))
    assert list_jobs(server.address) == ["a"]
    always = serve(error("unavailable", "shutting down", "503 Service Unavailable"))
    with pytest.raises(ControllerUnreachableError, match="shutting down") as caught:
        list_jobs(always.address)
    assert always.address in str(caught.value)
    assert len(always.requests) == TRIES


def test_errors_keep_their_class_over_the_wire() -> None:
    """Code that knows nothing of Iris can catch them."""
    for code, kind in ERROR_FOR_CODE.items():
        assert issubclass(kind, IrisError)
        assert kind("text").code == code or code in ("out_of_range", "aborted", "canceled", "unknown")
    assert issubclass(NotFoundError, LookupError)
    assert issubclass(UnavailableError, ConnectionError)
    assert issubclass(DeadlineExceededError, TimeoutError)


# Somebody else's server at that address.

PAGE = b"<!doctype html><html><h1>It works!</h1></html>"


@every_transport
@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", PAGE),
        http("200 OK", b'{"jobs": 5}', "application/json"),
        http("200 OK", b"", "text/plain"),
        http("404 Not Found", PAGE),
        http("404 Not Found", b'{"detail":"Not Found"}', "application/json"),
        http("404 Not Found", b"[]", "application/json"),
        http("405 Method Not Allowed", PAGE),
        http("302 Found", b""),
        http("500 Internal Server Error", PAGE),
        http("401 Unauthorized", PAGE),
        http("403 Forbidden", PAGE),
    ],
    ids=["200 page", "200 json", "200 empty", "404 page", "404 json", "404 list", "405", "302", "500", "401", "403"],
)  # fmt: skip
def test_error_for_an_answer_of_another_program_names_the_address(
    ask: ListJobs, answer: Answer, serve: Callable[..., Server]
) -> None:
    """The text names who was asked: "Not Found" alone says nothing."""
    server = serve(answer)
    with pytest.raises(IrisError) as caught:
        ask(server.address)
    assert not isinstance(caught.value, ValueError), "the caller has given nothing that is wrong"
    assert server.address in str(caught.value)
    assert len(server.requests) == 1


def test_error_names_a_server_that_requires_a_login(serve: Callable[..., Server]) -> None:
    with pytest.raises(UnauthenticatedError):
        list_jobs(serve(http("401 Unauthorized", PAGE)).address)


@every_transport
def test_error_for_an_answer_that_cannot_be_decoded_does_not_blame_the_caller(
    ask: ListJobs, serve: Callable[..., Server]
) -> None:
    server = serve(http("200 OK", b"\xff\xff\xff\xff", "application/proto"))
    with pytest.raises(IrisError) as caught:
        ask(server.address)
    assert isinstance(caught.value, InternalError)
    assert server.address in str(caught.value)


# Time.


@every_transport
def test_silent_server_raises_deadline_exceeded(ask: ListJobs, serve: Callable[..., Server]) -> None:
    server = serve(silence)
    with pytest.raises(DeadlineExceededError, match=f"the controller at {server.address} did not answer in time"):
        ask(server.address, timeout_s=1)
    assert len(server.requests) == 1


@every_transport
def test_answer_that_arrives_too_slowly_raises_deadline_exceeded(ask: ListJobs, serve: Callable[..., Server]) -> None:
    """The deadline is for the call, not for each byte."""
    server = serve(drip)
    with pytest.raises(DeadlineExceededError):
        ask(server.address, timeout_s=0.5)


@every_transport
def test_deadline_of_a_call_applies_to_all_tries_together(ask: ListJobs, serve: Callable[..., Server]) -> None:
    server = serve(reset, silence)
    with pytest.raises(DeadlineExceededError):
        ask(server.address, timeout_s=2)
    assert len(server.requests) == 2


# Connections.


def test_idle_connection_that_the_server_closed_is_replaced(serve: Callable[..., Server]) -> None:
    server = serve(jobs("a"), jobs("b"), jobs("c", close=True), jobs("d"))
    with contextlib.closing(HttpTransport(server.address)) as transport:
        for expected in ("a", "b", "c", "d"):
            assert list_jobs_with(transport, server.address) == [expected]
    assert server.connections == 2


def test_client_can_be_shared_by_threads(serve: Callable[..., Server]) -> None:
    server = serve(jobs("a"))
    found: list[list[str]] = []
    with contextlib.closing(HttpTransport(server.address)) as transport:

        def ask() -> None:
            for _ in range(20):
                found.append(list_jobs_with(transport, server.address))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [["a"]] * 160


def test_connections_of_a_burst_of_calls_are_closed_when_the_server_has_closed_them(
    serve: Callable[..., Server],
) -> None:
    together = threading.Barrier(4)

    def answer(connection: Connection) -> bool:
        together.wait()
        return jobs("a", close=True)(connection)

    server = serve(*[answer] * 4, jobs("b"))
    with contextlib.closing(HttpTransport(server.address)) as transport:
        threads = [threading.Thread(target=list_jobs_with, args=(transport, server.address)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: list_jobs_with(transport, server.address) and len(transport.lifetime._sockets) == 1)


def test_call_to_loopback_ignores_the_proxies_of_the_environment(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert list_jobs(serve(jobs("a")).address) == ["a"]


def test_call_to_another_host_uses_the_proxy_of_the_environment(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(jobs("by proxy"))
    monkeypatch.setenv("http_proxy", proxy.address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert list_jobs("http://iris.invalid:50051") == ["by proxy"]
    assert proxy.requests[0].startswith(b"POST http://iris.invalid:50051/iris.cluster.ControllerService/ListJobs")


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_client_works_in_a_forked_child_and_in_its_parent(serve: Callable[..., Server]) -> None:
    """The child is forked while another thread of its parent is in the middle of a call."""
    go_on = threading.Event()

    def late(connection: Connection) -> bool:
        go_on.wait()
        return jobs("late")(connection)

    server = serve(jobs("first"), late, jobs("child"), jobs("parent"))
    with contextlib.closing(HttpTransport(server.address)) as transport:
        assert list_jobs_with(transport, server.address) == ["first"]
        found: list[list[str]] = []
        thread = threading.Thread(target=lambda: found.append(list_jobs_with(transport, server.address)))
        thread.start()
        wait_until(lambda: len(server.requests) == 2)
        assert server.connections == 1  # the child inherits the one that is in use
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, repr(list_jobs_with(transport, server.address, timeout_s=20)).encode())
                transport.close()
            except BaseException as error:  # noqa: BLE001 - nothing of pytest may run in the child
                os.write(writer, repr(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        try:
            with open(reader, "rb") as pipe:
                assert pipe.read() == b"['child']"
        finally:
            os.waitpid(child, 0)
            go_on.set()
            thread.join()
        assert found == [["late"]]
        assert list_jobs_with(transport, server.address) == ["parent"]
    assert server.connections == 2  # one in each process


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-signed, for localhost: nobody trusts it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


def test_untrusted_certificate_fails_without_a_retry(certificate: Path, serve: Callable[..., Server]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = serve(jobs("a"), tls=context)
    with pytest.raises(ControllerUnreachableError, match=r"(?i)certificate") as caught:
        list_jobs(f"https://localhost:{server.port}")
    assert f"https://localhost:{server.port}" in str(caught.value)
    assert server.connections == 1  # another try would find the same certificate


def test_https_call_to_a_server_without_tls_fails_with_the_address(serve: Callable[..., Server]) -> None:
    server = serve(jobs("a"))
    with pytest.raises(ControllerUnreachableError, match=f"https://127.0.0.1:{server.port}"):
        list_jobs(f"https://127.0.0.1:{server.port}")


# Streams.


def envelope(flags: int, data: bytes) -> bytes:
    return struct.pack(">BI", flags, len(data)) + data


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/connect+proto\r\nTransfer-Encoding: chunked\r\n\r\n"


def news(state: int) -> bytes:
    message: Any = cluster_pb2.Controller.WatchJobResponse()
    message.job.state = state
    return chunk(envelope(0, message.SerializeToString()))


def watch(address: str) -> Iterator[int]:
    with contextlib.closing(HttpTransport(address)) as transport:
        stub = cluster_connect.ControllerServiceClientSync(
            address, accept_compression=(), send_compression=None, http_client=transport.connect_client()
        )
        messages = stub.watch_job(cluster_pb2.Controller.WatchJobRequest(job_id="x"))
        for message in stream(messages, peer_at(address)):
            yield message.job.state


def test_each_message_of_a_stream_arrives_when_it_is_sent(serve: Callable[..., Server]) -> None:
    seen = threading.Event()

    def answer(connection: Connection) -> bool:
        connection.sock.sendall(HEAD + news(1))
        seen.wait()  # the second message is sent only when the first has arrived
        connection.sock.sendall(news(4) + chunk(envelope(2, b"{}")) + b"0\r\n\r\n")
        return True

    states = watch(serve(answer).address)
    assert next(states) == 1
    seen.set()
    assert list(states) == [4]


def test_stream_whose_connection_breaks_raises_an_error(serve: Callable[..., Server]) -> None:
    def answer(connection: Connection) -> bool:
        connection.sock.sendall(HEAD + news(3))
        return False

    server = serve(answer)
    states = watch(server.address)
    assert next(states) == 3
    with pytest.raises(ControllerUnreachableError, match=server.address):
        next(states)
    assert len(server.requests) == 1  # only the reader knows from where to go on


@pytest.mark.parametrize("rest", [b"", envelope(0, b"four")[:3], envelope(0, b"four")[:7]])
def test_stream_that_ends_without_its_end_message_counts_as_a_lost_connection(
    serve: Callable[..., Server], rest: bytes
) -> None:
    """Caddy 2.6, for example, ends an answer in an orderly way after it has lost the server."""
    cut = HEAD + news(3) + (chunk(rest) if rest else b"") + b"0\r\n\r\n"
    server = serve(lambda connection: connection.sock.sendall(cut) is None)
    states = watch(server.address)
    assert next(states) == 3
    with pytest.raises(ControllerUnreachableError, match="the stream was cut"):
        next(states)


def test_stream_raises_the_error_with_which_the_server_ends_it(serve: Callable[..., Server]) -> None:
    end = json.dumps({"error": {"code": "not_found", "message": "no job named 'x'"}}).encode()
    server = serve(lambda connection: connection.sock.sendall(HEAD + chunk(envelope(2, end)) + b"0\r\n\r\n") is None)
    with pytest.raises(NotFoundError, match="no job named 'x'"):
        next(watch(server.address))


def test_stream_closed_early_closes_its_connection(serve: Callable[..., Server]) -> None:
    left = threading.Event()

    def answer(connection: Connection) -> bool:
        connection.sock.sendall(HEAD + news(3))
        with contextlib.suppress(OSError):
            assert connection.sock.recv(1) == b""
        left.set()
        return False

    states = watch(serve(answer).address)
    assert next(states) == 3
    states.close()  # type: ignore[attr-defined]
    wait_until(left.is_set)


def test_deadline_of_one_try_is_between_a_millisecond_and_a_day() -> None:
    now = time.monotonic()
    assert left_until(now - 1) == 1
    assert 1000 < left_until(now + 2) <= 2000
    for far in (now + 10 * 365 * 86400, math.inf):
        assert left_until(far) == 86_400_000


def test_cancellation_that_the_http_client_swallows_ends_the_call() -> None:
    async def method(request: object, *, timeout_ms: float | None = None) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "the answer, which arrives at the moment of the cancellation"
        raise AssertionError("the call was not cancelled")

    async def run() -> None:
        task = asyncio.create_task(call_async(method, None, peer_at("http://127.0.0.1:1")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
