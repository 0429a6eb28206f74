"""Opens the connections of sync clients. Each connection is added to a `Lifetime`, so that closing a client ends its
reads. This module imports httpcore, which takes a while to load. Import it inside functions only.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpcore

from iris.rpc.http.client.client_lifetime import Lifetime
from iris.rpc.http.connection_errors import NoHttp2Error

_ONE_WRITE_BYTES = 64 * 1024
# An HTTP/2 server always begins with a frame of the type SETTINGS. The first three bytes of a frame are its length, and
# the fourth byte is its type.
_SETTINGS_TYPE = 4


class Backend(httpcore.SyncBackend):
    """Opens the connections that httpcore needs.

    httpcore writes the head and the body of a request one after the other. The connections that this object opens send
    a small request in one packet, so that the server wakes up once and not twice. A connection keeps what httpcore
    writes, and sends it when httpcore begins to read the answer. Therefore such a connection can carry only one
    call at a time.

    Args:
        lifetime: The object that ends the client's calls when the client is closed.
        http2_host: The host whose server must speak HTTP/2. If it is an empty string, every server may speak HTTP/1.1.
    """

    def __init__(self, lifetime: Lifetime, http2_host: str = "") -> None:
        self._lifetime = lifetime
        self._http2_host = http2_host

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        """Open a connection."""
        return _Stream(super().connect_tcp(*args, **kwargs), self._lifetime, self._http2_host)


class PriorKnowledgeBackend(Backend):
    """Opens connections without TLS to a server that must speak HTTP/2 from the first byte ("prior knowledge")."""

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        """Open a connection."""
        return _PriorKnowledgeStream(super().connect_tcp(*args, **kwargs))


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, lifetime: Lifetime, http2_host: str) -> None:
        self._stream = stream
        self._lifetime = lifetime
        self._http2_host = http2_host
        self._unsent = b""
        lifetime.add(stream.get_extra_info("socket"))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._unsent += buffer
        if len(self._unsent) > _ONE_WRITE_BYTES:
            self._flush(timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            self._flush(timeout)
        return self._stream.read(max_bytes, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, timeout)
        # Through an https proxy, a connection starts TLS twice, first with the proxy and then with the server. Only the
        # TLS connection to the server is checked for HTTP/2.
        if self._http2_host and server_hostname == self._http2_host:
            chosen = stream.get_extra_info("ssl_object").selected_alpn_protocol()
            if chosen != "h2":
                stream.close()
                raise NoHttp2Error("the server does not offer HTTP/2 over TLS (ALPN)")
        return _Stream(stream, self._lifetime, self._http2_host)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _flush(self, timeout: float | None) -> None:
        unsent, self._unsent = self._unsent, b""
        self._stream.write(unsent, timeout)


class _PriorKnowledgeStream(httpcore.NetworkStream):
    """A connection that checks that the server's first bytes are HTTP/2."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._is_checked = False

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, timeout)
        if data and not self._is_checked:
            self._is_checked = True
            if data[0] != 0 or (len(data) > 3 and data[3] != _SETTINGS_TYPE):
                raise NoHttp2Error("the server does not speak HTTP/2 without TLS")
        return data

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
