"""HTTP for the clients: httpcore (the engine of httpx), in the shape that connectrpc's sync clients take.

Not connectrpc's own transport, since a program of a user needs what it lacks: Ctrl-C ends a blocked read at once,
and a client goes on working in a child after `os.fork()`. Not the whole of httpx, since its client costs as much per
call again, for cookies, redirects and authentication that no call of ours has.
"""

from __future__ import annotations

import math
import os
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pyqwest import Headers, SyncClient, SyncRequest, SyncResponse

from iris.rpc.http.client_lifetime import Lifetime
from iris.rpc.http.connection_errors import describe_fault, to_connection_error
from iris.rpc.http.proxies import Proxy, ProxyFaultError, find_proxy
from iris.rpc.http.stream_handle import FIRST_MESSAGE_S, STREAM_SILENCE_S, current_handle
from iris.rpc.http.tls import ClientTls
from iris.rpc.http.upload_progress import in_slices

if TYPE_CHECKING:
    import httpcore  # elsewhere imported where it is used: `import iris.client` need not wait for it

CONNECT_TIMEOUT_S = 5.0
# Shorter than the 75 s for which our servers (and common proxies) keep an idle connection, so that a request
# seldom meets one that is being closed.
_KEEPALIVE_S = 30.0
_ONE_WRITE_BYTES = 64 * 1024
_LOGIN_STATUS = str(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED.value)  # begins httpcore's text for this answer


class HttpTransport:
    """A `pyqwest.SyncTransport` over httpcore, safe to use from several threads and after a fork.

    The proxies of the environment (`HTTPS_PROXY`, `NO_PROXY`, …) are used, but never for this machine itself.
    Certificates are checked as `ClientTls` says.

    Args:
        address: The base URL of the server.
        http2: Speak HTTP/2 from the first byte, without TLS too ("prior knowledge"). Without it a TLS server that
            offers HTTP/2 gets it, everybody else HTTP/1.1.
        tls: How to know an https server.
        lifetime: The life of the client, where that has several transports. Closing it ends all reads.

    Attributes:
        proxy: The proxy that calls go through; None: they go straight.

    Raises:
        FailedPreconditionError: One of the files that `tls` names, or a proxy of the environment, cannot be used.
        MissingExtraError: The environment names a SOCKS proxy, and the extra [socks] is not installed.
    """

    def __init__(
        self, address: str, *, http2: bool = False, tls: ClientTls | None = None, lifetime: Lifetime | None = None
    ) -> None:
        self._lifetime = lifetime or Lifetime(f"the client of {address}")
        self._tls = address.startswith("https://")
        self._context = (tls or ClientTls()).context() if self._tls else None
        self._http2 = http2
        self.proxy = find_proxy(address)
        self._urls: dict[str, httpcore.URL] = {}  # by text: a stub calls a handful of them again and again
        self._pid = os.getpid()
        self._pool = self._new_pool()

    def connect_client(self) -> SyncClient:
        """The HTTP client to give to a generated stub."""
        return SyncClient(self)

    def close(self) -> None:
        """Closes the connections, and ends the calls and streams of other threads. In a child after a fork the
        connections are the parent's, and stay open there."""
        self._lifetime.close()
        if self._pid == os.getpid():
            for connection in self._pool.connections:
                if connection.is_idle():  # the thread that uses it closes it: else its number may be another file's
                    connection.close()

    def execute_sync(self, request: SyncRequest) -> SyncResponse:
        """Sends one request; the seam that connectrpc calls.

        Raises:
            ConnectionError: The connection is at fault.
            TimeoutError: The call's time is over, or a stream was silent for too long.
            ClientClosedError: The client was closed before or meanwhile.
        """
        import httpcore

        self._lifetime.check()
        url = self._urls.get(request.url) or self._urls.setdefault(request.url, httpcore.URL(request.url))
        content = request.content
        body = content if isinstance(content, bytes) else b"".join(content)
        headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
        streams = request.headers.get("content-type", "").startswith("application/connect+")
        deadline_ms = request.headers.get("connect-timeout-ms")
        deadline_s = float(deadline_ms) / 1000 if deadline_ms else math.inf
        extensions = {"timeout": _timeouts(min(deadline_s, FIRST_MESSAGE_S) if streams else deadline_s)}
        try:
            if streams:
                return self._open_stream(request.method, url, headers, body, extensions, deadline_s)
            end = time.monotonic() + (extensions["timeout"]["read"] or math.inf)
            slices = in_slices(body)
            if slices is not None:
                headers.append((b"content-length", b"%d" % len(body)))
            with self._current_pool().stream(
                request.method, url, headers=headers, content=slices or body, extensions=extensions
            ) as response:
                answer = b"".join(_until(response.iter_stream(), end))
        except Exception as error:
            self._lifetime.check()
            _raise_as_ours(error, self.proxy)
            raise
        return SyncResponse(status=response.status, headers=_headers(response), content=answer)

    def _open_stream(
        self,
        method: str,
        url: httpcore.URL,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        extensions: dict[str, Any],
        deadline_s: float,
    ) -> SyncResponse:
        handle = current_handle.get()
        if handle is not None:
            extensions = {**extensions, "trace": handle.trace}
        with ExitStack() as opened:
            # A connection of its own, so that closing the stream closes it. HTTP/2 does not reset a stream that is
            # closed early, and the server would go on writing; and a handle has to know whose connection it ends.
            pool = opened.enter_context(self._new_pool())
            response = opened.enter_context(
                pool.stream(method, url, headers=headers, content=body, extensions=extensions)
            )
            extensions["timeout"]["read"] = min(STREAM_SILENCE_S, deadline_s)  # httpcore looks anew for the body
            answer = _Body(response, opened.pop_all(), self._lifetime)
            if handle is not None:
                handle.opened(answer)
            return SyncResponse(status=response.status, headers=_headers(response), content=answer)
        raise AssertionError("unreachable: the block returns or raises")

    def _current_pool(self) -> httpcore.ConnectionPool:
        if self._pid != os.getpid():
            # We are a child after a fork. The old connections belong to the parent and its locks may be held for ever
            # by a thread that does not exist here: leave them alone, do not even close them.
            self._pool = self._new_pool()
            self._pid = os.getpid()
        return self._pool

    def _new_pool(self) -> httpcore.ConnectionPool:
        import httpcore

        over_tls = self._tls or (self.proxy is not None and self.proxy.scheme == "https")
        plain_http1 = not self._http2 and not over_tls
        return httpcore.ConnectionPool(
            network_backend=_backends()[plain_http1](self._lifetime),
            ssl_context=self._context,
            proxy=_httpcore_proxy(self.proxy) if self.proxy else None,
            max_connections=None,
            keepalive_expiry=_KEEPALIVE_S,
            http1=not (self._http2 and not self._tls),
            http2=self._http2 or self._tls,
        )


@cache
def _backends() -> tuple[Callable[[Lifetime], httpcore.NetworkBackend], Callable[[Lifetime], httpcore.NetworkBackend]]:
    """What opens connections: both kinds tell a `Lifetime` of each.

    The second kind sends the head and the body of a request in one packet, where httpcore writes them one after the
    other: the server is woken once, not twice. It is for HTTP/1.1 only, where nobody writes while another reads.
    """
    import httpcore

    class Stream(httpcore.NetworkStream):
        def __init__(self, stream: httpcore.NetworkStream, lifetime: Lifetime) -> None:
            self._stream = stream
            self._lifetime = lifetime
            lifetime.add(stream.get_extra_info("socket"))

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self._stream.write(buffer, timeout)

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return self._stream.read(max_bytes, timeout)

        def close(self) -> None:
            self._stream.close()

        def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            return Stream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._lifetime)

        def get_extra_info(self, info: str) -> Any:
            return self._stream.get_extra_info(info)

    class OneWriteStream(Stream):
        def __init__(self, stream: httpcore.NetworkStream, lifetime: Lifetime) -> None:
            super().__init__(stream, lifetime)
            self._unsent = b""

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self._unsent += buffer
            if len(self._unsent) > _ONE_WRITE_BYTES:
                self._flush(timeout)

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            self._flush(timeout)
            return self._stream.read(max_bytes, timeout)

        def _flush(self, timeout: float | None) -> None:
            unsent, self._unsent = self._unsent, b""
            if unsent:
                self._stream.write(unsent, timeout)

    class Backend(httpcore.SyncBackend):
        def __init__(self, lifetime: Lifetime) -> None:
            self._lifetime = lifetime

        def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
            return Stream(super().connect_tcp(*args, **kwargs), self._lifetime)

    class OneWriteBackend(httpcore.SyncBackend):
        def __init__(self, lifetime: Lifetime) -> None:
            self._lifetime = lifetime

        def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
            return OneWriteStream(super().connect_tcp(*args, **kwargs), self._lifetime)

    return Backend, OneWriteBackend


def _httpcore_proxy(proxy: Proxy) -> httpcore.Proxy:
    import httpcore

    url = httpcore.URL(scheme=proxy.scheme, host=proxy.host, port=proxy.port, target=b"/")
    return httpcore.Proxy(url, auth=proxy.auth, ssl_context=ClientTls().context() if proxy.scheme == "https" else None)


def _timeouts(read_s: float) -> dict[str, float | None]:
    """For httpcore. The deadline of a call travels in its header; a stream has none, and is only cut for silence."""
    limit_s = None if read_s == math.inf else read_s
    return {"connect": min(read_s, CONNECT_TIMEOUT_S), "read": limit_s, "write": limit_s, "pool": limit_s}


def _until(chunks: Iterable[bytes], end: float) -> Iterator[bytes]:
    """httpcore limits the time of each read; this limits that of all."""
    for chunk in chunks:
        if time.monotonic() > end:
            raise TimeoutError("the answer came too slowly")
        yield chunk


def _headers(response: httpcore.Response) -> Headers:
    return Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers])


class _Body:
    """The body of a stream as it comes; closing it closes the connection, which is how the server learns of it."""

    def __init__(self, response: httpcore.Response, opened: ExitStack, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self._response = response
        self._opened = opened
        self._parts = iter(response.stream)  # type: ignore[arg-type]

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
            _raise_as_ours(error)
            raise

    def close(self) -> None:
        self._response.close()
        self._opened.close()


def _raise_as_ours(error: Exception, proxy: Proxy | None = None) -> None:
    """Raise a fault of the connection as `ConnectionError`, and as `TimeoutError` when the call's time is over, so that
    nobody else has to know of httpcore.

    Args:
        error: What httpcore raised.
        proxy: The proxy that the call goes through: connections are made to it alone.
    """
    import httpcore

    if isinstance(error, httpcore.ReadTimeout | httpcore.WriteTimeout | httpcore.PoolTimeout):
        raise TimeoutError(str(error)) from error
    reason = str(error) or type(error).__name__
    if proxy is not None and proxy.is_socks:
        import socksio

        if isinstance(error, socksio.SOCKSError):
            raise ProxyFaultError(proxy, f"no SOCKS5 ({reason})", refused=True) from error
    if proxy is not None and isinstance(error, httpcore.ProxyError):
        raise ProxyFaultError(
            proxy, reason, refused=_is_refusal(reason), asks_for_login=reason.startswith(_LOGIN_STATUS)
        ) from error
    if proxy is not None and isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout):
        raise ProxyFaultError(proxy, describe_fault(error)) from error
    if isinstance(
        error, httpcore.NetworkError | httpcore.RemoteProtocolError | httpcore.ProxyError | httpcore.ConnectTimeout
    ):
        raise to_connection_error(error) from error


def _is_refusal(reason: str) -> bool:
    """Return whether a proxy says no for good: by an answer of 4xx to CONNECT, or to a SOCKS login."""
    return reason[:1] == "4" or reason.startswith(("Invalid username", "Requested "))
