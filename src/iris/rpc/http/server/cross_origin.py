"""Lets pages of other origins call a server (CORS), if an allow-list names their origins.

A browser lets a page read an answer of another origin only if the answer names the page's origin. Before a call with a
token or a content type such as JSON, the browser asks with a preflight request (OPTIONS), which has no token. Therefore
a preflight is answered before authentication.

Calls of pages of other origins are authenticated by a token in the header `authorization`. Only the cluster's own page
has a cookie (rpc/auth/web_session_route.py), and this page needs no CORS. Therefore the server never answers
`access-control-allow-credentials`, and a browser adds neither cookies nor client certificates to the calls of a page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any

from iris.errors import InvalidAddressError, shown
from iris.rpc.address import parse_origin

Message = MutableMapping[str, Any]
Application = Callable[[Message, Any, Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_METHODS = b"GET, HEAD, POST"
# How long a browser may reuse the answer to a preflight request, in seconds. Browsers use at most two hours.
_MAX_AGE_S = b"7200"
# The response headers that a page may read. Browsers always allow a few other headers. The star stands for all headers,
# because the metadata of an answer may have any names.
_EXPOSED = (
    b"grpc-status, grpc-message, grpc-status-details-bin, grpc-encoding, connect-content-encoding,"
    b" connect-accept-encoding, content-encoding, www-authenticate, allow, retry-after, *"
)
_ASKED_METHOD = b"access-control-request-method"
_ASKED_HEADERS = b"access-control-request-headers"
_ASKED_NETWORK = b"access-control-request-private-network"


class AllowedOrigins:
    """The origins whose pages may call a server.

    Args:
        origins: The origins in lower case, for example `https://app.example.com`.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def __bool__(self) -> bool:
        return bool(self._origins)

    def answer_headers(self, request_headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return the headers with which a page may read the answer to its request.

        If no origin is allowed, the returned list is empty. If the request comes from a page of another origin, or not
        from a page, the headers only inform caches that the answer depends on the origin.
        """
        if not self._origins:
            return []
        headers: Headers = [(b"vary", b"origin")]
        origin = _value(request_headers, b"origin")
        if origin in self._origins:
            headers += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]
        return headers

    def allows(self, origin: bytes) -> bool:
        """Return whether pages of an origin may call the server."""
        return origin in self._origins


class CrossOriginApplication:
    """An ASGI application that answers preflight requests, and adds the headers for pages to all other answers.

    Args:
        application: The application that answers the calls.
        origins: The origins whose pages may make calls.
    """

    def __init__(self, application: Application, origins: AllowedOrigins) -> None:
        self._application = application
        self._origins = origins

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        request: Headers = scope["headers"]
        if scope["method"] == "OPTIONS" and _value(request, b"origin") and _value(request, _ASKED_METHOD):
            await self._answer_preflight(request, send)
            return
        added = self._origins.answer_headers(request)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._application(scope, receive, send_with_headers)

    async def _answer_preflight(self, request: Headers, send: Any) -> None:
        origin = _value(request, b"origin")
        if not self._origins.allows(origin):
            body = _refused_origin(origin).encode()
            headers = [
                (b"vary", b"origin"),
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(body)),
            ]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", _MAX_AGE_S),
            (b"vary", b"origin, access-control-request-method, access-control-request-headers"),
        ]
        if asked := _value(request, _ASKED_HEADERS):
            # All headers are allowed, because a call may have metadata with any name.
            headers.append((b"access-control-allow-headers", asked))
        if _value(request, _ASKED_NETWORK) == b"true":
            # The request header `access-control-request-private-network` asks whether a page of a public site may call
            # an address of a private network.
            headers.append((b"access-control-allow-private-network", b"true"))
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _refused_origin(origin: bytes) -> str:
    given = origin[:200].decode(errors="replace")
    try:
        advice = f"'iris up --allow-origin {parse_origin(given)}' allows them"
    except InvalidAddressError:
        # The origin is not an address. For example, browsers send `null` for a local file or a sandboxed frame. Any
        # page can get such an origin, so it is never allowed.
        advice = "only origins such as https://app.example.com can be allowed: serve the page with http or https"
    return f"pages of {shown(given)} may not call this cluster: {advice}\n"


def _value(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((value for known, value in headers if known == name), b"")
