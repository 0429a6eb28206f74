"""HTTP for the clients: httpx, in the shape that connectrpc's sync clients take.

Not connectrpc's own transport, since a program of a user needs what it lacks: Ctrl-C ends a blocked read at once,
and a client goes on working in a child after `os.fork()`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyqwest import Headers, SyncClient, SyncRequest, SyncResponse

from iris.rpc.address import is_loopback

if TYPE_CHECKING:
    import httpx
# Elsewhere httpx is imported where it is used: it takes as long as all the rest of `import iris.client`, and where the
# terminal's extra is installed it brings click and rich along.

CONNECT_TIMEOUT_S = 5.0
# Servers beat at least every 15 s on a stream: silence for longer than two beats is a dead peer.
STREAM_SILENCE_S = 40.0
# Shorter than the 75 s for which our servers (and common proxies) keep an idle connection, so that a request
# seldom meets one that is being closed.
_KEEPALIVE_S = 30.0


class HttpxTransport:
    """A `pyqwest.SyncTransport` over httpx, safe to use from several threads and after a fork.

    Args:
        address: The base URL of the server; decides whether the proxies of the environment apply (not on loopback).
        http2: Speak HTTP/2 from the first byte, without TLS too ("prior knowledge"). Without it a TLS server that
            offers HTTP/2 gets it, everybody else HTTP/1.1.
    """

    def __init__(self, address: str, *, http2: bool = False) -> None:
        self._trust_env = not is_loopback(address)
        self._tls = address.startswith("https://")
        self._http2 = http2
        self._pid = os.getpid()
        self._client = self._new_client()

    def connect_client(self) -> SyncClient:
        """The HTTP client to give to a generated stub."""
        return SyncClient(self)

    def close(self) -> None:
        """Closes the connections. In a child after a fork they are the parent's, and stay open there."""
        if self._pid == os.getpid():
            self._client.close()

    def execute_sync(self, request: SyncRequest) -> SyncResponse:
        """Sends one request; the seam that connectrpc calls."""
        streams = request.headers.get("content-type", "").startswith("application/connect+")
        # HTTP/2: httpx does not reset a stream that is closed early, so the server would go on writing; closing a
        # connection of its own tells it.
        own_connection = streams and self._speaks_http2()
        client = self._new_client() if own_connection else self._current_client()
        content = request.content
        outgoing = client.build_request(
            request.method,
            request.url,
            headers=list(request.headers.items()),
            content=content if isinstance(content, bytes) else b"".join(content),
            timeout=_timeout(request, streams),
        )
        try:
            response = client.send(outgoing, stream=streams)
        except BaseException as error:
            if own_connection:
                client.close()
            _raise_as_ours(error)
            raise
        return SyncResponse(
            status=response.status_code,
            headers=Headers(response.headers.multi_items()),
            content=_stream(response, client if own_connection else None) if streams else response.content,
        )

    def _current_client(self) -> httpx.Client:
        if self._pid != os.getpid():
            # We are a child after a fork. The old client's sockets belong to the parent and its locks may be held for
            # ever by a thread that does not exist here: leave it alone, do not even close it.
            self._client = self._new_client()
            self._pid = os.getpid()
        return self._client

    def _new_client(self) -> httpx.Client:
        import httpx

        return httpx.Client(
            http1=not (self._http2 and not self._tls),
            http2=self._speaks_http2(),
            trust_env=self._trust_env,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE_S),
        )

    def _speaks_http2(self) -> bool:
        return self._http2 or self._tls


def _timeout(request: SyncRequest, streams: bool) -> httpx.Timeout:
    """The call's own deadline travels in its header; a stream without one is only ever cut for silence."""
    import httpx

    deadline_ms = request.headers.get("connect-timeout-ms")
    read_s = float(deadline_ms) / 1000 if deadline_ms else None
    if streams:
        read_s = STREAM_SILENCE_S if read_s is None else min(read_s, STREAM_SILENCE_S)
    connect_s = CONNECT_TIMEOUT_S if read_s is None else min(read_s, CONNECT_TIMEOUT_S)
    return httpx.Timeout(read_s, connect=connect_s)


def _stream(response: httpx.Response, own_client: httpx.Client | None) -> Iterator[bytes]:
    """The body as it comes; closing the iterator closes the connection, which is how the server learns of it."""
    try:
        yield from response.iter_raw()
    except Exception as error:
        _raise_as_ours(error)
        raise
    finally:
        response.close()
        if own_client is not None:
            own_client.close()


def _raise_as_ours(error: BaseException) -> None:
    """What httpx raises when the connection is at fault leaves here as `ConnectionError`, and as `TimeoutError` when
    the call's time is over, so that nobody else has to know of httpx."""
    import httpx

    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
        raise TimeoutError(str(error)) from error
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ProxyError | httpx.ConnectTimeout):
        raise ConnectionError(str(error) or type(error).__name__) from error
