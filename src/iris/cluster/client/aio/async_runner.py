"""Carries out operations on an asyncio loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Protocol

from iris.cluster.client.operations.steps import (
    Call,
    CloseStream,
    Item,
    ItemOperation,
    NextMessage,
    OpenStream,
    Operation,
    Pause,
    Probe,
    Result,
    Step,
    StreamNumber,
    Work,
    Worker,
)
from iris.rpc.calls import call_async, stream_async
from iris.rpc.peer import Peer


class Lifetime(Protocol):
    """Protocol of the object that ends the calls of an asyncio client when the client is closed."""

    def ending(self) -> AbstractAsyncContextManager[None]:
        """Return a context manager whose block ends with an error when the client is closed."""


class AsyncConnection(Protocol):
    """The connections that an `AsyncRunner` uses to make the calls of an operation."""

    @property
    def lifetime(self) -> Lifetime:
        """The object that ends all calls when the client is closed."""

    @property
    def timeout_s(self) -> float:
        """The timeout of each call in seconds."""

    async def open(self) -> object:
        """If this is the connection of a local client, start the client's cluster. Otherwise do nothing."""

    def server(self, worker: Worker | None) -> tuple[Any, Peer]:
        """Return the stub that calls a worker, and the worker's `Peer`, which has its name and credentials. If `worker`
        is None, return the stub and the `Peer` of the controller.
        """

    def limit(self, worker: Worker | None) -> asyncio.Semaphore:
        """Return the semaphore that limits how many calls and opening streams the client sends to one server at
        once.
        """

    async def answers(self, worker_id: str, address: str) -> bool:
        """Call a worker once, and return whether the worker has answered."""


class AsyncRunner:
    """Carries out one operation: makes its calls, reads its streams, and waits where it pauses.

    Args:
        connection: The connections of the client.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._streams: dict[StreamNumber, _Stream] = {}

    async def run(self, operation: Operation[Result]) -> Result:
        """Carry out an operation, and return its result."""
        try:
            step = next(operation)
            while True:
                try:
                    result = await self._carry_out(step)
                except Exception as error:  # noqa: BLE001 - The operation handles the exception.
                    step = operation.throw(error)
                else:
                    step = operation.send(result)
        except StopIteration as end:
            returned: Result = end.value
            return returned
        finally:
            operation.close()
            await self._close_streams()

    async def items(self, operation: ItemOperation[Item, None]) -> AsyncGenerator[Item]:
        """Carry out an operation, and yield its items, for example log lines."""
        try:
            step = next(operation)
            while True:
                if not isinstance(step, Step):
                    yield step
                    step = next(operation)
                    continue
                try:
                    result = await self._carry_out(step)
                except Exception as error:  # noqa: BLE001 - The operation handles the exception.
                    step = operation.throw(error)
                else:
                    step = operation.send(result)
        except StopIteration:
            return
        finally:
            operation.close()
            await self._close_streams()

    async def messages(self, opening: OpenStream) -> AsyncGenerator[Any]:
        """Open a stream, and yield its messages."""
        await self._connection.open()
        async with aclosing(self._stream(opening)) as stream:
            while (message := await self._next(stream)) is not None:
                yield message

    async def _carry_out(self, step: Step) -> Any:
        connection = self._connection
        await connection.open()
        match step:
            case Call(method, request, timeout_s, extra_s, worker):
                stub, peer = connection.server(worker)
                limit_s = min(timeout_s, connection.timeout_s + extra_s)
                async with connection.lifetime.ending(), connection.limit(worker):
                    return await call_async(getattr(stub, method), request, peer, timeout_s=limit_s)
            case NextMessage(number):
                return await self._next(self._streams[number])
            case OpenStream():
                number = StreamNumber(next(self._numbers))
                self._streams[number] = self._stream(step)
                return number
            case CloseStream(number):
                await self._close(number)
                return None
            case Pause(seconds):
                async with connection.lifetime.ending():
                    await asyncio.sleep(max(0.0, seconds))
                return None
            case Work(function):
                return await asyncio.to_thread(function)
            case Probe(workers):
                async with connection.lifetime.ending():
                    return await asyncio.gather(*(connection.answers(*worker) for worker in workers))
        raise AssertionError(f"unknown step {step!r}")

    def _stream(self, opening: OpenStream) -> _Stream:
        stub, peer = self._connection.server(opening.worker)
        method = getattr(stub, opening.method)
        messages = stream_async(method(opening.request, timeout_ms=opening.timeout_ms), peer)
        return _Stream(messages, self._connection.limit(opening.worker))

    async def _next(self, stream: _Stream) -> Any:
        async with self._connection.lifetime.ending():
            return await stream.next()

    async def _close(self, number: StreamNumber) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            await stream.aclose()

    async def _close_streams(self) -> None:
        for number in list(self._streams):
            await self._close(number)


class _Stream:
    """A stream of a server. The stream is opened when its first message is requested.

    A server needs some milliseconds to open a stream. If a client opened 1,000 streams at once, the time limits of the
    last streams would pass before the server has opened them, and the client would open them again and again.
    """

    def __init__(self, messages: AsyncGenerator[Any], limit: asyncio.Semaphore) -> None:
        self._messages = messages
        self._limit: asyncio.Semaphore | None = limit

    async def next(self) -> Any:
        """Return the next message, or None at the end of the stream."""
        if self._limit is not None:
            limit, self._limit = self._limit, None
            async with limit:
                return await anext(self._messages, None)
        return await anext(self._messages, None)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._messages.aclose()
