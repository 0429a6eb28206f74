"""Sends the requests of a client over httpcore, the engine of httpx. Clients use this transport by default.

`httpx.HTTPTransport` would send the same requests over the same engine. It is not the default, because each call would
take the client 1.3 times the CPU time, and because its packages would make a base install 8 % larger. In addition, the
command `iris` would start more slowly: importing httpx also imports parts of click and rich, and takes 63 ms then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from iris.errors import FailedPreconditionError, MissingExtraError
from iris.rpc.http.client.client_lifetime import Lifetime
from iris.rpc.http.client.proxies import Proxy, ProxyFaultError, find_proxy
from iris.rpc.http.connection_errors import describe_fault, to_connection_error
from iris.rpc.http.tls import ClientTls

if TYPE_CHECKING:
    import httpcore  # httpcore is imported inside functions only, so that `import iris.client` is fast.

# The client closes an idle connection after this time. Servers of Iris and common proxies wait for 75 s, so a request
# seldom meets a connection that the server is closing.
_KEEPALIVE_S = 30.0
# The size of the window that an HTTP/2 server grants at first. The rest of a larger request waits until the server has
# read the beginning. A proxy that refuses the request reads nothing and answers at once. httpcore ignores that answer
# while it waits for the window, so the call would fail with a timeout.
_FIRST_WINDOW_BYTES = 65_535
# httpcore's error text begins with this status if a proxy requires a user name and a password.
_LOGIN_STATUS = str(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED.value)


class HttpcoreSender:
    """Sends requests to one server, and keeps idle connections for later requests.

    Each connection carries one call at a time, also with HTTP/2, for four reasons. httpcore does not reset an HTTP/2
    stream that is closed early, so the server would continue to send. A call that times out would break the other calls
    on its connection. A call would wait beyond its deadline while another call reads. `StreamHandle` and `Lifetime` end
    a call by shutting its connection down.

    `HttpcoreSender` has no lock, because a lock that another thread holds during a fork would never be released in the
    child process. No lock is needed, because single operations on a list are atomic.

    Args:
        address: The base URL of the server.
        http2: Whether to use HTTP/2. None: use HTTP/2 if the server offers it over TLS and the package h2 is installed.
        tls: The https servers that the client trusts, and the client's certificate.
        lifetime: The object that ends the client's calls when the client is closed.

    Attributes:
        proxy: The proxy that calls go through, or None if calls go directly to the server.

    Raises:
        FailedPreconditionError: A file that `tls` names, or a proxy that the environment names, cannot be used.
        MissingExtraError: HTTP/2 or a SOCKS proxy is required, and the extra for it is not installed.
    """

    def __init__(self, address: str, http2: bool | None, tls: ClientTls, lifetime: Lifetime) -> None:
        self.proxy = find_proxy(address)
        over_tls = address.startswith("https://")
        has_h2 = find_spec("h2") is not None if http2 or (http2 is None and over_tls) else False
        if http2 and not has_h2:
            raise MissingExtraError(what="http2=True", extra="http2")
        if http2 and not over_tls and self.proxy is not None and not self.proxy.is_socks:
            raise FailedPreconditionError(
                f"http2=True cannot be used for {address}, because {self.proxy} forwards such calls as HTTP/1.1: leave"
                f" http2=True out, or call without a proxy: NO_PROXY={urlsplit(address).hostname}"
            )
        self._connector = _connector(address, http2, has_h2, tls, lifetime, self.proxy)
        self._new_http1_connector = partial(_connector, address, http2, False, tls, lifetime, self.proxy)
        # The connector for large requests, which uses HTTP/1.1 if the client may choose the version. None before the
        # first large request.
        self._large_connector = None if has_h2 and not http2 else self._connector
        # Parsed URLs with their origin and Host header. They are kept, because a stub uses the same few URLs again and
        # again.
        self._urls: dict[str, tuple[httpcore.URL, httpcore.Origin, tuple[bytes, bytes]]] = {}
        self._pid = os.getpid()
        self._idle: list[httpcore.ConnectionInterface] = []

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
            headers: The headers, without `host`.
            body: The whole body, or its parts. With parts, `headers` contain the length.
            extensions: httpcore's extensions, such as timeouts.
            alone: Whether to open a new connection for this request, which is closed afterwards.
        """
        import httpcore

        parsed, origin, host = self._urls.get(url) or self._parse(url)
        length = [(b"content-length", b"%d" % len(body))] if isinstance(body, bytes) else []
        size = next((int(value) for name, value in [*length, *headers] if name == b"content-length"), 0)
        connector = self._connector if size <= _FIRST_WINDOW_BYTES else self._connector_for_large_requests()
        request = httpcore.Request(
            method, parsed, headers=[host, *headers, *length], content=body, extensions=extensions
        )
        idle = None if alone or connector is not self._connector else self._take_idle()
        connection = idle or connector.create_connection(origin)
        try:
            response = connection.handle_request(request)
        except BaseException:
            connection.close()
            if idle is not None:
                # All idle connections are dropped before the retry, because the server has probably closed them, too.
                self.close()
            raise
        return Answer(self, connection, response, keep=not alone and connector is self._connector)

    def translate(self, error: Exception) -> Exception | None:
        """Return the built-in error that stands for an error of httpcore: a `TimeoutError` if the deadline of the call
        has passed, a `ConnectionError` if the connection failed, or a `ProxyFaultError` if the proxy is at fault.
        Return None for other errors.
        """
        import httpcore

        if isinstance(error, httpcore.ReadTimeout | httpcore.WriteTimeout | httpcore.PoolTimeout):
            return TimeoutError(str(error))
        proxy, reason = self.proxy, str(error) or type(error).__name__
        if proxy is not None and proxy.is_socks:
            import socksio

            if isinstance(error, socksio.SOCKSError):
                return ProxyFaultError(proxy, f"no SOCKS5 ({reason})", refused=True)
        if proxy is not None and isinstance(error, httpcore.ProxyError):
            return ProxyFaultError(
                proxy, reason, refused=_is_refusal(reason), asks_for_login=reason.startswith(_LOGIN_STATUS)
            )
        if proxy is not None and isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout):
            return ProxyFaultError(proxy, describe_fault(error))
        if isinstance(error, httpcore.NetworkError | httpcore.RemoteProtocolError | httpcore.ConnectTimeout):
            return to_connection_error(error)
        return to_connection_error(error) if _is_http2_fault(error) else None

    def keep(self, connection: httpcore.ConnectionInterface) -> None:
        """Keep a connection whose call is complete for a later call. Close the connections that were idle for too long.

        Each call uses the connection that was kept last. Therefore the first connection in the list has been idle for
        the longest time.
        """
        if self._pid != os.getpid():
            return
        self._idle.append(connection)
        with suppress(IndexError):  # The list is empty if another thread has taken the last idle connection.
            while len(self._idle) > 1 and self._idle[0].has_expired():
                self._idle.pop(0).close()

    def close(self) -> None:
        """Close the idle connections. In a child process after a fork, the parent's connections stay open."""
        if self._pid != os.getpid():
            return
        with suppress(IndexError):  # The list is empty if another thread has taken the last idle connection.
            while self._idle:
                self._idle.pop().close()

    def _connector_for_large_requests(self) -> httpcore.ConnectionPool:
        if self._large_connector is None:
            self._large_connector = self._new_http1_connector()
        return self._large_connector

    def _take_idle(self) -> httpcore.ConnectionInterface | None:
        if self._pid != os.getpid():
            # If this process is a child after a fork, it drops the idle connections, because they belong to the parent.
            self._idle = []
            self._pid = os.getpid()
        with suppress(IndexError):  # The list is empty if another thread has taken the last idle connection.
            while self._idle:
                connection = self._idle.pop()
                if connection.is_available() and not connection.has_expired():
                    return connection
                connection.close()
        return None

    def _parse(self, url: str) -> tuple[httpcore.URL, httpcore.Origin, tuple[bytes, bytes]]:
        import httpcore

        parsed = httpcore.URL(url)
        host = (b"host", urlsplit(url).netloc.encode("ascii"))
        return self._urls.setdefault(url, (parsed, parsed.origin, host))


class Answer:
    """The answer to a request. Iterating over the answer gives the parts of its body.

    Attributes:
        status: The HTTP status of the answer.
        headers: The HTTP headers of the answer.
    """

    def __init__(
        self,
        sender: HttpcoreSender,
        connection: httpcore.ConnectionInterface,
        response: httpcore.Response,
        *,
        keep: bool,
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self._sender = sender
        self._connection = connection
        self._response = response
        self._keep = keep
        self._is_whole = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()
        self._is_whole = True

    def close(self) -> None:
        """Close the connection, or keep it for later calls if the whole answer has been read."""
        self._response.close()
        if self._keep and self._is_whole and self._connection.is_idle():
            self._sender.keep(self._connection)
        else:
            self._connection.close()


def _connector(
    address: str, http2: bool | None, has_h2: bool, tls: ClientTls, lifetime: Lifetime, proxy: Proxy | None
) -> httpcore.ConnectionPool:
    """Return an object that creates connections to a server. The object is a pool of httpcore, but only its method
    `create_connection` is used. This method chooses the kind of connection that the proxy needs.
    """
    import httpcore

    from iris.rpc.http.client.connections import Backend, PriorKnowledgeBackend

    parts = urlsplit(address)
    over_tls = parts.scheme == "https"
    prior_knowledge = bool(http2) and not over_tls
    # Through a SOCKS proxy, the first bytes of a connection come from the proxy, so they cannot show whether the server
    # speaks HTTP/2.
    backend = PriorKnowledgeBackend if prior_knowledge and proxy is None else Backend
    return httpcore.ConnectionPool(
        network_backend=backend(lifetime, parts.hostname or "" if http2 else ""),
        ssl_context=tls.context() if over_tls else None,
        proxy=_httpcore_proxy(proxy) if proxy else None,
        keepalive_expiry=_KEEPALIVE_S,
        http1=not prior_knowledge,
        http2=has_h2,
    )


def _httpcore_proxy(proxy: Proxy) -> httpcore.Proxy:
    import httpcore

    url = httpcore.URL(scheme=proxy.scheme, host=proxy.host, port=proxy.port, target=b"/")
    return httpcore.Proxy(url, auth=proxy.auth, ssl_context=ClientTls().context() if proxy.scheme == "https" else None)


def _is_http2_fault(error: Exception) -> bool:
    """Return whether the server has sent frames that HTTP/2 does not allow. httpcore raises the error of h2 itself, or
    wraps it in a `LocalProtocolError`.
    """
    faults = (error, *error.args[:1])
    return any(type(fault).__module__.startswith("h2.") for fault in faults)


def _is_refusal(reason: str) -> bool:
    """Return whether a proxy refused the call, with a status of 4xx or a failed SOCKS login. A call that a proxy has
    refused is not retried, because a retry would be useless.
    """
    return reason[:1] == "4" or reason.startswith(("Invalid username", "Requested "))
