"""Adds failpoints around the calls that a server answers, see iris/failpoints.py."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from iris.errors import UnavailableError
from iris.failpoints import MessageDropped, failpoint

Message = MutableMapping[str, Any]
_CONTROLLER_POINTS = ("controller.request", "controller.reply.before", "controller.reply.after")
# The failpoints of each service, by the service's path. The first failpoint comes after a call was received, the second
# before an answer is sent, and the third after an answer was sent.
_POINTS = {
    "/iris.cluster.ControllerService": _CONTROLLER_POINTS,
    "/v1": _CONTROLLER_POINTS,
    "/iris.cluster.WorkerService": ("worker.request", "worker.reply.before", "worker.reply.after"),
}


class FailingApplication:
    """An ASGI application with failpoints before each call, and before and after each message of an answer.

    If a failpoint drops a message, the connection is cut, so that the client notices the loss as it would notice a real
    one.

    Args:
        path: The path of the service.
        application: The application that answers the calls.
    """

    def __init__(self, path: str, application: Callable[..., Awaitable[None]]) -> None:
        self._request, self._reply, self._replied = _POINTS[path]
        self._application = application

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Answer a call, unless a failpoint prevents it."""
        begun = dropped = False

        async def send_on(message: Message) -> None:
            nonlocal begun, dropped
            try:
                if dropped:
                    # If one message of an answer was dropped, the following messages are dropped, too.
                    raise MessageDropped(self._reply)
                failpoint(self._reply)
                begun = True
                await send(message)
                failpoint(self._replied)
            except MessageDropped:
                dropped = True
                raise

        try:
            failpoint(self._request)
        except MessageDropped:
            dropped = True
        # With the action `error`, the failpoint answers like a proxy that cannot reach the server.
        except UnavailableError:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
            return
        with contextlib.suppress(MessageDropped):
            if not dropped:
                await self._application(scope, receive, send_on)
        if dropped and not begun:
            # Send the head of an answer that is never completed, so that the HTTP server cuts the connection.
            kind = [(name, value) for name, value in scope["headers"] if name == b"content-type"]
            await send({"type": "http.response.start", "status": 200, "headers": [*kind, (b"content-length", b"1")]})


def with_failpoints(applications: dict[str, Any]) -> dict[str, Any]:
    """Return applications by path. Failpoints are added around each application that `_POINTS` names."""
    return {path: FailingApplication(path, one) if path in _POINTS else one for path, one in applications.items()}
