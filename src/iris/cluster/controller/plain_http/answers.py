"""Writes short answers of the log route: errors, and the answers to HEAD and OPTIONS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from connectrpc.code import Code

from iris.cluster.controller.plain_http.content_types import CONTENT_TYPES
from iris.errors import IrisError, shown
from iris.reasons import ErrorReason
from iris.rpc.error_details import error_as_json

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

METHODS = b"GET, HEAD, OPTIONS"
# The HTTP status for each error code. The Connect protocol uses the same statuses.
_STATUS = {
    "invalid_argument": 400, "failed_precondition": 400, "unauthenticated": 401, "permission_denied": 403,
    "not_found": 404, "already_exists": 409, "resource_exhausted": 429, "unimplemented": 501, "unavailable": 503,
    "deadline_exceeded": 504,
}  # fmt: skip
_COMMON: Headers = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),  # A log may contain HTML. This header keeps browsers from running it.
)


class PlainError(Exception):
    """A request that the route refuses because of its method or its `Accept` header.

    Args:
        status: The HTTP status of the answer.
        text: The reason of the error, and what is accepted, as text.
        headers: The HTTP headers of the answer, in addition to the usual headers.
    """

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


async def send_head(send: Send, status: int, headers: Headers = (), *, is_last: bool = True) -> None:
    """Send the status and the headers of an answer.

    Args:
        send: A function that sends a message to the client.
        status: The HTTP status of the answer.
        headers: The headers of this answer, besides the headers of every answer.
        is_last: Whether the answer has no body.
    """
    await send({"type": "http.response.start", "status": status, "headers": [*_COMMON, *headers]})
    if is_last:
        await send({"type": "http.response.body", "body": b""})


async def send_error(send: Send, error: IrisError | PlainError, chosen: str | None, *, is_head: bool) -> None:
    """Send an error as text, or as JSON if the client has asked for JSON or for events.

    Args:
        send: A function that sends a message to the client.
        error: The error that the client gets.
        chosen: The format that the client has asked for. None if the format is not known.
        is_head: Whether the request was made with HEAD, so that the answer has no body.
    """
    text, headers = shown(str(error)), list(getattr(error, "headers", ()))
    if isinstance(error, PlainError):
        status, code, reason = error.status, Code.INVALID_ARGUMENT, str(ErrorReason.MALFORMED_REQUEST)
    else:
        status, code, reason = _STATUS.get(error.code, 500), Code(error.code), error.reason
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="iris"'))
        text += "; curl sends a token with -H 'Authorization: Bearer TOKEN'"
    is_text = chosen in (None, "text", "raw")
    body = f"iris: {text}\n".encode(errors="replace") if is_text else error_as_json(code, text, reason)
    kind = CONTENT_TYPES["text" if is_text else "json"].encode()
    headers += [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send_head(send, status, headers, is_last=is_head)
    if not is_head:
        await send({"type": "http.response.body", "body": body})
