"""Opens the connections of sync clients. Each connection is added to a `Lifetime`, so that closing a client ends its
reads.

This module imports httpcore, which takes a while to load. Import it inside functions only.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpcore

from iris.rpc.http.client.client_lifetime import Lifetime

_ONE_WRITE_BYTES = 64 * 1024


class Backend(httpcore.SyncBackend):
    """Opens the connections that httpcore needs."""

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        """Open a connection."""
        return _Stream(super().connect_tcp(*args, **kwargs), self._lifetime)


class OneWriteBackend(httpcore.SyncBackend):
    """A network backend for httpcore whose connections send the head and the body of a small request in one packet.

    httpcore writes the head and the body one after the other. With one packet, the server wakes up once and not twice.
    Use this backend for HTTP/1.1 without TLS only, where no thread writes while another one reads.
    """

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        """Open a connection."""
        return _OneWriteStream(super().connect_tcp(*args, **kwargs), self._lifetime)


class _Stream(httpcore.NetworkStream):
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
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._lifetime)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _OneWriteStream(_Stream):
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
