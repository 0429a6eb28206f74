"""An HTTP proxy that loses the requests or answers that a test chooses.

    with LossyProxy(server.address) as proxy:
        loss = proxy.lose("ControllerService/LaunchJob", "response", times=2)
        RemoteClusterClient(proxy.address).launch_job(request)  # the third try comes through
        assert loss.left == 0

A lost request never reaches the server. For a lost response, the server makes the whole response, but the client sees
the end of the connection before the first byte. A lost stream ends after a number of messages. Everything else is
forwarded unchanged. The proxy supports only HTTP/1.1, which the parts of a cluster use among each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

Way = Literal["request", "response"]


@dataclass(slots=True)
class Loss:
    """A rule that says which requests or responses are lost.

    Attributes:
        call: Service and method.
        way: On the way in, or on the way out.
        left: How often it still will be.
        containing: Only calls whose request has these bytes in it.
        messages: Of a stream, how many of its messages come through before.
    """

    call: str
    way: Way
    left: int
    containing: bytes = b""
    messages: int = 0


class LossyProxy:
    """A proxy that forwards HTTP/1.1 to a server and loses messages.

    Args:
        target: The server's base URL.
        host: Where it listens.
        port: 0 takes any free one.

    Attributes:
        passed: The calls that came through, both ways, in order.
    """

    def __init__(self, target: str, host: str = "127.0.0.1", port: int = 0) -> None:
        self._target = urlsplit(target)
        self._losses: list[Loss] = []
        self.passed: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        listening = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(host, port, listening), name="lossy-proxy")
        self._thread.start()
        assert listening.wait(10)

    def lose(self, call: str, way: Way, times: int, *, containing: str = "", messages: int = 0) -> Loss:
        """Lose a number of calls from now on. The attribute `left` of the returned `Loss` counts the remaining
        losses."""
        loss = Loss(call, way, times, containing.encode(), messages)
        self._losses.append(loss)  # atomic: the loop only reads
        return loss

    def close(self) -> None:
        """Close all connections."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, host: str, port: int, listening: threading.Event) -> None:
        async def serve() -> None:
            self._stopping = asyncio.Event()
            server = await asyncio.start_server(self._accepted, host, port)
            name, bound = server.sockets[0].getsockname()[:2]
            self.address = f"http://{name}:{bound}"
            listening.set()
            await self._stopping.wait()
            server.close()
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

        self._loop.run_until_complete(serve())
        self._loop.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                ahead: bytes | None = b""
                while ahead is not None:
                    ahead = await self._forward_one(ahead, reader, writer)
        finally:
            writer.close()
            self._connections.discard(task)

    async def _forward_one(
        self, ahead: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """Forward one call, of which some bytes were already read. Return the bytes of the next call that were read, or
        None if the connection must end."""
        head = ahead + await reader.readuntil(b"\r\n\r\n")
        body = b"".join([part async for part in _parts(reader, head)])
        call = head.split(b" ", 2)[1].decode().rpartition("iris.cluster.")[2]
        loss = self._take(call, body)
        if loss is not None and loss.way == "request":
            return None
        answers, requests = await asyncio.open_connection(self._target.hostname, self._target.port)
        try:
            requests.write(head + body)
            await requests.drain()
            # That the client leaves ends a stream on the server too.
            following = asyncio.ensure_future(reader.read(1))
            answer = asyncio.ensure_future(self._answer(answers, writer, loss))
            try:
                await asyncio.wait([following, answer], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (following, answer):
                    task.cancel()
                await asyncio.gather(following, answer, return_exceptions=True)
            if answer.cancelled() or not answer.result():
                return None
            self.passed.append(call)
            return b"" if following.cancelled() else following.result() or None
        finally:
            requests.close()

    async def _answer(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, loss: Loss | None) -> bool:
        """Forward an answer, or lose it. Return False if the connection must end."""
        head = await answers.readuntil(b"\r\n\r\n")
        streams = b"application/connect+" in head.lower()
        kept = loss is None or loss.messages > 0
        if kept:
            writer.write(head)
        count = 0
        async for part in _parts(answers, head):
            if kept:
                writer.write(part)
                await writer.drain()
                count += 1
            if loss is not None and streams and count == loss.messages:
                return False
        return loss is None

    def _take(self, call: str, body: bytes) -> Loss | None:
        for loss in self._losses:
            if loss.left and loss.call == call and loss.containing in body:
                loss.left -= 1
                return loss
        return None


async def _parts(reader: asyncio.StreamReader, head: bytes):  # type: ignore[no-untyped-def]
    """Yield the body of a message unchanged: in one part, or in its chunks."""
    headers = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if b": " in line)
    if headers.get(b"transfer-encoding") == b"chunked":
        while True:
            size = await reader.readuntil(b"\r\n")
            yield size + await reader.readexactly(int(size.split(b";")[0], 16) + 2)
            if int(size.split(b";")[0], 16) == 0:
                return
    elif (length := int(headers.get(b"content-length", b"0"))) > 0:
        yield await reader.readexactly(length)
