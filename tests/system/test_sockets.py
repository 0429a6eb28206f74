"""Sockets that listen, and the connections that they accept."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest

from iris.system.sockets import bind

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_connections_send_small_answers_at_once_on_the_loop_of_asyncio(host: str) -> None:
    accepted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

    def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(writer.get_extra_info("socket"))

    with closing(bind(host, 0)) as listener:
        async with await asyncio.start_server(note, sock=listener):
            _, client = await asyncio.open_connection(host, listener.getsockname()[1])
            connection = await accepted
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            client.close()
