"""Refuses requests whose header `Host` does not name this machine's loopback. A server uses this check for a port that
needs no token.

A web page of another site can make a browser on this machine read a port that needs no token: after the page is loaded,
the site changes the address of its own name to 127.0.0.1 (DNS rebinding). The browser then still sends the name of the
site in the header `Host`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from iris.errors import PermissionDeniedError, quoted
from iris.rpc.address import is_loopback_host
from iris.rpc.monitoring.plain_answers import Message, Send, send_error


class LoopbackHosts:
    """An ASGI application that passes on a request only if its header `Host` names the loopback.

    A request without `Host` is passed on, too. It does not come from a browser, because every browser sends the
    header.

    Args:
        application: The ASGI application that answers the requests.
    """

    def __init__(self, application: Callable[[Message, Any, Send], Awaitable[None]]) -> None:
        self._application = application

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        """Answer a request."""
        for name, value in scope["headers"]:
            host = value.decode("latin-1")
            if name == b"host" and not _is_loopback(host):
                text = (
                    f"this port answers only requests to this machine itself, got the host {quoted(host[:200])}: ask"
                    " 127.0.0.1 or localhost. A proxy must replace the header Host by this address"
                )
                await send_error(send, scope["method"], PermissionDeniedError(text))
                return
        await self._application(scope, receive, send)


def _is_loopback(host: str) -> bool:
    """Return whether the value of a header `Host`, with or without a port, is this machine's loopback."""
    try:
        return is_loopback_host(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
