"""Defines operations and their steps.

An operation is a generator. It yields a step, for example a call, and receives the result of the step. If the step
fails, the error is raised inside the operation. An operation may also yield items for its caller, for example log
lines. A runner carries out the steps: `SyncRunner` in the thread of the caller, and `AsyncRunner` on an event loop.

Most operations close their streams. If an operation ends early, its runner closes the streams that are still open,
because a generator that is being closed cannot yield a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NewType, TypeVar

from google.protobuf.message import Message

Result = TypeVar("Result")
Item = TypeVar("Item")

# Identifies a worker by its id and its address.
Worker = tuple[str, str]
# If a worker does not answer a probe within this many milliseconds, it counts as unreachable.
PROBE_MS = 500
StreamNumber = NewType("StreamNumber", int)


class Step:
    """The base class of all steps."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Call(Step):
    """A step that calls a method of a server. The result is the answer of the server.

    Attributes:
        method: The name of the method in the generated stub.
        request: The request message of the call.
        timeout_s: The timeout in seconds for all tries together. The shorter of this timeout and the client's timeout
            applies.
        extra_s: For how many seconds the client's timeout is extended, because the request is large.
        worker: The worker to call. None: the controller.
    """

    method: str
    request: Message
    timeout_s: float = math.inf
    extra_s: float = 0.0
    worker: Worker | None = None


@dataclass(frozen=True, slots=True)
class Pause(Step):
    """A step that waits for some seconds. If the client is closed, the wait ends with an error."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work(Step):
    """A step that calls a function which may block, for example to read a file. The result is the function's result.
    The async client calls the function in a thread.
    """

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Probe(Step):
    """A step that calls several workers at once, to find out which of them this machine can reach. The result says for
    each worker whether it has answered.
    """

    workers: Sequence[Worker]


@dataclass(frozen=True, slots=True)
class OpenStream(Step):
    """A step that opens a stream. The result is the number of the stream.

    Attributes:
        method: The name of the method in the generated stub.
        request: The request message of the call.
        worker: The worker to call. None: the controller.
        timeout_ms: The time after which the stream ends, in milliseconds. None: the stream has no time limit.
    """

    method: str
    request: Message
    worker: Worker | None = None
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class NextMessage(Step):
    """A step that waits for the next message of a stream. The result is the message, or None at the end of the
    stream.
    """

    stream: StreamNumber


@dataclass(frozen=True, slots=True)
class CloseStream(Step):
    """A step that closes a stream. If the stream is already closed, nothing happens."""

    stream: StreamNumber


Operation = Generator[Step, Any, Result]
# An operation that yields steps for its runner, and also items for its caller, such as log lines.
ItemOperation = Generator[Step | Item, Any, Result]


def next_item(operation: ItemOperation[Item, object]) -> Operation[Item | None]:
    """Carry out the steps of an operation until the operation yields an item, and return the item. Return None at the
    end of the operation.
    """
    try:
        step = next(operation)
        while isinstance(step, Step):
            try:
                result = yield step
            except Exception as error:  # noqa: BLE001 - The operation handles the exception.
                step = operation.throw(error)
            else:
                step = operation.send(result)
    except StopIteration:
        return None
    return step
