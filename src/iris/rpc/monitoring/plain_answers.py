"""Writes short answers of plain HTTP routes: text with a status, and the error of a refused request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from iris.errors import IrisError, shown

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

# The HTTP status for each error code that these routes use. Connect uses the same statuses.
_STATUS = {"unauthenticated": 401, "permission_denied": 403, "resource_exhausted": 429, "unavailable": 503}
_COMMON: Headers = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
_TEXT = b"text/plain; charset=utf-8"


async def send_answer(
    send: Send, method: str, body: bytes, *, status: int = 200, content_type: bytes = _TEXT, headers: Headers = ()
) -> None:
    """Send a complete answer: its status, headers and body. The answer to a HEAD request has the same headers and no
    body.
    """
    length = (b"content-length", b"%d" % len(body))
    every = [*_COMMON, *headers, (b"content-type", content_type), length]
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


async def refuse_method(send: Send, method: str) -> bool:
    """Refuse a request that is neither GET nor HEAD. Return whether the request was refused."""
    if method in ("GET", "HEAD"):
        return False
    text = f"iris: {shown(method)} is not accepted here: use GET or HEAD\n".encode(errors="replace")
    await send_answer(send, method, text, status=405, headers=[(b"allow", b"GET, HEAD")])
    return True


async def send_error(send: Send, method: str, error: IrisError) -> None:
    """Send an error as text, with the HTTP status of its code."""
    status = _STATUS.get(error.code, 500)
    headers = [(b"www-authenticate", b'Bearer realm="iris"')] if status == 401 else []
    body = f"iris: {shown(str(error))}\n".encode(errors="replace")
    await send_answer(send, method, body, status=status, headers=headers)
