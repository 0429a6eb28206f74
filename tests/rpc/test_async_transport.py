"""The transports of async clients: parsers, early ends of streams, deadlines, and the environment's proxies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import httptools
import pytest
from pyqwest import Client, Request
from support.answering_server import Server, http

from iris.cluster.client.aio.remote_client import AsyncRemoteClusterClient
from iris.errors import ControllerUnreachableError, DeadlineExceededError
from iris.rpc.http.client import h11_parser
from iris.rpc.http.client.async_client_transport import AsyncioTransport, user_transport
from iris.rpc.http.tls import ClientTls

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Parsed:
    """What a parser has reported."""

    def __init__(self, module: Any) -> None:
        self.seen: list[Any] = []
        self.parser = module.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.seen.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.seen.append("headers")

    def on_body(self, data: bytes) -> None:
        self.seen.append(data)

    def on_message_complete(self) -> None:
        self.seen.append(("end", self.parser.should_keep_alive()))


def parse(module: Any, pieces: list[bytes]) -> tuple[Any, ...]:
    protocol = Parsed(module)
    for piece in pieces:
        protocol.parser.feed_data(piece)
    bodies = [item for item in protocol.seen if isinstance(item, bytes)]
    others = [item for item in protocol.seen if not isinstance(item, bytes)]
    return others, b"".join(bodies), protocol.parser.get_status_code()


ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    "close": b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_h11_and_httptools_parsers_report_the_same_answer(name: str, size: int) -> None:
    pieces = [ANSWERS[name][at : at + size] for at in range(0, len(ANSWERS[name]), size)]
    assert parse(h11_parser, pieces) == parse(httptools, pieces)


def test_h11_parser_refuses_data_that_is_not_http() -> None:
    with pytest.raises(h11_parser.HttpParserError):
        parse(h11_parser, [b"SSH-2.0-OpenSSH_9\r\n\r\n"])


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_stream_that_is_closed_before_its_first_part_closes_the_connection() -> None:
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        assert await reader.read() == b""
        ended.set()
        writer.close()

    async with serving(handle) as address:
        response: Any = await AsyncioTransport(None).execute(Request("POST", f"{address}/x", content=b""))
        await response.aclose()
        await asyncio.wait_for(ended.wait(), 60)


async def test_environment_proxy_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWERS["length"])
        writer.close()

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(handle) as address:
        answer = await Client(user_transport(address, ClientTls(), None)).get(address)
        assert (answer.status, answer.content) == (200, b"hello")


async def test_call_to_a_silent_controller_raises_a_deadline_error() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with AsyncRemoteClusterClient(address, token="none", timeout_s=0.3) as client:
            with pytest.raises(DeadlineExceededError, match="did not answer in time"):
                await client.list_jobs()


async def test_error_for_a_server_without_http2_names_the_argument_to_leave_out() -> None:
    answers = [http("505 HTTP Version Not Supported") for _ in range(20)]
    with closing(Server(answers)) as old:
        async with AsyncRemoteClusterClient(old.address, token="x", http2=True) as client:
            with pytest.raises(ControllerUnreachableError, match="leave http2=True out"):
                await client.list_jobs()
