"""Carries out operations in the thread of the caller."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator
from contextlib import closing
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
from iris.rpc.calls import call, stream
from iris.rpc.http.client.client_lifetime import Lifetime
from iris.rpc.http.client.stream_handle import StreamHandle
from iris.rpc.peer import Peer


class Connection(Protocol):
    """The connections that a `SyncRunner` uses to make the calls of an operation."""

    @property
    def lifetime(self) -> Lifetime:
        """The object that ends all calls when the client is closed."""

    @property
    def timeout_s(self) -> float:
        """The timeout of each call in seconds."""

    def server(self, worker: Worker | None) -> tuple[Any, Peer]:
        """Return the stub that calls a worker, and the worker's `Peer`, which has its name and credentials. If `worker`
        is None, return the stub and the `Peer` of the controller.
        """

    def answers(self, worker_id: str, address: str) -> bool:
        """Call a worker once, and return whether the worker has answered."""


class SyncRunner:
    """Carries out one operation: makes its calls, reads its streams, and waits where it pauses.

    Args:
        connection: The connections of the client.
        handle: A handle with which another thread can end the operation's only stream. None: `abort` ends all streams.
    """

    def __init__(self, connection: Connection, handle: StreamHandle | None = None) -> None:
        self._connection = connection
        self._handle = handle
        self._numbers = itertools.count(1)
        self._streams: dict[int, tuple[Generator[Any], StreamHandle]] = {}
        self._is_aborted = False

    def run(self, operation: Operation[Result]) -> Result:
        """Carry out an operation, and return its result."""
        with closing(operation):
            try:
                step = next(operation)
                while True:
                    step = self._advance(operation, step)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                self._close_streams()

    def items(self, operation: ItemOperation[Item, None]) -> Generator[Item]:
        """Carry out an operation, and yield its items, for example log lines."""
        with closing(operation):
            try:
                step = next(operation)
                while True:
                    if isinstance(step, Step):
                        step = self._advance(operation, step)
                    else:
                        yield step
                        step = next(operation)
            except StopIteration:
                return
            finally:
                self._close_streams()

    def abort(self) -> None:
        """End the open streams, and streams that are opened later. Any thread may call this method."""
        self._is_aborted = True
        for _, handle in list(self._streams.values()):
            handle.abort()

    def _advance(self, operation: Generator[Any, Any, Any], step: Step) -> Any:
        """Carry out a step, and return the next step or item of the operation."""
        try:
            result = self._carry_out(step)
        except Exception as error:  # noqa: BLE001 - The operation handles the exception.
            return operation.throw(error)
        return operation.send(result)

    def _carry_out(self, step: Step) -> Any:
        connection = self._connection
        match step:
            case Call(method, request, timeout_s, extra_s, worker):
                stub, peer = connection.server(worker)
                limit_s = min(timeout_s, connection.timeout_s + extra_s)
                return call(getattr(stub, method), request, peer, timeout_s=limit_s)
            case NextMessage(number):
                return next(self._streams[number][0], None)
            case OpenStream(method, request, worker, timeout_ms):
                return self._open(method, request, worker, timeout_ms)
            case CloseStream(number):
                self._close(number)
                return None
            case Pause(seconds):
                connection.lifetime.pause(seconds)
                return None
            case Work(function):
                return function()
            case Probe(workers):
                return self._probe(list(workers))
        raise AssertionError(f"unknown step {step!r}")

    def _open(self, method: str, request: Any, worker: Worker | None, timeout_ms: int | None) -> StreamNumber:
        stub, peer = self._connection.server(worker)
        number = StreamNumber(next(self._numbers))
        handle = self._handle or StreamHandle()
        messages = stream(getattr(stub, method)(request, timeout_ms=timeout_ms), peer, handle)
        self._streams[number] = messages, handle
        if self._is_aborted:
            handle.abort()
        return number

    def _close(self, number: StreamNumber) -> None:
        messages, _ = self._streams.pop(number, (None, None))
        if messages is not None:
            messages.close()

    def _close_streams(self) -> None:
        for number in list(self._streams):
            self._close(StreamNumber(number))

    def _probe(self, workers: list[Worker]) -> list[bool]:
        if len(workers) == 1:
            return [self._connection.answers(*workers[0])]
        answers: dict[Worker, bool] = {}

        def probe(worker: Worker) -> None:
            answers[worker] = self._connection.answers(*worker)

        threads = [threading.Thread(target=probe, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [answers.get(worker, False) for worker in workers]
