"""Serves the calls that the page makes in a web session, below a path that is different for each session.

A call of the page is an ordinary call whose path begins with `/session/ID`. The browser adds the cookie of the session
to these calls only, because the path of the cookie contains the session's id. Browsers do not separate the cookies of
two ports of one host. A cookie with the path `/` would therefore reach every other server on this host. The server
ignores the cookies of all requests whose path does not begin with `/session/`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

from iris.errors import PermissionDeniedError
from iris.reasons import ErrorReason
from iris.rpc.auth.caller import Caller, find_web_caller
from iris.rpc.auth.peer_uid import client_uid
from iris.rpc.auth.web_request import WebRequest, check_call, check_download

PATH = "/session"
COOKIE = "iris_session"

Message = MutableMapping[str, Any]
Application = Callable[[Message, Any, Any], Awaitable[None]]

# No answer in a session may be shown as a document, be embedded in another page, or stay in a cache. A log contains
# text of tasks, which a browser must never interpret as a page.
_ADDED_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Session(Protocol):
    """The attributes of a web session that are needed to check its calls."""

    @property
    def origin(self) -> str:
        """The origin of the page at which the browser has signed in."""

    @property
    def uid(self) -> int | None:
        """The user whose program has signed in over this machine's loopback, or None if the user is not known."""

    @property
    def caller(self) -> Caller:
        """The caller of the session's calls."""


class SessionFinder(Protocol):
    """An object that finds web sessions, and checks that they have not ended."""

    def find_session(self, session_id: str, secrets_sent: tuple[str, ...]) -> Session:
        """Return the session that has the given id and one of the given secrets.

        Raises:
            UnauthenticatedError: There is no such session, it has ended, or its token is no longer valid.
        """


class WebSessionRoute:
    """An ASGI application that passes the calls in web sessions on to the applications that answer them.

    The applications authenticate a call by calling `find_web_caller`. Therefore a refused call gets an error in the
    format of its protocol.

    Args:
        applications: The applications that a page may call, by path.
        downloads: The paths of the applications that may be read with GET, by a link on the page.
        sessions: The object that finds the session of a call.
    """

    def __init__(
        self,
        applications: Mapping[str, Application],
        downloads: frozenset[str],
        sessions: SessionFinder,
    ) -> None:
        self._applications = applications
        self._downloads = downloads
        self._sessions = sessions

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Answer a request."""
        session_id, path = _split(scope["path"])
        service = "/" + path.lstrip("/").partition("/")[0]
        application = self._applications.get(service)
        if application is None:
            await _answer_not_found(send)
            return
        request = WebRequest.of_headers(scope["method"], scope["headers"], COOKIE)
        ends = scope.get("client"), scope.get("server")
        is_download = service in self._downloads

        def find() -> Caller:
            session = self._sessions.find_session(session_id, request.cookies)
            if is_download:
                check_download(request, session.origin)
            else:
                check_call(request, session.origin)
            _check_user(session, *ends)
            return session.caller

        # Setting this context variable affects only this request, because the HTTP server answers each request in a
        # separate asyncio task.
        find_web_caller.set(find)
        inner = {**scope, "path": path}
        if "raw_path" in scope:
            inner["raw_path"] = _split(scope["raw_path"].decode("latin-1"))[1].encode("latin-1")
        await application(inner, receive, _with_headers(send))


def _check_user(session: Session, client: Any, server: Any) -> None:
    """Check that the program of the right user makes a call over this machine's loopback.

    Another user of this machine can get the cookie, for example by listening on the controller's port while the
    controller does not run.

    Raises:
        PermissionDeniedError: The program of another user makes the call.
    """
    if session.uid is None:
        # There is no user to compare: the browser signed in from another machine, or this system reports no users.
        return
    uid = client_uid(client, server)
    # A program of root is accepted, because root can read the tokens of all users anyway, and may run a proxy for them.
    if uid not in (session.uid, 0):
        raise PermissionDeniedError(
            f"a program of the user with uid {session.uid} has signed in, and a program of"
            f" {'an unknown user' if uid is None else f'the user with uid {uid}'} makes this call: sign in again",
            reason=ErrorReason.FOREIGN_PAGE,
        )


def _split(path: str) -> tuple[str, str]:
    """Return the session's id and the rest of a path such as `/session/ID/v1/jobs`."""
    session_id, _, rest = path.lstrip("/").partition("/")[2].partition("/")
    return session_id, f"/{rest}"


def _with_headers(send: Any) -> Any:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            names = {name for name, _ in headers}
            message = {**message, "headers": headers + [pair for pair in _ADDED_HEADERS if pair[0] not in names]}
        await send(message)

    return send_with_headers


async def _answer_not_found(send: Any) -> None:
    body = b"the page of Iris makes its calls here, and there is no such call\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": body})
