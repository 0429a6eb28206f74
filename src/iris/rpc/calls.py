"""What every call needs: a deadline, another try where that is safe, and our errors instead of the wire's.

All calls of Iris may be repeated without a second effect (proto/iris/rpc/cluster.proto says how), so a lost reply is
answered by asking again. Only faults of the connection are: an answer, even an unwelcome one, is an answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from http import HTTPStatus
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from connectrpc.client import ResponseMetadata
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from pyqwest import ReadError, RemoteProtocolError, StreamError, WriteError

from iris.errors import (
    ERROR_FOR_CODE,
    ClientClosedError,
    DeadlineExceededError,
    InternalError,
    IrisError,
    ResourceExhaustedError,
    UnavailableError,
    shown,
)
from iris.rpc.auth.credentials import Credentials, TokenRenewedError
from iris.rpc.http.client_lifetime import Lifetime, pause
from iris.rpc.http.connection_errors import describe_fault
from iris.rpc.http.foreign_answers import PROXY_LOGIN, describe_answer
from iris.rpc.http.proxies import Proxy, ProxyFaultError
from iris.rpc.http.stream_handle import FIRST_MESSAGE_S, STREAM_SILENCE_S, StreamHandle
from iris.rpc.http.tls import CERT_VARIABLE, explain

_log = logging.getLogger(__name__)
DEFAULT_TIMEOUT_S = 30.0
TRIES = 5
# One try of a call takes no longer: the header for deadlines has room for 115 days, and a socket's timeout for 24.
_LONGEST_TRY_MS = 86_400_000
FIRST_PAUSE_S = 0.05  # doubled from try to try, with jitter: five tries take about a second

# What the transports raise when the connection is at fault: ours the first, connectrpc's own the others.
_RETRIED_CAUSES = (ConnectionError, ReadError, WriteError, StreamError, RemoteProtocolError)
# What connectrpc says of an answer that is none of Connect's: the HTTP status in words, or why it cannot be read.
_HTTP_PHRASES = {"", *(status.phrase for status in HTTPStatus)}
_HUNG_UP = "closed the connection without an answer"  # as who speaks TLS does to who does not
_WHY_HUNG_UP = {
    False: "if it speaks TLS, its address begins with https://",
    True: f"if it asks for a certificate of yours: cert=… or {CERT_VARIABLE}",
}
_ERROR_TYPE = "application/json"
_UNREADABLE = ("invalid content-type", "unmarshal message")
Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)


class UnaryCall(Protocol[Request, Response]):
    """A method of a generated sync stub."""

    def __call__(self, request: Request, *, timeout_ms: int | None = None) -> Response: ...


class AsyncUnaryCall(Protocol[Request, Response]):
    """A method of a generated async stub."""

    def __call__(self, request: Request, *, timeout_ms: int | None = None) -> Awaitable[Response]: ...


class Peer:
    """Who is called: names the other side in errors.

    Args:
        address: Its base URL.
        who: How a person calls it: "the controller".
        unreachable: The error that says that it does not answer.
        advice: What a person can do then; ends the error's text.
        credentials: What is shown to it, and may have to be renewed.
        lifetime: The life of the client that calls: no call goes on beyond it.
        proxy: The proxy that calls go through.
    """

    def __init__(
        self,
        address: str,
        who: str,
        unreachable: type[UnavailableError] = UnavailableError,
        advice: str = "",
        credentials: Credentials | None = None,
        lifetime: Lifetime | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self.address = address
        self.who = who
        self.lifetime = lifetime
        self._unreachable = unreachable
        self._advice = advice
        self.credentials = credentials
        self._proxy = proxy

    def error(self, error: ConnectError, answer: ResponseMetadata | None = None) -> IrisError:
        """Return our error for one of the wire's, with the peer named where it did not answer itself.

        Args:
            error: What connectrpc raised.
            answer: The status and headers of the HTTP answer that the error was made of, if there was one.
        """
        if isinstance(error.__cause__, ClientClosedError):
            return ClientClosedError(str(error.__cause__))
        if error.code is Code.UNAVAILABLE and error.__cause__ is not None:
            return self._unreachable(self._broken(error.__cause__))
        if error.code is Code.DEADLINE_EXCEEDED and error.__cause__ is not None:
            return DeadlineExceededError(f"{self.who} at {self.address} did not answer in time")
        foreign = self._foreign(error, answer)
        if error.code in (Code.UNAVAILABLE, Code.CANCELED):
            what = foreign or shown(error.message)
            return self._unreachable(f"{self.who} at {self.address} is not available now: {what}")
        kind: type[IrisError] = ERROR_FOR_CODE[error.code.value]
        if foreign:
            # Not an answer of Iris, but of whoever is at that address, or of a proxy before it.
            kind = InternalError if issubclass(kind, ValueError) else kind
            if _status(answer) == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                kind = ResourceExhaustedError
            elif _status(answer) == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                kind = self._unreachable
            return kind(f"{self.who} at {self.address} did not answer itself: {foreign}")
        return kind(shown(error.message))

    def _broken(self, cause: BaseException) -> str:
        """What is wrong with the connection to the peer, and what a person can do about it."""
        fault = explain(cause)
        if fault:
            return f"{self.who} at {self.address} cannot be reached: {fault}"
        if isinstance(cause, ProxyFaultError):
            reason = shown(cause.reason)
            if reason.startswith(str(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED.value)):
                reason += f": {PROXY_LOGIN}"
            return (
                f"{self.who} at {self.address} cannot be reached through {cause.proxy}: {reason};"
                f" {self._without_proxy()}"
            )
        text = f"{self.who} at {self.address} does not answer ({describe_fault(cause)})"
        if _HUNG_UP in text:
            text += f"; {_WHY_HUNG_UP[self.address.startswith('https://')]}"
        return f"{text}; {self._advice}" if self._advice else text

    def _foreign(self, error: ConnectError, answer: ResponseMetadata | None) -> str:
        """What an answer is that Iris did not give; empty: Iris gave it. Iris's errors are JSON with a message."""
        says_nothing = error.message in _HTTP_PHRASES or error.message.startswith(_UNREADABLE)
        status = _status(answer)
        if answer is None or status is None:
            return f"{shown(error.message) or 'an empty answer'}; is the address right?" if says_nothing else ""
        is_error_of_iris = status == HTTPStatus.OK or answer.headers.get("content-type", "").startswith(_ERROR_TYPE)
        if is_error_of_iris and not says_nothing:
            return ""
        text = describe_answer(status, dict(answer.headers), self.address)
        # An http proxy may have given this answer itself. Calls to https addresses, and calls through SOCKS, are
        # tunnelled: there the answer comes from behind the proxy.
        if self._proxy is not None and not self._proxy.is_socks and self.address.startswith("http://"):
            text += f"; the call went through {self._proxy}; {self._without_proxy()}"
        return shown(text)

    def _without_proxy(self) -> str:
        return f"to call without a proxy: NO_PROXY={urlsplit(self.address).hostname}"


def _status(answer: ResponseMetadata | None) -> int | None:
    return None if answer is None else answer.http_status


def call(
    method: UnaryCall[Request, Response], request: Request, peer: Peer, *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Response:
    """Makes a call that is safe to repeat, and repeats it while the connection is at fault.

    Args:
        method: A method of a generated sync stub.
        request: Its message.
        peer: Who is called.
        timeout_s: For all tries together, seconds.

    Raises:
        IrisError: What the other side answered, or that it does not answer.
    """
    end = time.monotonic() + timeout_s
    for attempt in range(1, TRIES + 1):
        token = peer.credentials.token() if peer.credentials else None
        response = ResponseMetadata()
        try:
            with response:
                answer = method(request, timeout_ms=left_until(end))
        except ConnectError as error:
            if attempt < TRIES and peer.credentials and is_refused(error) and peer.credentials.renew(token):
                continue
            pause_s = _pause_s(attempt)
            if attempt == TRIES or not is_connection_fault(error) or time.monotonic() + pause_s > end:
                raise peer.error(error, response) from error
            pause(peer.lifetime, pause_s)
        else:
            if peer.credentials:
                peer.credentials.accepted()
            return answer
    raise AssertionError("unreachable: the last try returns or raises")


async def call_async(
    method: AsyncUnaryCall[Request, Response], request: Request, peer: Peer, *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Response:
    """As `call`, on an asyncio loop."""
    end = time.monotonic() + timeout_s
    for attempt in range(1, TRIES + 1):
        response = ResponseMetadata()
        try:
            with response:
                return await method(request, timeout_ms=left_until(end))
        except ConnectError as error:
            if _is_cancelled(error):
                raise asyncio.CancelledError from error
            pause_s = _pause_s(attempt)
            if attempt == TRIES or not is_connection_fault(error) or time.monotonic() + pause_s > end:
                raise peer.error(error, response) from error
            await asyncio.sleep(pause_s)
    raise AssertionError("unreachable: the last try returns or raises")


def stream(messages: Iterator[Response], peer: Peer, handle: StreamHandle | None = None) -> Generator[Response]:
    """The messages of a server's stream, with our errors. Not repeated here: only the reader knows from where.

    Args:
        messages: What a method of a generated sync stub answers with; nothing was taken of it.
        peer: Who is called.
        handle: By which other threads can end it.

    Raises:
        TokenRenewedError: The token is not good any more; there is another one, with which it can be opened again.
        IrisError: What the other side answered, or that it does not answer.
    """
    handle = handle or StreamHandle()
    token = peer.credentials.token() if peer.credentials else None
    response = ResponseMetadata()
    try:
        with handle.taken(), response:
            first = next(messages, None)  # this opens the connection
        if peer.credentials:
            peer.credentials.accepted()
        if first is not None:
            yield first
            for message in messages:  # noqa: UP028 - `yield from` would close them before the handle is
                yield message
    except ConnectError as error:
        if peer.credentials and is_refused(error) and peer.credentials.renew(token):
            raise TokenRenewedError(f"{peer.error(error, response)} (there is a new token now)") from error
        raise peer.error(error, response) from error
    finally:
        handle.close()  # ends the response, which is how the server learns that nobody reads
        cast(Generator[Response], messages).close()


async def stream_async(
    messages: AsyncIterator[Response],
    peer: Peer,
    *,
    first_s: float = FIRST_MESSAGE_S,
    silence_s: float = STREAM_SILENCE_S,
) -> AsyncGenerator[Response]:
    """As `stream`, on an asyncio loop; silence for longer than two beats is a lost connection here too.

    Args:
        messages: What a method of a generated stub answers with; nothing was taken of it.
        peer: Who is called.
        first_s: Seconds until the first message, which servers send at once.
        silence_s: Seconds between messages.
    """
    within_s = first_s
    response = ResponseMetadata()
    try:
        while True:
            async with asyncio.timeout(within_s):
                try:
                    with response:
                        message = await anext(messages, None)
                except ConnectError as error:
                    if _is_cancelled(error):  # here, so that the timeout sees the cancellation that it asked for
                        raise asyncio.CancelledError from error
                    raise
            if message is None:
                return
            yield message
            within_s = silence_s
    except ConnectError as error:
        raise peer.error(error, response) from error
    except TimeoutError as error:
        raise DeadlineExceededError(f"{peer.who} at {peer.address} has been silent for too long") from error
    finally:
        await cast(Any, messages).aclose()


def _is_cancelled(error: ConnectError) -> bool:
    """Whether the task was cancelled meanwhile: connectrpc makes an answer of it, or of both an error of the connection
    where it came in the same moment. Who cancels a task of ours must not be taken for a server."""
    task = asyncio.current_task()
    return isinstance(error.__cause__, asyncio.CancelledError) or (task is not None and task.cancelling() > 0)


def is_refused(error: ConnectError) -> bool:
    """Whether it is the token that is not good (any more)."""
    return error.code is Code.UNAUTHENTICATED


def is_connection_fault(error: ConnectError) -> bool:
    """Whether the connection is at fault, so that the same call may succeed when it is made again."""
    if error.code is not Code.UNAVAILABLE:
        return False
    cause = error.__cause__
    if cause is None:
        return True  # the other side, or a proxy before it, said so itself
    if isinstance(cause, ProxyFaultError) and cause.refused:
        return False
    return isinstance(cause, _RETRIED_CAUSES) and not explain(cause)


def _pause_s(attempt: int) -> float:
    return FIRST_PAUSE_S * float(2 ** (attempt - 1)) * random.uniform(0.5, 1.5)


def left_until(end: float) -> int:
    """Milliseconds until a moment of the monotonic clock, for the deadline of one try: at least 1, at most a day."""
    return int(min(max(1.0, (end - time.monotonic()) * 1000), _LONGEST_TRY_MS))


class ForgetfulInterceptor:
    """On a server, before all others: lets go of what a call that failed has brought.

    An error holds the frames that it came through, with the request in them, and connectrpc holds the error in one of
    these frames: a circle, which Python's collector finds when it likes. Until then each refused workspace would cost
    its hundred megabytes.
    """

    async def on_start(self, ctx: Any) -> None:
        """Before a call."""

    async def on_end(self, token: None, ctx: Any, error: Exception | None) -> None:
        """After a call."""
        link: BaseException | None = error if isinstance(error, ConnectError) else None  # others will be logged
        while link is not None:
            link.__traceback__ = None
            link = link.__cause__ or link.__context__


class ErrorInterceptor:
    """On a server: turns the errors that a service raises into the wire's, so that services raise only ours."""

    async def intercept_unary(self, call_next: Callable[..., Awaitable[Any]], request: Any, ctx: Any) -> Any:
        """Around a unary call."""
        try:
            return await call_next(request, ctx)
        except Exception as error:
            raise _wire_error(error) from error

    def intercept_server_stream(
        self, call_next: Callable[..., AsyncIterator[Any]], request: Any, ctx: Any
    ) -> AsyncIterator[Any]:
        """Around a server stream."""
        return self._with_wire_errors(call_next(request, ctx))

    async def _with_wire_errors(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for message in messages:
                yield message
        except Exception as error:
            raise _wire_error(error) from error
        finally:
            await cast(Any, messages).aclose()


def _wire_error(error: Exception) -> ConnectError:
    if isinstance(error, ConnectError):
        return error
    if isinstance(error, IrisError):
        return ConnectError(Code(error.code), shown(str(error)))
    _log.error("a call failed", exc_info=error)  # a bug: the caller learns what, the log keeps where
    return ConnectError(Code.INTERNAL, shown(f"a bug of Iris, see the server's log: {type(error).__name__}: {error}"))
