"""The HTTP transport of sync clients: httpcore, the engine of httpx, behind the interface that connectrpc calls.

connectrpc's own transport is not used, because it lacks two features that users' programs need: Ctrl-C ends a blocked
read at once, and a client still works in a child process after `os.fork()`. httpx itself is not used either, because
each call would take a third more time. httpx spends this time on cookies, redirects and authentication, and Iris uses
none of these features.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pyqwest import Headers, SyncClient, SyncRequest, SyncResponse

from iris.rpc.http.client.client_lifetime import Lifetime
from iris.rpc.http.client.proxies import Proxy, ProxyFaultError, find_proxy
from iris.rpc.http.client.stream_handle import FIRST_MESSAGE_S, STREAM_SILENCE_S, current_handle
from iris.rpc.http.client.upload_progress import in_slices
from iris.rpc.http.connection_errors import describe_fault, to_connection_error
from iris.rpc.http.tls import ClientTls

if TYPE_CHECKING:
    import httpcore  # httpcore is imported inside functions only, so that `import iris.client` is fast.

CONNECT_TIMEOUT_S = 5.0
# The client closes an idle connection after this time. Servers of Iris and common proxies wait for 75 s, so a request
# seldom meets a connection that the server is closing.
_KEEPALIVE_S = 30.0
# httpcore's error text begins with this status if a proxy requires a user name and a password.
_LOGIN_STATUS = str(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED.value)


class HttpTransport:
    """A `pyqwest.SyncTransport` over httpcore. An instance is safe to use from several threads and after a fork.

    The proxies that the environment names (`HTTPS_PROXY`, `NO_PROXY`, …) are used, but never for this machine itself.
    `ClientTls` describes how certificates are checked.

    Args:
        address: The base URL of the server.
        http2: Use HTTP/2 from the first byte, also without TLS ("prior knowledge"). By default, HTTP/2 is used with
            TLS servers that offer it, and HTTP/1.1 with all others.
        tls: The https servers that the client trusts, and the client's certificate.
        lifetime: The lifetime that several transports of one client share. Closing the lifetime ends all reads.

    Attributes:
        proxy: The proxy that calls go through, or None if calls go directly to the server.

    Raises:
        FailedPreconditionError: A file that `tls` names, or a proxy that the environment names, cannot be used.
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
        # Parsed URLs by their text. They are kept, because a stub uses the same few URLs again and again.
        self._urls: dict[str, httpcore.URL] = {}
        self._pid = os.getpid()
        self._pool = self._new_pool()

    def connect_client(self) -> SyncClient:
        """Return the HTTP client for a generated stub."""
        return SyncClient(self)

    def close(self) -> None:
        """Close the connections, and end the calls and streams of other threads.

        In a child process after a fork, the connections belong to the parent and stay open.
        """
        self._lifetime.close()
        if self._pid == os.getpid():
            for connection in self._pool.connections:
                if connection.is_idle():  # Busy connections are closed by their threads.
                    connection.close()

    def execute_sync(self, request: SyncRequest) -> SyncResponse:
        """Send a request and return its answer. connectrpc calls this method.

        Raises:
            ConnectionError: The connection failed.
            TimeoutError: The deadline of the call has passed, or a stream was silent for too long.
            ClientClosedError: The client was closed before the call or during it.
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
            # Each stream has a separate connection, so that closing the stream closes the connection. httpcore does not
            # reset an HTTP/2 stream that is closed early, so the server would continue to send. In addition, a
            # `StreamHandle` must know which connection to shut down.
            pool = opened.enter_context(self._new_pool())
            response = opened.enter_context(
                pool.stream(method, url, headers=headers, content=body, extensions=extensions)
            )
            # httpcore reads this timeout again before it reads the body. Therefore the value can still change here.
            extensions["timeout"]["read"] = min(STREAM_SILENCE_S, deadline_s)
            answer = _Body(response, opened.pop_all(), self._lifetime)
            if handle is not None:
                handle.opened(answer)
            return SyncResponse(status=response.status, headers=_headers(response), content=answer)
        raise AssertionError("unreachable: the block returns or raises")

    def _current_pool(self) -> httpcore.ConnectionPool:
        if self._pid != os.getpid():
            # This process is a child after a fork. The old connections belong to the parent, and a thread that does not
            # exist here may hold the locks of the old pool. The old pool is therefore left alone, and not even closed.
            self._pool = self._new_pool()
            self._pid = os.getpid()
        return self._pool

    def _new_pool(self) -> httpcore.ConnectionPool:
        import httpcore

        from iris.rpc.http.client.connections import Backend, OneWriteBackend

        over_tls = self._tls or (self.proxy is not None and self.proxy.scheme == "https")
        plain_http1 = not self._http2 and not over_tls
        return httpcore.ConnectionPool(
            network_backend=OneWriteBackend(self._lifetime) if plain_http1 else Backend(self._lifetime),
            ssl_context=self._context,
            proxy=_httpcore_proxy(self.proxy) if self.proxy else None,
            max_connections=None,
            keepalive_expiry=_KEEPALIVE_S,
            http1=not (self._http2 and not self._tls),
            http2=self._http2 or self._tls,
        )


def _httpcore_proxy(proxy: Proxy) -> httpcore.Proxy:
    import httpcore

    url = httpcore.URL(scheme=proxy.scheme, host=proxy.host, port=proxy.port, target=b"/")
    return httpcore.Proxy(url, auth=proxy.auth, ssl_context=ClientTls().context() if proxy.scheme == "https" else None)


def _timeouts(read_s: float) -> dict[str, float | None]:
    """Return the timeouts for httpcore, given the longest time of one read."""
    limit_s = None if read_s == math.inf else read_s
    return {"connect": min(read_s, CONNECT_TIMEOUT_S), "read": limit_s, "write": limit_s, "pool": limit_s}


def _until(chunks: Iterable[bytes], end: float) -> Iterator[bytes]:
    """Yield chunks until a moment of the monotonic clock. httpcore itself only limits the time of each read."""
    for chunk in chunks:
        if time.monotonic() > end:
            raise TimeoutError("the server's answer arrived too slowly")
        yield chunk


def _headers(response: httpcore.Response) -> Headers:
    return Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers])


class _Body:
    """The body of a stream, in chunks. Closing the body closes the connection, so that the server stops sending."""

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
    """Raise the built-in error that stands for an error of httpcore. Do nothing for other errors.

    Args:
        error: The exception that httpcore raised.
        proxy: The proxy that the call goes through, or None if the call goes directly to the server.

    Raises:
        TimeoutError: The deadline of the call has passed.
        ConnectionError: The connection failed. The error is a `ProxyFaultError` if the proxy is at fault.
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
    """Return whether a proxy refused the call, with a status of 4xx or a failed SOCKS login.

    A call that a proxy has refused is not retried, because a retry would be useless.
    """
    return reason[:1] == "4" or reason.startswith(("Invalid username", "Requested "))
