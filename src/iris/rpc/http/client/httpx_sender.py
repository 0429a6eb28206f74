"""Sends the requests of a client over a transport of the user's own: an `httpx.BaseTransport`, or an
`httpx.AsyncBaseTransport` for the async client. httpx is not a dependency of Iris. A program that has a transport of
httpx has imported httpx already.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyqwest import Headers, Request, Response

from iris.arguments import refuse
from iris.errors import FailedPreconditionError, InvalidArgumentError, shown
from iris.rpc.http.client.client_lifetime import Lifetime
from iris.rpc.http.client.stream_handle import FIRST_MESSAGE_S, STREAM_SILENCE_S, current_handle
from iris.rpc.http.connection_errors import GivenTransportError, to_connection_error

if TYPE_CHECKING:
    import httpx

_CONNECT_S = 5.0
_OPENED = (".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")


def check_transport(value: object, *, is_async: bool = False) -> Any:
    """Return the argument `transport` of a client. The argument is a transport of httpx, or None.

    Args:
        value: The argument.
        is_async: Whether the client is async and needs an `httpx.AsyncBaseTransport`.

    Raises:
        InvalidArgumentError: (a `ValueError`) The argument is not a transport of httpx that the client can use.
    """
    # If the program has not imported httpx, the argument cannot be a transport of httpx.
    httpx = sys.modules.get("httpx")
    needed, other = ("AsyncBaseTransport", "BaseTransport") if is_async else ("BaseTransport", "AsyncBaseTransport")
    if value is not None and not (httpx is not None and isinstance(value, getattr(httpx, needed))):
        advice = f"for example httpx.{'AsyncHTTPTransport' if is_async else 'HTTPTransport'}(retries=1)"
        if isinstance(value, type):
            advice += ", and not a class"
        elif httpx is not None and isinstance(value, httpx.Client | httpx.AsyncClient):
            advice += ", and not an HTTP client, whose cookies, redirects and authentication Iris would not use"
        elif httpx is not None and isinstance(value, getattr(httpx, other)):
            advice += f"; {'IrisClient' if is_async else 'AsyncIrisClient'} takes an httpx.{other}"
        refuse("transport", f"an httpx.{needed} or None", value, advice)
    return value


def check_alone(transport: object, **others: object) -> None:
    """Check that a user who gives a transport gives none of the arguments `others`. These arguments would have no
    effect, because the transport has its own settings.

    Raises:
        InvalidArgumentError: (a `ValueError`) One of the arguments is given together with `transport`.
    """
    given = [name for name, value in others.items() if value is not None]
    if transport is not None and given:
        raise InvalidArgumentError(
            f"{given[0]} and transport are mutually exclusive: the transport makes the connections, so give it this"
            " setting, for example httpx.HTTPTransport(verify=…, cert=…, http2=…)"
        )


class HttpxSender:
    """Sends requests over an `httpx.BaseTransport`.

    Args:
        transport: The transport. It is closed with the client.
        lifetime: The object that ends the client's calls when the client is closed. Connections of httpx's own
            transport are added to this object.

    Attributes:
        has_ended_connection: Whether this sender has ended a connection. The transport may not notice this, and may
            send the next request on the ended connection.
    """

    proxy = None

    def __init__(self, transport: httpx.BaseTransport, lifetime: Lifetime) -> None:
        self._transport = transport
        self._lifetime = lifetime
        self._pid = os.getpid()
        self._is_closed = False
        self.has_ended_connection = False

    def send(
        self,
        method: str,
        url: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes | Iterator[bytes],
        extensions: dict[str, Any],
        *,
        alone: bool,
    ) -> _Answer:
        """Send a request, and return the answer as soon as its head has arrived.

        Raises:
            FailedPreconditionError: This process is a child after a fork.
        """
        import httpx

        if self._pid != os.getpid():
            raise FailedPreconditionError(
                "a client with a transport= of its own cannot be used in a child process after a fork, because both"
                " processes would use the transport's connections: make a new client in the child process"
            )
        handle = current_handle.get() if alone else None
        handle_trace = extensions.get("trace")

        def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith(_OPENED):
                self._lifetime.add(info["return_value"].get_extra_info("socket"))
            if handle_trace is not None:
                handle_trace(event, info)

        request = httpx.Request(method, url, headers=headers, content=body, extensions={**extensions, "trace": trace})
        try:
            answer = _Answer(self, self._transport.handle_request(request))
        except httpx.TransportError:
            if not self.has_ended_connection or not isinstance(body, bytes):
                raise
            # The call is made again, because the transport has probably used a connection that `_Answer.close` had
            # ended.
            self.has_ended_connection = False
            answer = _Answer(self, self._transport.handle_request(request))
        if handle is not None and answer.socket is not None:
            handle.connected(answer.socket)
        return answer

    def translate(self, error: Exception) -> Exception | None:
        """Return the exception to raise in place of an exception of the transport. Return None if the exception of the
        transport must be raised unchanged.
        """
        return _translate(error)

    def close(self) -> None:
        """Close the transport, once. In a child process after a fork, do nothing."""
        if self._pid == os.getpid() and not self._is_closed:
            self._is_closed = True
            self._transport.close()


class _Answer:
    """The answer of a transport.

    Attributes:
        status: The HTTP status of the answer.
        headers: The HTTP headers of the answer.
        socket: The socket of the connection, if the transport reveals the socket, as httpx's own transport does.
    """

    def __init__(self, sender: HttpxSender, response: httpx.Response) -> None:
        import httpx

        if not isinstance(response, httpx.Response) or not isinstance(response.stream, httpx.SyncByteStream):
            raise GivenTransportError(f"the given transport returned no answer: {shown(repr(response))}")
        self.status = response.status_code
        self.headers = response.headers.raw
        network_stream = response.extensions.get("network_stream")
        self.socket: socket.socket | None = network_stream and network_stream.get_extra_info("socket")
        self._shares_connection = response.extensions.get("http_version") == b"HTTP/2"
        self._sender = sender
        self._response = response
        self._is_whole = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.stream  # type: ignore[misc]  # its kind was checked
        self._is_whole = True

    def close(self) -> None:
        """Close the answer.

        httpx's own transport does not reset an HTTP/2 stream that is closed early, and counts the stream as open for
        ever. Therefore the whole connection is ended. Other calls on the connection are made again on a new one.
        """
        if not self._is_whole and self._shares_connection and self.socket is not None:
            self._sender.has_ended_connection = True
            with suppress(OSError):  # `shutdown` may fail, because the socket may be closed already.
                self.socket.shutdown(socket.SHUT_RDWR)
        self._response.close()


class AsyncHttpxTransport:
    """A `pyqwest.Transport` over an `httpx.AsyncBaseTransport`, for async clients.

    Args:
        transport: The transport. The owner of this object closes it.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def execute(self, request: Request) -> Response:
        """Send a request and return its answer. connectrpc calls this method, and limits its time.

        Raises:
            ConnectionError: The connection failed.
        """
        import httpx

        content = request.content
        body = content if isinstance(content, bytes) else b"".join([bytes(part) async for part in content])
        streams = request.headers.get("content-type", "").startswith("application/connect+")
        headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
        timeout: dict[str, float | None] = {"connect": _CONNECT_S, "read": None, "write": None, "pool": None}
        if streams:
            timeout["read"] = FIRST_MESSAGE_S
        sent = httpx.Request(
            request.method, request.url, headers=headers, content=body, extensions={"timeout": timeout}
        )
        try:
            response = await self._transport.handle_async_request(sent)
            if not isinstance(response, httpx.Response) or not isinstance(response.stream, httpx.AsyncByteStream):
                raise GivenTransportError(f"the given transport returned no answer: {shown(repr(response))}")
            timeout["read"] = STREAM_SILENCE_S if streams else None
            parts = _parts(response)
            content = parts if streams else b"".join([part async for part in parts])
        except Exception as error:
            _raise_translated(error)
            raise
        answered = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw])
        return Response(status=response.status_code, headers=answered, content=content)


async def _parts(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the parts of an answer's body, and close the answer in the end."""
    try:
        async for part in response.stream:  # type: ignore[union-attr]  # its kind was checked
            yield part
    except Exception as error:
        _raise_translated(error)
        raise
    finally:
        # A cancelled task must not wait here for the server, and httpx closes an answer without waiting for it.
        await asyncio.shield(response.aclose())


def _raise_translated(error: Exception) -> None:
    ours = _translate(error)
    if ours is not None:
        raise ours from error


def _translate(error: Exception) -> Exception | None:
    """Return the exception to raise in place of an exception of a transport. Return None if the exception of the
    transport must be raised unchanged.

    The returned error is a `TimeoutError` if the deadline of the call has passed, a `ConnectionError` if the connection
    failed, and a `GivenTransportError` for an exception that does not belong to httpx's interface for transports.
    """
    import httpx

    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
        return TimeoutError(str(error))
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout | httpx.ProxyError):
        return to_connection_error(error)
    if isinstance(error, TimeoutError | ConnectionError | GivenTransportError | FailedPreconditionError):
        return None
    return GivenTransportError(f"the given transport raised {type(error).__name__}: {error}")
