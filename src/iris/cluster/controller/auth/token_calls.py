"""Serves the calls of ControllerService about tokens, and the calls with which browsers sign in to the page and sign
out.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from iris.cluster.controller.auth.authority import Authority
from iris.cluster.controller.auth.web_sessions import WebSession
from iris.cluster.controller.storage.saver import Saver
from iris.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError, quoted
from iris.event_log import log_event
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import ADMIN, READER, USER, Caller, caller, connection_ends
from iris.rpc.auth.peer_uid import client_uid
from iris.rpc.auth.web_request import WebRequest, own_origin
from iris.rpc.auth.web_session_route import COOKIE, PATH
from iris.rpc.cluster_pb2 import Controller
from iris.system.clock import wall_s

_PAGE_ROLES = (ADMIN, USER, READER)
_MAX_PATH = 500
# The characters that a path may contain (RFC 3986), except the semicolon, which would end the path in a cookie.
_PAGE_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,=:@%-]+/)*", re.ASCII)
_log = logging.getLogger(__name__)


class TokenCalls:
    """The calls of `ControllerService` about tokens and about web sessions. The file cluster.proto documents each call.

    Args:
        authority: The object that creates and checks tokens, and has the web sessions.
        saver: The object that saves the tokens.
    """

    def __init__(self, authority: Authority, saver: Saver) -> None:
        self._authority = authority
        self._sessions = authority.sessions
        self._saver = saver

    async def create_token(self, request: Controller.CreateTokenRequest, ctx: Any) -> Controller.CreateTokenResponse:
        """Create a token."""
        token, secret = self._authority.create_token(request)
        await self._saver.saved()
        return Controller.CreateTokenResponse(token=token, secret=secret)

    async def list_tokens(self, request: Controller.ListTokensRequest, ctx: Any) -> Controller.ListTokensResponse:
        """Return the tokens created by people."""
        return Controller.ListTokensResponse(tokens=self._authority.list_tokens())

    async def revoke_token(self, request: Controller.RevokeTokenRequest, ctx: Any) -> cluster_pb2.Empty:
        """Revoke a token."""
        self._authority.revoke_token(request.token_id)
        await self._saver.saved()
        return cluster_pb2.Empty()

    async def create_sign_in_code(
        self, request: Controller.CreateSignInCodeRequest, ctx: Any
    ) -> Controller.CreateSignInCodeResponse:
        """Create a code for a sign-in link."""
        known = caller()
        if known.session_id:
            raise PermissionDeniedError("a page cannot make sign-in links: make the link with 'iris web'")
        code, expires_at_s = self._sessions.create_code(known, _uid() if request.same_user else None)
        return Controller.CreateSignInCodeResponse(code=code, expires_at_ms=round(expires_at_s * 1000))

    async def sign_in(self, request: Controller.SignInRequest, ctx: Any) -> Controller.SignInResponse:
        """Open a web session, and send its secret to the browser as a cookie."""
        headers = [(name.encode(), value.encode("latin-1")) for name, value in ctx.request_headers.allitems()]
        origin = own_origin(WebRequest.of_headers(ctx.http_method, headers, COOKIE))
        if len(request.page_path) > _MAX_PATH or not _PAGE_PATH.fullmatch(request.page_path):
            raise InvalidArgumentError(
                "page_path must be the path of the page, which begins and ends with '/', got"
                f" {quoted(request.page_path)}"
            )
        uid = _uid()
        # No other call may run between the check of the code and its use. Otherwise two browsers could use one code.
        known = self._credential_holder(request, uid)
        session, secret = self._sessions.open(
            known, origin=origin, page_path=request.page_path, uid=uid, code=request.code, request_id=request.request_id
        )
        await self._sessions.save()
        log_event(_log, "session.opened", name=session.name, role=session.role, token_id=session.token_id)
        left_s = max(1, round(session.expires_at_s - wall_s()))
        ctx.response_headers.add("set-cookie", _cookie(session, secret, left_s))
        return Controller.SignInResponse(
            session_path=f"{PATH.strip('/')}/{session.session_id}", caller=identity_of(session.caller)
        )

    async def sign_out(self, request: Controller.SignOutRequest, ctx: Any) -> cluster_pb2.Empty:
        """End the web session of the caller."""
        known = caller()
        if not known.session_id:
            raise FailedPreconditionError(
                "SignOut ends only sessions of web pages, but the caller sent a token: call RevokeToken to revoke a"
                " token"
            )
        session = self._sessions.end(known.session_id)
        self._authority.streams.recheck(lambda one: one.session_id == known.session_id)
        await self._sessions.save()
        if session is not None:
            log_event(_log, "session.ended", name=session.name, role=session.role, token_id=session.token_id)
            ctx.response_headers.add("set-cookie", _cookie(session, "", 0))
        return cluster_pb2.Empty()

    def _credential_holder(self, request: Controller.SignInRequest, uid: int | None) -> Caller:
        """Return the caller whose code or token a browser has sent.

        Raises:
            UnauthenticatedError: The code or the token is not valid.
            PermissionDeniedError: Callers with the role of the token may not use the page.
        """
        if request.WhichOneof("credential") == "code":
            known = self._sessions.holder_of_code(request.code, request.request_id, uid)
            self._authority.check(known)
        else:
            known = self._authority.identify(request.token.strip())
        if known.role not in _PAGE_ROLES:
            raise PermissionDeniedError(
                f"a token of the role {known.role!r} cannot sign in to the page; accepted roles:"
                f" {', '.join(_PAGE_ROLES)}",
                metadata={"role": known.role},
            )
        return known


def identity_of(known: Caller) -> Controller.Identity:
    """Return the message that describes a caller."""
    return Controller.Identity(
        name=known.name, role=known.role, token_id=known.token_id, expires_at_ms=round(known.expires_at_s * 1000)
    )


def _uid() -> int | None:
    client, server = connection_ends.get()
    return client_uid(client, server)


def _cookie(session: WebSession, secret: str, max_age_s: int) -> str:
    """Return the header that stores a session's secret in the browser. With `max_age_s` 0, the browser removes the
    stored secret.
    """
    path = f"{session.page_path}{PATH.strip('/')}/{session.session_id}/"
    secure = "; Secure" if session.origin.startswith("https://") else ""
    return f"{COOKIE}={secret}; Path={path}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"
