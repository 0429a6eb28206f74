"""Faults of connections are told in words for people."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from pyqwest import Client, HTTPTransport

from iris.errors import IrisError
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.calls import call, call_async
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.http.connection_errors import describe_fault
from iris.rpc.peer import Peer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\n"
# What servers do to a request, and what is said of it.
SERVERS = {
    "closes": (b"", "it closed the connection without an answer"),
    "resets": (None, "connection reset by peer"),
    "stops in a chunk": (HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nab", "the connection was lost"),
    "stops in a body": (HEAD + b"content-length: 50\r\n\r\nab", "the connection was lost"),
}
INTERNALS = ("os error", "errno", "client error", "http://127.0.0.1:%d/", "peer closed", "incomplete", "Request failed")


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """Answers each request so and closes; None: with a reset. Gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    if answer is None:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    else:
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def call_by_both_transports(address: str) -> list[str]:
    """The texts of the errors that a call ends with."""
    request = cluster_pb2.Controller.ListJobsRequest()
    texts = []
    with contextlib.closing(HttpTransport(address)) as transport:
        stub = cluster_connect.ControllerServiceClientSync(address, http_client=transport.connect_client())
        with pytest.raises(IrisError) as caught:
            call(stub.list_jobs, request, Peer(address, "the controller"), timeout_s=20)
        texts.append(str(caught.value))

    async def call_once() -> None:
        client = Client(HTTPTransport(enable_otel=False))
        other = cluster_connect.ControllerServiceClient(address, http_client=client)
        await call_async(other.list_jobs, request, Peer(address, "the controller"), timeout_s=20)

    with pytest.raises(IrisError) as caught:
        asyncio.run(call_once())
    texts.append(str(caught.value))
    return texts


@pytest.mark.parametrize("what", SERVERS)
def test_broken_connection_has_a_readable_reason(what: str) -> None:
    answer, words = SERVERS[what]
    with server(answer) as port:
        for text in call_by_both_transports(f"http://127.0.0.1:{port}"):
            assert f"the controller at http://127.0.0.1:{port} does not answer ({words})" in text
            assert not [
                internal for internal in INTERNALS if (internal % port if "%" in internal else internal) in text
            ]


def test_refused_connection_and_unknown_host_have_readable_reasons() -> None:
    for address, words in (
        ("http://127.0.0.1:1", "connection refused"),
        ("http://no-such-host.invalid:80", "no host of that name is known"),
    ):
        for text in call_by_both_transports(address):
            assert f"does not answer ({words})" in text or "cannot be looked up now" in text, text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("the reader has closed the stream"), "the reader has closed the stream"),
        (ConnectionResetError(104, "Connection reset by peer"), "connection reset by peer"),
        (RuntimeError("something of a library"), "the connection failed"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "its host name cannot be looked up now"),
    ],
)
def test_connection_fault_is_described_in_plain_words(error: Exception, words: str) -> None:
    assert describe_fault(error) == words
