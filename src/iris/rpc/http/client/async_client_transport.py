"""The HTTP transports of async clients: for calls between controller and workers, and for `AsyncIrisClient`.

`http_client` serves controllers and workers. Without TLS it uses connectrpc's own transport. With TLS, connectrpc's
transport refuses two kinds of certificates that sync clients accept: a self-signed certificate as `openssl req -x509`
creates it, and a certificate that is trusted itself but was signed by an untrusted authority. One certificate has to
work for all clients, so `AsyncioTransport` is used with TLS. It uses Python's `ssl`, with HTTP/1.1 on asyncio.

`user_transport` serves `AsyncIrisClient`. It uses `AsyncioTransport` with and without TLS, because connectrpc's
transport starts up to 512 threads of its own and needs more memory. When a client follows 1,000 logs, connectrpc's
transport needs 106 KiB for each log, and `AsyncioTransport` needs 57 KiB. Proxies and HTTP/2 need connectrpc's
transport.

httpcore's async client could replace all transports, but it costs too much CPU time: 1.2 ms per small call, and 3.7 ms
per call with 64 calls at the same time. connectrpc's transport costs 0.2 ms per call (measured on 2 cores with Python
3.11).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from pyqwest import Client, Headers, HTTPTransport, HTTPVersion, Request, Response, WriteError
from pyqwest import Proxy as PyqwestProxy

from iris.rpc.http.client.proxies import Proxy
from iris.rpc.http.client.upload_progress import in_slices
from iris.rpc.http.tls import ClientTls

try:
    from httptools import HttpParserError, HttpResponseParser
except ImportError:
    from iris.rpc.http.client.h11_parser import HttpParserError, HttpResponseParser  # type: ignore[assignment]

_CONNECT_S = 5.0
# The client closes an idle connection after this time. Servers close idle connections after 75 s, so the client's calls
# seldom meet a connection that is being closed.
_KEEPALIVE_S = 30.0
_READ_BYTES = 256 * 1024
_NO_HTTP2 = "it closed the HTTP/2 session at once: if it speaks only HTTP/1.1, leave http2=True out"


class AsyncioTransport:
    """A `pyqwest.Transport` on asyncio's own streams, with HTTP/1.1.

    Args:
        context: The trusted authorities and the client's certificate. None if connections use no TLS.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        # The idle connections to each server, the most recently used first.
        self._idle: dict[str, list[_Connection]] = {}
        self._is_closed = False

    async def execute(self, request: Request) -> Response:
        """Send a request and return its answer. connectrpc calls this method.

        Raises:
            ConnectionError: The connection failed.
        """
        content: Any = request.content
        if not isinstance(content, bytes) and "content-length" not in request.headers:
            content = b"".join([bytes(part) async for part in content])
        size = len(content) if isinstance(content, bytes) else int(request.headers["content-length"])
        parts = urlsplit(request.url)
        connection = self._take(parts.netloc) or await self._open(
            parts.hostname or "", parts.port or (80 if self._context is None else 443)
        )
        try:
            answer = await connection.exchange(_head(request, parts.netloc, parts.path, size), content)
            if answer.headers.get("content-type", "").startswith("application/connect+"):
                return Response(status=answer.status, headers=answer.headers, content=_Rest(connection, answer))
            whole = b"".join([part async for part in connection.parts(answer)])
        except BaseException:
            connection.close()
            raise
        if answer.keeps_alive:
            self._keep(parts.netloc, connection)
        else:
            connection.close()
        return Response(status=answer.status, headers=answer.headers, content=whole)

    async def aclose(self) -> None:
        """Close the idle connections. Other connections are closed by the calls that use them."""
        self._is_closed = True
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def _keep(self, place: str, connection: _Connection) -> None:
        """Keep a connection for a later call, and close the idle connections that have become too old."""
        connection.idle_since_s = time.monotonic()
        known = [connection, *self._idle.get(place, [])]
        usable = [] if self._is_closed else [idle for idle in known if idle.is_usable()]
        for idle in known:
            if idle not in usable:
                idle.close()
        self._idle[place] = usable

    def _take(self, place: str) -> _Connection | None:
        idle = self._idle.get(place, [])
        while idle:
            connection = idle.pop(0)
            if connection.is_usable():
                return connection
            connection.close()
        return None

    async def _open(self, host: str, port: int) -> _Connection:
        try:
            async with asyncio.timeout(_CONNECT_S):
                return _Connection(*await asyncio.open_connection(host, port, ssl=self._context))
        except TimeoutError as error:
            raise ConnectionError(f"no connection to the server within {_CONNECT_S:g} s") from error
        except OSError as error:  # Errors of TLS are caught here, too, because they are subclasses of OSError.
            raise ConnectionError(str(error)) from error


def http_client(tls: ClientTls | None) -> Client:
    """Return the HTTP client for calls to servers. Either all of these servers have https addresses, or all of them
    have http addresses.

    Without TLS, the client uses connectrpc's own transport. Two features of the transport are off, because they would
    slow down the start of each worker: tracing, and the system's certificates, which take 7 ms to load.

    Args:
        tls: The https servers that the client trusts, and the client's certificate. None if the servers do not use TLS.

    Raises:
        FailedPreconditionError: A file that `tls` names cannot be used.
    """
    if tls is not None:
        return Client(AsyncioTransport(tls.context()))
    return Client(HTTPTransport(enable_otel=False))


def user_transport(
    address: str,
    tls: ClientTls,
    proxy: Proxy | None,
    *,
    http2: bool = False,
    context: ssl.SSLContext | None = None,
) -> ProgressTransport:
    """Return the transport with which the program of a user calls the server at an address.

    Args:
        address: The base URL of the server.
        tls: The https servers that the client trusts, and the client's certificate.
        proxy: The proxy that calls go through, or None if calls go directly to the server.
        http2: Require HTTP/2, also without TLS ("prior knowledge"). All requests then share one connection.
        context: The result of an earlier `tls.context()`. If None, the files of `tls` are read, which takes about 20
            ms.

    Raises:
        FailedPreconditionError: A file that `tls` names cannot be used.
    """
    is_https = address.startswith("https://")
    if proxy is None and not http2:
        return ProgressTransport(AsyncioTransport((context or tls.context()) if is_https else None))
    pems: dict[str, Any] = tls.pems() if is_https else {}
    transport = HTTPTransport(
        http_version=HTTPVersion.HTTP2 if http2 else None if is_https else HTTPVersion.HTTP1,
        proxy=pyqwest_proxy_for(address, proxy),
        connect_timeout=_CONNECT_S,
        pool_idle_timeout=_KEEPALIVE_S,
        enable_gzip=False,
        enable_brotli=False,
        enable_zstd=False,
        follow_redirects=False,
        enable_otel=False,
        **pems,
    )
    return ProgressTransport(transport, requires_http2=http2 and not is_https)


def pyqwest_proxy_for(address: str, proxy: Proxy | None) -> PyqwestProxy:
    """Return the setting of pyqwest for calls to an address. The calls go through `proxy`, or directly to the address
    if `proxy` is None.
    """
    return _no_proxy(address) if proxy is None else _pyqwest_proxy(proxy)


def _no_proxy(address: str) -> PyqwestProxy:
    """Return a proxy that is never used. Without an explicit proxy, pyqwest would use the environment's proxies, and
    its rules for them differ from the rules of `find_proxy`.
    """
    return PyqwestProxy("http://127.0.0.1:9", scheme="http" if address.startswith("https://") else "https")


def _pyqwest_proxy(proxy: Proxy) -> PyqwestProxy:
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    auth = None if proxy.auth is None else (proxy.auth[0].decode(), proxy.auth[1].decode())
    return PyqwestProxy(f"{proxy.scheme}://{host}:{proxy.port}", auth=auth)


class ProgressTransport:
    """A `pyqwest.Transport` that reports the progress of large requests, see `upload_progress.reporting`.

    Args:
        transport: The transport that sends the requests.
        requires_http2: Whether the transport speaks HTTP/2 from the first byte, even to a server that may not know
            HTTP/2.
    """

    def __init__(self, transport: AsyncioTransport | HTTPTransport, *, requires_http2: bool = False) -> None:
        self._transport = transport
        self._is_http2_unproved = requires_http2

    async def aclose(self) -> None:
        """Close the idle connections."""
        await self._transport.aclose()

    async def execute(self, request: Request) -> Response:
        """Send a request and return its answer."""
        body = request.content
        if isinstance(body, bytes) and (slices := in_slices(body)) is not None:
            headers = request.headers
            headers["content-length"] = str(len(body))

            async def content() -> AsyncIterator[bytes]:
                for part in slices:
                    yield part

            request = Request(request.method, request.url, headers, content())
        try:
            answer = await self._transport.execute(request)
        except WriteError as error:
            if not self._is_http2_unproved:
                raise
            raise ConnectionError(_NO_HTTP2) from error
        self._is_http2_unproved = False
        return answer


class _Answer:
    """An HTTP answer while it is parsed. The HTTP parser calls the methods that begin with `on_`."""

    def __init__(self) -> None:
        self.parser = HttpResponseParser(self)
        self.status = 0
        self.headers = Headers()
        self.body: list[bytes] = []
        self.has_begun = self.is_whole = self.keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.has_begun = True

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.is_whole = True
        self.keeps_alive = self.parser.should_keep_alive()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.idle_since_s = 0.0

    def is_usable(self) -> bool:
        is_young = time.monotonic() - self.idle_since_s < _KEEPALIVE_S
        return is_young and not self._writer.is_closing() and not self._reader.at_eof()

    async def exchange(self, head: bytes, body: bytes | AsyncIterator[bytes]) -> _Answer:
        """Send a request and read the head of the answer."""
        answer = _Answer()
        try:
            if isinstance(body, bytes):
                self._writer.write(head + body)
            else:
                self._writer.write(head)
                async for part in body:
                    self._writer.write(part)
                    await self._writer.drain()
            await self._writer.drain()
        except OSError as error:
            raise ConnectionError(str(error)) from error
        while not answer.has_begun:
            await self._read_into(answer)
        return answer

    async def parts(self, answer: _Answer) -> AsyncIterator[bytes]:
        """Yield the parts of the answer's body as they arrive."""
        while True:
            body, answer.body = answer.body, []
            for part in body:
                yield part
            if answer.is_whole:
                return
            await self._read_into(answer)

    async def _read_into(self, answer: _Answer) -> None:
        try:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise ConnectionError("the server closed the connection in the middle of an answer")
            answer.parser.feed_data(data)
        except OSError as error:
            raise ConnectionError(str(error)) from error
        except HttpParserError as error:
            raise ConnectionError(f"the server's answer is not valid HTTP: {error}") from error

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._writer.close()


class _Rest(AsyncIterator[bytes]):
    """An iterator over the remaining parts of an answer's body. `aclose` closes the connection, so that the server
    stops sending.

    This class is an iterator and not a generator, because a generator that was never started would not close the
    connection.
    """

    def __init__(self, connection: _Connection, answer: _Answer) -> None:
        self._connection = connection
        self._parts = connection.parts(answer)

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._parts)
        except BaseException:  # StopAsyncIteration at the end of the body closes the connection, too.
            self._connection.close()
            raise

    async def aclose(self) -> None:
        """Close the connection."""
        self._connection.close()


def _head(request: Request, host: str, path: str, size: int) -> bytes:
    lines = [f"{request.method} {path} HTTP/1.1", f"host: {host}", f"content-length: {size}"]
    headers: Any = request.headers
    lines += [f"{name}: {value}" for name, value in headers.items() if name not in ("host", "content-length")]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
