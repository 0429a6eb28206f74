"""The HTTP transport of sync clients, behind the interface that connectrpc calls.

connectrpc's own transport is not used, because it lacks two features that users' programs need: Ctrl-C ends a blocked
read at once, and a client still works in a child process after `os.fork()`.

This module sets deadlines, ends calls when the client is closed, and translates errors. A `Sender` sends the requests:
`HttpcoreSender` by default, or `HttpxSender` over a transport of the user's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pyqwest import Headers, SyncClient, SyncRequest, SyncResponse

from iris.rpc.http.client.client_lifetime import Lifetime
from iris.rpc.http.client.httpcore_sender import HttpcoreSender
from iris.rpc.http.client.httpx_sender import HttpxSender
from iris.rpc.http.client.proxies import Proxy
from iris.rpc.http.client.stream_handle import FIRST_MESSAGE_S, STREAM_SILENCE_S, current_handle
from iris.rpc.http.client.upload_progress import in_slices
from iris.rpc.http.tls import ClientTls

if TYPE_CHECKING:
    import httpx  # httpx is optional. At run time it is imported only if the user passes a transport of httpx.

CONNECT_TIMEOUT_S = 5.0


class Answer(Protocol):
    """The answer to a request. Iterating over the answer gives the parts of its body."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """The headers."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None:
        """End the call. If the answer has not been read to its end, the server is told to stop sending."""


class Sender(Protocol):
    """Sends HTTP requests to one server."""

    @property
    def proxy(self) -> Proxy | None:
        """The proxy that calls go through, or None if Iris uses no proxy."""

    def send(
        self,
        method: str,
        url: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes | Iterator[bytes],
        extensions: dict[str, Any],
        *,
        alone: bool,
    ) -> Answer:
        """Send a request, and return the answer as soon as its head has arrived.

        Args:
            method: The HTTP method of the request.
            url: The URL of the request.
            headers: The headers, without `host`. They contain the length of a body that is given in parts.
            body: The whole body, or its parts.
            extensions: The extensions of httpcore and httpx, such as timeouts.
            alone: Whether the request is a stream, which should get a connection of its own.
        """

    def translate(self, error: Exception) -> Exception | None:
        """Return the exception to raise in place of an exception of `send` or of an answer. Return None if the
        exception must be raised unchanged.
        """

    def close(self) -> None:
        """Close the idle connections."""


class HttpTransport:
    """A `pyqwest.SyncTransport`. An instance is safe to use from several threads and, without a transport of the user's
    own, after a fork.

    The proxies that the environment names (`HTTPS_PROXY`, `NO_PROXY`, …) are used, but never for this machine itself.
    `ClientTls` describes how certificates are checked.

    Args:
        address: The base URL of the server.
        http2: Whether to use HTTP/2. With True and without TLS, HTTP/2 is used from the first byte ("prior knowledge").
            None: use HTTP/2 if the server offers it over TLS and the package h2 is installed, and otherwise HTTP/1.1.
        tls: The https servers that the client trusts, and the client's certificate.
        lifetime: The object that ends the client's calls when the client is closed. Several transports of one client
            share this object.
        given: A transport of the user's own, which sends all requests. `http2` and `tls` then have no effect, and
            `address` is used only in error messages.

    Attributes:
        lifetime: The object that ends the client's calls when the client is closed.
        proxy: The proxy that calls go through, or None if calls go directly to the server or through `given`.

    Raises:
        FailedPreconditionError: A file that `tls` names, or a proxy that the environment names, cannot be used.
        MissingExtraError: HTTP/2 or a SOCKS proxy is required, and the extra for it is not installed.
    """

    def __init__(
        self,
        address: str,
        *,
        http2: bool | None = None,
        tls: ClientTls | None = None,
        lifetime: Lifetime | None = None,
        given: httpx.BaseTransport | None = None,
    ) -> None:
        self.lifetime = lifetime or Lifetime(f"the client of {address}")
        self._sender: Sender = (
            HttpcoreSender(address, http2, tls or ClientTls(), self.lifetime)
            if given is None
            else HttpxSender(given, self.lifetime)
        )
        self.proxy = self._sender.proxy

    def connect_client(self) -> SyncClient:
        """Return the HTTP client for a generated stub."""
        return SyncClient(self)

    def close(self) -> None:
        """Close the connections, and end the calls and streams of other threads. In a child process after a fork, the
        connections belong to the parent and stay open.
        """
        self.lifetime.close()
        self._sender.close()

    def execute_sync(self, request: SyncRequest) -> SyncResponse:
        """Send a request and return its answer. connectrpc calls this method.

        Raises:
            ConnectionError: The connection failed.
            TimeoutError: The deadline of the call has passed, or a stream was silent for too long.
            ClientClosedError: The client was closed before the call or during it.
        """
        self.lifetime.check()
        content = request.content
        body = content if isinstance(content, bytes) else b"".join(content)
        headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
        streams = request.headers.get("content-type", "").startswith("application/connect+")
        deadline_ms = request.headers.get("connect-timeout-ms")
        deadline_s = float(deadline_ms) / 1000 if deadline_ms else math.inf
        try:
            if streams:
                return self._open_stream(request.method, request.url, headers, body, deadline_s)
            return self._call(request.method, request.url, headers, body, deadline_s)
        except Exception as error:
            self.lifetime.check()
            _raise_as_ours(error, self._sender)
            raise

    def _call(
        self, method: str, url: str, headers: list[tuple[bytes, bytes]], body: bytes, deadline_s: float
    ) -> SyncResponse:
        end = time.monotonic() + deadline_s
        slices = in_slices(body)
        if slices is not None:
            headers.append((b"content-length", b"%d" % len(body)))
        extensions = {"timeout": _timeouts(deadline_s)}
        answer = self._sender.send(method, url, headers, slices or body, extensions, alone=False)
        try:
            content = b"".join(_until(answer, end))
        finally:
            answer.close()
        return SyncResponse(status=answer.status, headers=_headers(answer), content=content)

    def _open_stream(
        self, method: str, url: str, headers: list[tuple[bytes, bytes]], body: bytes, deadline_s: float
    ) -> SyncResponse:
        extensions: dict[str, Any] = {"timeout": _timeouts(min(deadline_s, FIRST_MESSAGE_S))}
        handle = current_handle.get()
        if handle is not None:
            extensions["trace"] = handle.trace
        answer = self._sender.send(method, url, headers, body, extensions, alone=True)
        # From now on, the read timeout limits how long the stream may be silent. httpcore looks up the read timeout in
        # `extensions` before each read of the body.
        extensions["timeout"]["read"] = min(STREAM_SILENCE_S, deadline_s)
        stream = _Body(answer, self._sender, self.lifetime)
        if handle is not None:
            handle.opened(stream)
        return SyncResponse(status=answer.status, headers=_headers(answer), content=stream)


def _timeouts(read_s: float) -> dict[str, float | None]:
    """Return the timeouts of a request for httpcore. Each single read of the answer may take at most `read_s`
    seconds."""
    limit_s = None if read_s == math.inf else read_s
    return {"connect": min(read_s, CONNECT_TIMEOUT_S), "read": limit_s, "write": limit_s, "pool": limit_s}


def _until(chunks: Iterable[bytes], end: float) -> Iterator[bytes]:
    """Yield the chunks of an answer until a deadline on the monotonic clock. httpcore itself only limits the time of
    each read."""
    for chunk in chunks:
        if time.monotonic() > end:
            raise TimeoutError("the server's answer was not complete at the deadline of the call")
        yield chunk


def _headers(answer: Answer) -> Headers:
    return Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers])


class _Body:
    """The body of a stream, in chunks. Closing the body ends the call, so that the server stops sending."""

    def __init__(self, answer: Answer, sender: Sender, lifetime: Lifetime) -> None:
        self._answer = answer
        self._sender = sender
        self._lifetime = lifetime
        self._parts = iter(answer)

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._parts)
        except StopIteration:
            self.close()
            self._lifetime.check()
            raise
        except Exception as error:
            self.close()
            self._lifetime.check()
            _raise_as_ours(error, self._sender)
            raise

    def close(self) -> None:
        self._answer.close()


def _raise_as_ours(error: Exception, sender: Sender) -> None:
    """Let the sender translate an exception, and raise the translation. Do nothing if the sender returns None."""
    ours = sender.translate(error)
    if ours is not None:
        raise ours from error
