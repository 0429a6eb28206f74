"""A program of tasks that listens on ports, for tests of `iris forward`. Run it as `python port_server.py NAME...`.

Each NAME is a port that the job has requested, and one of these servers:

* `echo` sends back what it gets, and ends its direction after the end of the other direction.
* `source` reads a line with a number, sends this number of bytes of `stream_of`, and closes the connection.
* `sink` reads to the end, and sends the number of bytes and their SHA-256 as a line.
* `web` is a Starlette application with `GET /hello` and a WebSocket `/ws`, which echoes.
* `rude` reads a byte, sends three, and resets the connection.
* `other` is like `echo`, on a port that the job has not requested. Its number is the second line of the output.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
import sys
from collections.abc import Iterator

HOST = "127.0.0.1"
_CHUNK_BYTES = 64 * 1024


def stream_of(size: int) -> Iterator[bytes]:
    """Yield `size` bytes whose every part differs, in chunks."""
    number = 0
    while size > 0:
        block = hashlib.sha256(str(number).encode()).digest() * (_CHUNK_BYTES // 32)
        yield block[:size]
        size -= len(block)
        number += 1


def digest_of(size: int) -> str:
    """Return the SHA-256 of `stream_of`."""
    digest = hashlib.sha256()
    for chunk in stream_of(size):
        digest.update(chunk)
    return digest.hexdigest()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    writer.close()


async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for chunk in stream_of(int(await reader.readline())):
        writer.write(chunk)
        await writer.drain()
    writer.close()


async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    size, digest = 0, hashlib.sha256()
    while data := await reader.read(_CHUNK_BYTES):
        size += len(data)
        digest.update(data)
    writer.write(f"{size} {digest.hexdigest()}\n".encode())
    writer.close()


async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"abc")
    await writer.drain()
    await reader.read(1)
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def web(port: int) -> asyncio.Task[None]:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    async def hello(request: Request) -> JSONResponse:
        return JSONResponse({"attempt": os.environ["IRIS_ATTEMPT_ID"]})

    async def echo_messages(connection: WebSocket) -> None:
        await connection.accept()
        async for text in connection.iter_text():
            await connection.send_text(text.upper())

    application = Starlette(routes=[Route("/hello", hello), WebSocketRoute("/ws", echo_messages)])
    server = uvicorn.Server(uvicorn.Config(application, HOST, port, ws="wsproto", log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn announces its start in no other way.
        await asyncio.sleep(0.01)
    return serving


async def main() -> None:
    serving, other = None, 0
    servers = {"echo": echo, "source": source, "sink": sink, "rude": rude}
    for name in sys.argv[1:]:
        if name == "web":
            serving = await web(int(os.environ["IRIS_PORT_WEB"]))
        elif name == "other":
            other = (await asyncio.start_server(echo, HOST, 0)).sockets[0].getsockname()[1]
        else:
            await asyncio.start_server(servers[name], HOST, int(os.environ[f"IRIS_PORT_{name.upper()}"]))
    print("listening", flush=True)
    print(other, flush=True)
    await (serving or asyncio.Event().wait())


if __name__ == "__main__":
    asyncio.run(main())
