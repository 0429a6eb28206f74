"""Limits how much memory, how much time and how many connections a server spends on requests that are still arriving.

By default, a server on asyncio waits for a request for as long as the request takes to arrive. With these limits, the
head of a request may take ten seconds and 64 KiB, the body must arrive at a minimum rate, and each call has a maximum
size. Answers have no limit, because a client may follow a log for days.

The time limits count only seconds in which this server was able to read from its connections (`ConnectionLimits.tick`).
Therefore, after a pause of the machine, no request is refused because of the time that the pause took.

`http1_connection.py` and `http2_connection.py` apply these limits. `http2_limits.py` has limits for floods of HTTP/2
frames.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from iris.rpc.http.server.cross_origin import AllowedOrigins
from iris.system.event_loop import open_file_limit

_log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024  # The largest size in bytes of the request line and all headers of a request together.
MAX_HEADERS = 100
# The largest size of a request in bytes. The argument `large` sets other limits for single paths.
MAX_REQUEST_BYTES = 4 * 1024**2
# The largest size of a request in JSON. It also limits the paths in `large`, because reading JSON needs seven times
# this size in memory and blocks other calls.
MAX_JSON_BYTES = 16 * 1024**2
HEAD_S = 10
# The body of a request must arrive within this number of seconds. Each BODY_BYTES_PER_S received bytes extend the time
# by one second.
BODY_S = 30
BODY_BYTES_PER_S = 16 * 1024
# The server closes an idle connection after this time. Clients of Iris and common proxies keep an idle connection for
# 60 s or less, so that usually the client closes the connection first.
KEEPALIVE_S = 75
# After a refusal, the connection stays open for this many seconds, so that the client can read the error.
LEAVE_S = 2
# The largest number of requests over HTTP/2 that run at the same time, on all connections of a server together. One
# connection can carry many requests, so the limit of connections does not limit these requests.
MAX_REQUESTS = 10_000


class LimitedConnection(Protocol):
    """A connection to which the limits apply."""

    def tick(self) -> None:
        """Count one more second for the time limits of the connection. If a limit has passed, end the request or the
        connection."""

    def drop(self) -> None:
        """Close this idle connection. It has no running request."""

    def abort(self) -> None:
        """Close the connection at once."""


class ConnectionLimits:
    """Limits for all connections of one server.

    Args:
        large: The largest size of a request in bytes, by path. For other paths the limit is `MAX_REQUEST_BYTES`.
        max_connections: The largest number of connections. A further connection replaces the connection that has been
            idle for longest. The default is a quarter of the number of files that this process may have open.
        max_held_bytes: The largest size in bytes of all requests together that are being received.
        head_s: The time in seconds in which the head of a request must arrive.
        max_requests: The largest number of requests over HTTP/2 that run at the same time.
        origins: The origins whose pages may read why their request was refused.
    """

    def __init__(
        self,
        large: Mapping[str, int] | None = None,
        *,
        max_connections: int | None = None,
        max_held_bytes: int = 1024**3,
        head_s: int = HEAD_S,
        max_requests: int = MAX_REQUESTS,
        origins: AllowedOrigins | None = None,
    ) -> None:
        self.large = dict(large or {})
        self.max_connections = max_connections or max(16, min(10_000, open_file_limit() // 4))
        self.max_held_bytes = max_held_bytes
        self.head_s = head_s
        self.max_requests = max_requests
        self.origins = origins or AllowedOrigins(())
        self.held_bytes = 0
        self.requests = 0  # The number of requests over HTTP/2 that run now.
        self.connections: set[LimitedConnection] = set()
        # The idle connections, which may be closed in favour of new ones. A connection is idle if it has no request, or
        # if its request was answered before all of it had arrived. The first entry has been idle for longest.
        self.waiting: dict[LimitedConnection, None] = {}

    def admit(self, connection: LimitedConnection) -> str:
        """Add a new connection. If there are too many connections, close an idle connection.

        Returns:
            Why the new connection must be refused, or an empty string if the connection is within the limit.
        """
        self.connections.add(connection)
        if len(self.connections) > self.max_connections:
            if not self.waiting:
                return f"all {self.max_connections} connections of this server are busy: try again later"
            next(iter(self.waiting)).drop()
        self.waiting[connection] = None
        return ""

    def forget(self, connection: LimitedConnection) -> None:
        """Remove a closed connection."""
        self.connections.discard(connection)
        self.waiting.pop(connection, None)

    def body_limit(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, int]:
        """Return the largest size of a request's body in bytes, and the size that the request's headers announce.

        Args:
            path: The path of the request.
            headers: The headers of the request, with names in lower case.
        """
        limit, length = self.large.get(path, MAX_REQUEST_BYTES), 0
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"content-type" and b"json" in value:
                limit = min(limit, MAX_JSON_BYTES)
        return limit, length

    def tick(self) -> None:
        """Check the time limits of all connections. The server calls this method once a second."""
        for connection in list(self.connections):
            try:
                connection.tick()
            except Exception:  # noqa: BLE001  # After a defect in one connection, all other limits must still hold.
                _log.exception("a connection failed")
                connection.abort()


HEAD_TOO_LARGE = f"the request's head is over the limit of {MAX_HEAD_BYTES:,} bytes, or of {MAX_HEADERS} headers"
TOO_MUCH_HELD = "this server is receiving too much at once: try again later"


def head_too_slow(limit_s: int) -> str:
    """Return the error text for a request whose head arrives too slowly."""
    return f"the request's head has not arrived within {limit_s} s"


def is_body_too_slow(size: int, seconds: int) -> bool:
    """Return whether a request's body arrives too slowly: only `size` bytes have arrived within `seconds`."""
    return seconds > BODY_S + size / BODY_BYTES_PER_S


def body_too_slow(size: int, seconds: int) -> str:
    """Return the error text for a request whose body arrives too slowly."""
    return (
        f"the request's body arrives too slowly: {size} bytes in {seconds} s"
        f" (expected {BODY_BYTES_PER_S} a second after the first {BODY_S} s)"
    )


def body_too_large(size: int, limit: int, path: str) -> str:
    """Return the error text for a request whose body is too large."""
    return (
        f"the request is too large: at least {size:,} bytes, over the limit of {limit:,} for"
        f" {path[:200]!r}{', as JSON' if limit == MAX_JSON_BYTES else ''}"
    )


def not_text(name: bytes, value: bytes) -> str:
    """Return the error text for a request whose header is not valid UTF-8. Return an empty string if the header is
    valid.
    """
    if value.isascii() and name.isascii():
        return ""
    try:
        (name + value).decode()
    except UnicodeDecodeError:
        return f"the value of the header {name[:100]!r} is not valid UTF-8"
    return ""
