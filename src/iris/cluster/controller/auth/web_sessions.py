"""Keeps the web sessions of browsers that have signed in to the page, and the codes of sign-in links.

A browser has the secret of its session as a cookie. This module keeps only a hash of the secret, in memory and in a
file that only the user of the cluster can read. Therefore a session survives a restart of the controller.

A session ends when its token expires or is revoked, and when the user signs out. The server key signs tokens, so a new
server key makes the sessions of the old key invalid, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from iris.errors import UnauthenticatedError
from iris.reasons import ErrorReason
from iris.rpc.auth.caller import Caller
from iris.system.clock import wall_s
from iris.system.files import read_secret, write_secret

SESSIONS_FILE = "web-sessions"
# The code of a sign-in link is valid for this many seconds, so that a person can copy the link to another machine.
CODE_S = 300
# A web session ends after this many seconds, even if its token is valid for longer. The user then signs in again.
MAX_SESSION_S = 30 * 86400
# The largest numbers of web sessions and of sign-in codes of one token. A further session ends the oldest session of
# the token. The limits apply to tokens and not to users, because several tokens may have the same user name, and the
# holder of one token must not end the sessions of another token.
MAX_SESSIONS_PER_TOKEN = 100
_MAX_CODES_PER_TOKEN = 100
_ADVICE = "make a new link with 'iris web'"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WebSession:
    """A browser that has signed in.

    Attributes:
        session_id: The id of the session, which is a part of the path of each call in the session.
        secret_hash: The hash of the session's secret.
        name: The name in the token with which the browser has signed in.
        role: The role of the token with which the browser has signed in.
        token_id: The id of the token with which the browser has signed in.
        expires_at_s: When the session ends, in seconds since the epoch.
        origin: The origin of the page, for example `https://iris.example.org`.
        page_path: The path of the page in the browser, for example `/`.
        uid: The user whose program has signed in over this machine's loopback; None if the user is not known.
    """

    session_id: str
    secret_hash: str
    name: str
    role: str
    token_id: str
    expires_at_s: float
    origin: str
    page_path: str
    uid: int | None

    @property
    def caller(self) -> Caller:
        """The caller of the session's calls."""
        return Caller(self.name, self.role, self.token_id, self.expires_at_s, session_id=self.session_id)


@dataclass(slots=True)
class _Code:
    """The code of a sign-in link.

    Attributes:
        caller: The caller who has made the code.
        uid: The only user of this machine, apart from root, whose programs may use the code; None allows everybody.
        expires_at_s: When the code expires, in seconds since the epoch.
        request_id: The id of the request that has used the code; None before the code is used.
        session_id: The id of the session that the code has opened.
    """

    caller: Caller
    uid: int | None
    expires_at_s: float
    request_id: str | None = None
    session_id: str = ""


class WebSessions:
    """The web sessions of a cluster, and the codes of sign-in links.

    Args:
        path: The file that stores the sessions; None keeps the sessions in memory only.
        issuer: The name of the server key. Sessions of another key are forgotten.
    """

    def __init__(self, path: Path | None, issuer: str) -> None:
        self._path = path
        self._issuer = issuer
        self._codes: dict[str, _Code] = {}  # By the hash of the code.
        self._sessions: dict[str, WebSession] = {}
        self._saving = asyncio.Lock()
        if path is not None:
            self._sessions = {session.session_id: session for session in _load(path, issuer)}

    # Codes.

    def create_code(self, caller: Caller, uid: int | None) -> tuple[str, float]:
        """Return a new code with which a browser may sign in as a caller, and the code's expiry time in seconds since
        the epoch.

        Args:
            caller: The user who makes the call.
            uid: The only user of this machine, apart from root, whose programs may use the code; None allows everybody.
        """
        now_s = wall_s()
        self._codes = {key: code for key, code in self._codes.items() if code.expires_at_s > now_s}
        own = [key for key, code in self._codes.items() if code.caller.token_id == caller.token_id]
        for key in own[: max(0, len(own) + 1 - _MAX_CODES_PER_TOKEN)]:
            del self._codes[key]
        code, expires_at_s = secrets.token_urlsafe(32), min(now_s + CODE_S, caller.expires_at_s)
        self._codes[_hash(code)] = _Code(caller, uid, expires_at_s)
        return code, expires_at_s

    def holder_of_code(self, code: str, request_id: str, uid: int | None) -> Caller:
        """Return the caller who has made a code.

        Args:
            code: The code that a sign-in link contains.
            request_id: The id of the request that uses the code. Only the same request may use the code again.
            uid: The user whose program uses the code; None if the user is not known.

        Raises:
            UnauthenticatedError: The code is not valid, or a program of another user uses the code.
        """
        known = self._codes.get(_hash(code))
        if known is None or known.expires_at_s <= wall_s():
            raise _bad_code(f"this sign-in link is not valid, or has expired: {_ADVICE}")
        if known.request_id is not None and (not request_id or known.request_id != request_id):
            raise _bad_code(f"this sign-in link was already used: {_ADVICE}")
        # Programs of root may use every sign-in code, because root can read every token of this machine, and may run a
        # proxy for other users.
        if known.uid is not None and uid not in (known.uid, 0):
            raise _bad_code(
                f"this sign-in link works only for the user of the cluster's machine who has made it (uid {known.uid}):"
                " make a link for another user or another machine with 'iris web --print'"
            )
        return known.caller

    # Sessions.

    def open(
        self,
        caller: Caller,
        *,
        origin: str,
        page_path: str,
        uid: int | None,
        code: str = "",
        request_id: str = "",
    ) -> tuple[WebSession, str]:
        """Open a session, and return it with its secret. The caller must await `save` before a browser gets the secret.

        Args:
            caller: The caller as whom the browser signs in.
            origin: The origin of the page.
            page_path: The path of the page in the browser.
            uid: The user whose program signs in over this machine's loopback; None if the user is not known.
            code: The code of the sign-in link; empty if the browser signs in with a token. Afterwards only the same
                request can use this code again.
            request_id: The id of the request that uses the code. If this request has used the code before, its session
                gets a new secret.
        """
        secret = secrets.token_urlsafe(32)
        used = self._codes.get(_hash(code)) if code else None
        known = self._sessions.get(used.session_id) if used is not None else None
        if known is not None:
            session = replace(known, secret_hash=_hash(secret))
        else:
            session = WebSession(
                secrets.token_hex(16),
                _hash(secret),
                caller.name,
                caller.role,
                caller.token_id,
                min(caller.expires_at_s, wall_s() + MAX_SESSION_S),
                origin,
                page_path,
                uid,
            )
        if used is not None:
            used.request_id, used.session_id = request_id, session.session_id
        self._drop_old(session)
        self._sessions[session.session_id] = session
        return session, secret

    def find(self, session_id: str, secrets_sent: tuple[str, ...]) -> WebSession:
        """Return the session of a call.

        Args:
            session_id: The id of the web session, from the path of the call.
            secrets_sent: The secrets in the cookies of the call. There may be several, because other servers of the
                same host can set cookies.

        Raises:
            UnauthenticatedError: There is no such session, or none of the secrets is its secret.
        """
        session = self._sessions.get(session_id)
        if session is None or not any(
            secrets.compare_digest(_hash(one), session.secret_hash) for one in secrets_sent[:10]
        ):
            raise session_ended()
        return session

    def is_open(self, session_id: str) -> bool:
        """Return whether a session has not ended."""
        session = self._sessions.get(session_id)
        return session is not None and session.expires_at_s > wall_s()

    def end(self, session_id: str) -> WebSession | None:
        """End a session, and return the session, or None if there is no such session. The caller must await `save`,
        because the session would otherwise be open again after a restart of the controller.
        """
        return self._sessions.pop(session_id, None)

    def end_of_token(self, token_id: str) -> None:
        """End the sessions and codes of a revoked token. No call of `save` is needed, because the controller checks the
        token of a stored session, and refuses a revoked token.
        """
        self._codes = {key: code for key, code in self._codes.items() if code.caller.token_id != token_id}
        self._sessions = {key: session for key, session in self._sessions.items() if session.token_id != token_id}

    async def save(self) -> None:
        """Write the sessions to the file.

        Raises:
            ResourceExhaustedError: The file cannot be written.
        """
        if self._path is None:
            return
        async with self._saving:
            sessions = [asdict(session) for session in self._sessions.values()]
            text = json.dumps({"issuer": self._issuer, "sessions": sessions}) + "\n"
            await asyncio.to_thread(write_secret, self._path, text)

    def _drop_old(self, session: WebSession) -> None:
        now_s = wall_s()
        self._sessions = {key: one for key, one in self._sessions.items() if one.expires_at_s > now_s}
        others = (one for one in self._sessions.values() if one.session_id != session.session_id)
        own = [one.session_id for one in others if one.token_id == session.token_id]
        for key in own[: max(0, len(own) + 1 - MAX_SESSIONS_PER_TOKEN)]:
            del self._sessions[key]


def session_ended() -> UnauthenticatedError:
    """Return the error for a call in a session that has ended or never existed."""
    return UnauthenticatedError(
        "this browser is not signed in, or its session has ended: sign in with a token, or with 'iris web'",
        reason=ErrorReason.SESSION_ENDED,
    )


def _load(path: Path, issuer: str) -> Iterator[WebSession]:
    text = read_secret(path)
    if text is None:
        return
    try:
        stored = json.loads(text)
        if stored["issuer"] == issuer:
            yield from [WebSession(**one) for one in stored["sessions"]]
    except (ValueError, TypeError, KeyError, AttributeError):
        # A damaged file of web sessions is not an error, because the users of the page only have to sign in again.
        _log.warning("%s is damaged; the users of the page have to sign in again", path)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _bad_code(text: str) -> UnauthenticatedError:
    return UnauthenticatedError(text, reason=ErrorReason.SIGN_IN_CODE_INVALID)
