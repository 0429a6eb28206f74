"""Chooses between HTTP/1.1 and HTTP/2 for a new connection.

A connection speaks HTTP/2 if its TLS handshake has chosen `h2`, or if its first bytes are the preface of HTTP/2 ("prior
knowledge"). Every other connection speaks HTTP/1.1. All connections use the same port.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from iris.rpc.http.server.connection_limits import LEAVE_S, ConnectionLimits, head_too_slow
from iris.rpc.http.server.http1_connection import Http1Connection

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class ProtocolChoice(asyncio.Protocol):
    """A connection whose first bytes have not arrived yet. When they arrive, the chosen protocol replaces this object.

    Args:
        limits: The limits of connections.
        http2: Whether this server speaks HTTP/2.
        config: The configuration of uvicorn.
        server_state: The connections and tasks of the server.
        app_state: The state that every ASGI scope contains.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        *,
        http2: bool,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._limits = limits
        self._http2 = http2
        self._arguments = {"config": config, "server_state": server_state, "app_state": app_state}
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other call
        self._data = b""
        self._seconds = 0
        self._refused = ""  # The reason why the connection is refused. Empty if it is admitted.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit a connection, or note that it must be refused. Choose HTTP/2 if the TLS handshake has done so."""
        # A cast is needed, because the TLS transport of uvloop is not a subclass of `asyncio.Transport`.
        transport = self._transport = cast(asyncio.Transport, transport)
        self._arguments["server_state"].connections.add(self)
        self._refused = self._limits.admit(self)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._switch_to_http2()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove a closed connection."""
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Choose the protocol by the first bytes of the connection."""
        self._data += data
        if not self._http2 or not self._data.startswith(_PREFACE[: len(self._data)]):
            self._switch_to_http1()
        elif len(self._data) >= len(_PREFACE):
            self._switch_to_http2()

    def shutdown(self) -> None:
        """Close the connection. uvicorn calls this method at its own end."""
        self._transport.close()

    def tick(self) -> None:
        """Count one more second, and close the connection if its first bytes have not arrived in time."""
        self._seconds += 1
        if self._seconds <= (LEAVE_S if self._refused else self._limits.head_s):
            return
        if self._data:
            self._switch_to_http1().refuse(408, head_too_slow(self._limits.head_s))
        else:
            self.drop()

    def drop(self) -> None:
        """Close the connection, which has not sent a request yet."""
        self._forget()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def _switch_to_http1(self) -> Http1Connection:
        protocol = Http1Connection(self._limits, self._refused, **self._arguments)
        self._switch(protocol)
        return protocol

    def _switch_to_http2(self) -> None:
        # The library h2 is imported for the first connection over HTTP/2, because most processes never get such a
        # connection.
        from iris.rpc.http.server.http2_connection import Http2Connection

        self._switch(Http2Connection(self._limits, self._refused, **self._arguments))

    def _switch(self, protocol: asyncio.Protocol) -> None:
        self._forget()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._data:
            protocol.data_received(self._data)

    def _forget(self) -> None:
        self._limits.forget(self)
        self._arguments["server_state"].connections.discard(self)
