"""Makes the calls of a client: each call has a deadline, is retried if the connection is at fault, and raises errors of
Iris.

Every call of Iris may be repeated without a second effect, see `proto/iris/rpc/cluster.proto`. Therefore a call whose
answer was lost is made again. Only faults of the connection are retried. An error that the server sends is final.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Iterator
from typing import Any, Protocol, TypeVar, cast

from connectrpc.client import ResponseMetadata
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from pyqwest import ReadError, RemoteProtocolError, StreamError, WriteError

from iris.errors import DeadlineExceededError
from iris.event_log import log_event
from iris.rpc.auth.credentials import TokenRenewedError
from iris.rpc.http.client.client_lifetime import pause
from iris.rpc.http.client.loop_warning import warn_in_event_loop
from iris.rpc.http.client.proxies import ProxyFaultError
from iris.rpc.http.client.stream_handle import FIRST_MESSAGE_S, STREAM_SILENCE_S, StreamHandle
from iris.rpc.http.tls import explain
from iris.rpc.peer import Peer
from iris.system.backoff import Backoff

DEFAULT_TIMEOUT_S = 30.0
TRIES = 5
# The longest time for one try of a call. The time must fit into Connect's header for deadlines, which can hold 115
# days, and into the timeout of a socket, which can hold 24 days.
_LONGEST_TRY_MS = 86_400_000
_log = logging.getLogger(__name__)
# The first and the longest pause between two tries of a call. Five tries take about a second.
FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0

# The exceptions that transports raise if the connection is at fault. Iris's own transports raise the first class, and
# connectrpc's transports raise the other classes.
_RETRIED_CAUSES = (ConnectionError, ReadError, WriteError, StreamError, RemoteProtocolError)
Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)


class UnaryCall(Protocol[Request, Response]):
    """A method of a generated sync stub."""

    def __call__(self, request: Request, *, timeout_ms: int | None = None) -> Response: ...


class AsyncUnaryCall(Protocol[Request, Response]):
    """A method of a generated async stub."""

    def __call__(self, request: Request, *, timeout_ms: int | None = None) -> Awaitable[Response]: ...


def call(
    method: UnaryCall[Request, Response], request: Request, peer: Peer, *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Response:
    """Make a call, and retry it while the connection is at fault.

    Args:
        method: A method of a generated sync stub.
        request: The request message of the call.
        peer: The server that receives the call.
        timeout_s: The time for all tries together, in seconds.

    Raises:
        IrisError: The server answered with an error, or does not answer.
    """
    warn_in_event_loop()
    end = time.monotonic() + timeout_s
    backoff = Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S)
    for attempt in range(1, TRIES + 1):
        token = peer.credentials.token() if peer.credentials else None
        response = ResponseMetadata()
        try:
            with response:
                answer = method(request, timeout_ms=left_until(end))
        except ConnectError as error:
            if attempt < TRIES and peer.credentials and _is_refused(error) and peer.credentials.renew(token):
                continue
            pause_s = backoff.next_s()
            if attempt == TRIES or not is_connection_fault(error) or time.monotonic() + pause_s > end:
                raise peer.error(error, response) from error
            pause(peer.lifetime, pause_s)
        else:
            if peer.credentials:
                peer.credentials.accepted()
            return answer
    raise AssertionError("this line is never reached, because the last try returns an answer or raises an error")


async def call_async(
    method: AsyncUnaryCall[Request, Response], request: Request, peer: Peer, *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Response:
    """Make a call on an asyncio loop, with the same retries and errors as `call`. At the log level DEBUG, each call is
    written to the event log.
    """
    if not _log.isEnabledFor(logging.DEBUG):
        return await _call_async(method, request, peer, timeout_s)
    started_s = time.monotonic()
    error = ""
    try:
        return await _call_async(method, request, peer, timeout_s)
    except BaseException as caught:
        error = type(caught).__name__
        raise
    finally:
        log_event(
            _log,
            "call.made",
            level=logging.DEBUG,
            method=getattr(method, "__name__", ""),
            address=peer.address,
            duration_ms=round((time.monotonic() - started_s) * 1000, 1),
            error=error,
        )


async def _call_async(
    method: AsyncUnaryCall[Request, Response], request: Request, peer: Peer, timeout_s: float
) -> Response:
    end = time.monotonic() + timeout_s
    backoff = Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S)
    task = asyncio.current_task()
    cancellations = 0 if task is None else task.cancelling()
    for attempt in range(1, TRIES + 1):
        token = await _token(peer)
        response = ResponseMetadata()
        try:
            with response:
                answer = await method(request, timeout_ms=left_until(end))
        except ConnectError as error:
            cancellation = _cancellation(error)
            if cancellation is not None:
                raise cancellation from None
            if attempt < TRIES and await _has_new_token(peer, error, token):
                continue
            pause_s = backoff.next_s()
            if attempt == TRIES or not is_connection_fault(error) or time.monotonic() + pause_s > end:
                raise peer.error(error, response) from error
            await asyncio.sleep(pause_s)
        else:
            # Before Python 3.12, connectrpc's call of `asyncio.wait_for` swallows a cancellation if the answer arrives
            # at the same moment. Therefore the cancellation is raised here.
            if task is not None and task.cancelling() > cancellations:
                raise asyncio.CancelledError
            if peer.credentials:
                peer.credentials.accepted()
            return answer
    raise AssertionError("this line is never reached, because the last try returns an answer or raises an error")


def stream(messages: Iterator[Response], peer: Peer, handle: StreamHandle | None = None) -> Generator[Response]:
    """Yield the messages of a server's stream, with the errors of Iris. This function does not open a broken stream
    again, because only the reader knows where to continue.

    Args:
        messages: The iterator that a method of a generated sync stub returned, before its first message was read.
        peer: The server that receives the call.
        handle: The handle with which other threads can end the stream.

    Raises:
        TokenRenewedError: The token of the stream is no longer valid, and there is a new token. The reader should open
            the stream again.
        IrisError: The server answered with an error, or does not answer.
    """
    warn_in_event_loop()
    handle = handle or StreamHandle()
    token = peer.credentials.token() if peer.credentials else None
    response = ResponseMetadata()
    try:
        with handle.taken(), response:
            first = next(messages, None)  # The first `next` opens the connection, which `handle` can then end.
        if peer.credentials:
            peer.credentials.accepted()
        if first is not None:
            yield first
            for message in messages:  # noqa: UP028 - `yield from` would close the messages before the handle is closed.
                yield message
    except ConnectError as error:
        if peer.credentials and _is_refused(error) and peer.credentials.renew(token):
            raise TokenRenewedError(
                f"{peer.error(error, response)}: open the stream again, because the client has a new token now"
            ) from error
        raise peer.error(error, response) from error
    finally:
        handle.close()  # Closing the handle ends the connection, so that the server stops sending.
        cast(Generator[Response], messages).close()


async def stream_async(
    messages: AsyncIterator[Response],
    peer: Peer,
    *,
    first_s: float = FIRST_MESSAGE_S,
    silence_s: float = STREAM_SILENCE_S,
) -> AsyncGenerator[Response]:
    """Yield the messages of a server's stream on an asyncio loop, with the same errors as `stream`.

    Args:
        messages: The iterator that a method of a generated async stub returned, before its first message was read.
        peer: The server that receives the call.
        first_s: The longest time until the first message, in seconds. Servers send the first message at once.
        silence_s: The longest time between two messages, in seconds. Servers send an empty message at least every 15 s.
    """
    within_s = first_s
    token = await _token(peer)
    response = ResponseMetadata()
    try:
        while True:
            async with asyncio.timeout(within_s):
                try:
                    with response:
                        message = await anext(messages, None)
                except ConnectError as error:
                    # This error must be raised inside the block of `asyncio.timeout`, which turns its own cancellation
                    # into a TimeoutError.
                    cancellation = _cancellation(error)
                    if cancellation is not None:
                        raise cancellation from None
                    raise
            if peer.credentials and within_s == first_s:
                peer.credentials.accepted()
            if message is None:
                return
            yield message
            within_s = silence_s
    except ConnectError as error:
        if await _has_new_token(peer, error, token):
            raise TokenRenewedError(
                f"{peer.error(error, response)}: open the stream again, because the client has a new token now"
            ) from error
        raise peer.error(error, response) from error
    except TimeoutError as error:
        raise DeadlineExceededError(f"{peer.name} at {peer.address} has sent no message for {within_s:g} s") from error
    finally:
        await cast(Any, messages).aclose()


async def _token(peer: Peer) -> str | None:
    """Return the token for a server. The source of the token is called in a thread, because the source may block."""
    if peer.credentials is None:
        return None
    if not peer.credentials.is_known:
        await asyncio.to_thread(peer.credentials.token)
    return peer.credentials.token()


async def _has_new_token(peer: Peer, error: ConnectError, refused: str | None) -> bool:
    """Return whether the server refused the token and the source has another token, which was requested in a thread."""
    if peer.credentials is None or not _is_refused(error):
        return False
    return await asyncio.to_thread(peer.credentials.renew, refused)


def _cancellation(error: ConnectError) -> asyncio.CancelledError | None:
    """Return the CancelledError of the calling asyncio task if an error of connectrpc was caused by its cancellation.
    Return None if the task was not cancelled.

    connectrpc reports a cancellation as an error of the server. If the connection fails at the same time, connectrpc
    reports an error of the connection instead. The original exception is returned if it is known, because anyio
    compares its text with its own cancellations.
    """
    if isinstance(error.__cause__, asyncio.CancelledError):
        return error.__cause__
    task = asyncio.current_task()
    return asyncio.CancelledError() if task is not None and task.cancelling() > 0 else None


def _is_refused(error: ConnectError) -> bool:
    """Return whether an error says that the server has refused the token."""
    return error.code is Code.UNAUTHENTICATED


def is_connection_fault(error: ConnectError) -> bool:
    """Return whether the connection was at fault, so that the same call may succeed on a retry."""
    if error.code is not Code.UNAVAILABLE:
        return False
    cause = error.__cause__
    if cause is None:
        return True  # The server itself, or a proxy in front of the server, answered that the server is unavailable.
    if isinstance(cause, ProxyFaultError) and cause.refused:
        return False
    return isinstance(cause, _RETRIED_CAUSES) and not explain(cause)


def left_until(end: float) -> int:
    """Return the milliseconds until `end` on the monotonic clock, for use as the deadline of one try. The result is at
    least 1 ms and at most a day.
    """
    return int(min(max(1.0, (end - time.monotonic()) * 1000), _LONGEST_TRY_MS))
