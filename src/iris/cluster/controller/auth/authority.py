"""Creates, lists and revokes the tokens of people, and checks the tokens of all callers.

The store contains no tokens, because a token is checked by the signature of the server key. The store contains only the
data that `iris token list` shows.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from typing import Protocol

from iris.arguments import check_whole_number
from iris.cluster.controller.auth.web_sessions import WebSession, WebSessions, session_ended
from iris.cluster.controller.storage.store import StoredToken
from iris.cluster.names import check_token_name
from iris.errors import InvalidArgumentError, NotFoundError, UnauthenticatedError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.auth.authenticate import AuthenticatedStreams
from iris.rpc.auth.caller import GIVEN_ROLES, LEEWAY_S, MAX_TTL_S, TASK, WORKER, Caller
from iris.rpc.auth.tokens import (
    QUEUED_WORKER_TTL_S,
    WORKER_TTL_S,
    SigningKey,
    Verifier,
    issuer_of,
    revoked,
    worker_token,
)
from iris.system.clock import now_for_ages_ms, now_ms, wall_s

DEFAULT_TTL_S = 30 * 86400
_LISTED_S = 7 * 86400  # An expired token stays in the list of tokens for this many seconds.

Token = cluster_pb2.Controller.Token


class Liveness(Protocol):
    """Knows which attempts and worker processes are live."""

    def is_attempt_live(self, job_id: str, task_index: int, attempt_id: int, submitted_at_ms: int) -> bool:
        """Return whether an attempt has not ended yet."""
        ...

    def is_worker_live(self, worker_id: str, incarnation: str) -> bool:
        """Return whether a process of a worker is live. An empty `incarnation` means any process of the worker."""
        ...


class Authority:
    """The tokens of a cluster. The controller uses this class as the `TokenChecker` for the calls that it serves.

    Args:
        key: The server key, with which tokens are signed.
        known: The tokens that an earlier controller has stored.
        save: A function that saves a token that was created or revoked. Its arguments are the id of the token and the
            token, or None to remove the stored token.
        liveness: The object that knows which attempts and worker processes are live.
        sessions: The object that stores the web sessions of browsers; None keeps the sessions in memory.

    Attributes:
        sessions: The object that stores the web sessions of browsers.
        verifier: The object that checks the signatures and times of tokens.
        streams: The object that knows the open streams of the controller.
    """

    def __init__(
        self,
        key: SigningKey,
        known: Iterable[StoredToken],
        save: Callable[[str, StoredToken | None], None],
        liveness: Liveness,
        sessions: WebSessions | None = None,
    ) -> None:
        self._key = key
        self.sessions = sessions or WebSessions(None, issuer_of(key.public))
        self._save = save
        self._liveness = liveness
        self.verifier = Verifier(key.public)
        self.streams = AuthenticatedStreams()
        self._tokens = {stored.token.token_id: stored for stored in known}
        self._by_request = {stored.request_id: stored for stored in self._tokens.values() if stored.request_id}
        self.forget_old_tokens()
        self._revocations = max((stored.revocation for stored in self._tokens.values()), default=0)
        self._revoked = asyncio.Event()

    # Checking tokens.

    def identify(self, token: str) -> Caller:
        """Return the caller named in a token. Raise UnauthenticatedError if the token is not valid."""
        known = self.verifier.read(token)
        self.check(known)
        return known

    def find_session(self, session_id: str, secrets_sent: tuple[str, ...]) -> WebSession:
        """Return the web session of a call. Raise UnauthenticatedError if there is no such session, or if the session
        has ended.
        """
        session = self.sessions.find(session_id, secrets_sent)
        self.check(session.caller)
        return session

    async def confirm(self, known: Caller, token: str) -> None:
        """Do nothing, because the controller knows all tokens and need not ask another process to confirm a token."""

    def check(self, known: Caller) -> None:
        """Raise UnauthenticatedError if a token that was valid before is invalid now.

        The token of an attempt is valid while the attempt is live. A token that the cluster made for a worker is valid
        while the worker is live. Neither check depends on the wall clock, because setting the clock must not end
        running attempts.
        """
        stored = self._tokens.get(known.token_id)
        if stored is not None and stored.token.revoked_at_ms:
            raise revoked(known)
        if known.session_id and not self.sessions.is_open(known.session_id):
            raise session_ended()
        if known.role == TASK:
            if not self._liveness.is_attempt_live(
                known.job_id, known.task_index, known.attempt_id, known.job_submitted_at_ms
            ):
                raise UnauthenticatedError(
                    f"attempt {known.attempt_id} of task {known.task_index} of job {known.job_id!r} has ended, and"
                    " this token was valid for that attempt only"
                )
        elif self.verifier.has_expired(known) and not (
            self._is_of_our_worker(known) and self._liveness.is_worker_live(known.worker_id, "")
        ):
            self.verifier.check_time(known)

    def check_process(self, known: Caller, incarnation: str) -> None:
        """Raise UnauthenticatedError if the token of a worker's process does not allow the process to register.

        With an expired token, only the live process of the worker may register again. Another process must not use the
        expired token to replace the live process.
        """
        if self.verifier.has_expired(known) and not self._liveness.is_worker_live(known.worker_id, incarnation):
            self.verifier.check_time(known)

    def renewed(self, known: Caller) -> str:
        """Return a new token for a worker once half of the current token's lifetime is over; otherwise an empty string.
        A token created by a person is not renewed, because the person could not revoke the renewed token.
        """
        left_s = known.expires_at_s - wall_s()
        # A token is also renewed if it expires later than any new token, which shows that the clock was set back.
        is_young = WORKER_TTL_S / 2 < left_s <= QUEUED_WORKER_TTL_S + LEEWAY_S
        if is_young or not self._is_of_our_worker(known):
            return ""
        return worker_token(self._key, known.worker_id)

    def revocations(self, known_to_worker: int) -> tuple[int, list[str]]:
        """Return the number of the latest revocation, and the ids of all revoked tokens that have not expired.

        Args:
            known_to_worker: The number of the latest revocation that the worker knows. If no newer revocation exists,
                the returned list is empty.
        """
        if known_to_worker == self._revocations:
            return self._revocations, []
        valid_until_ms = now_ms() - int(LEEWAY_S * 1000)
        return self._revocations, [
            token_id
            for token_id, stored in self._tokens.items()
            if stored.token.revoked_at_ms and stored.token.expires_at_ms > valid_until_ms
        ]

    def _is_of_our_worker(self, known: Caller) -> bool:
        """Return whether a token was made for a worker by the cluster. Tokens that people made for workers are in the
        table of tokens, and tokens of the cluster are not.
        """
        return known.role == WORKER and known.token_id not in self._tokens

    # The tokens that people use.

    def create_token(self, request: cluster_pb2.Controller.CreateTokenRequest) -> tuple[Token, str]:
        """Create a token, and return it with its secret. A repeated request returns the token of the first request."""
        known = self._by_request.get(request.request_id) if request.request_id else None
        if known is None:
            known = self._new_token(request)
        elif (known.token.name, known.token.role) != (request.name, request.role):
            raise InvalidArgumentError(
                f"request_id {request.request_id!r} has already created another token: choose a new request_id"
            )
        return known.token, self._sign(known.token)

    def list_tokens(self) -> list[Token]:
        """Return the tokens created by people, oldest first."""
        return [stored.token for stored in self._tokens.values()]

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token, and end all streams opened with the token."""
        stored = self._tokens.get(token_id)
        if stored is None:
            raise NotFoundError(
                f"no token with id {token_id!r}: 'iris token list' shows the ids", reason=ErrorReason.TOKEN_NOT_FOUND
            )
        if stored.token.revoked_at_ms:
            return
        token = Token()
        token.CopyFrom(stored.token)
        token.revoked_at_ms = now_ms()
        # The number of a revocation must be higher than every number that a worker may know. An earlier controller
        # process may have sent a number to workers without saving the number. Therefore the number comes from the
        # clock.
        self._revocations = max(self._revocations + 1, int(wall_s() * 1_000_000))
        stored = StoredToken(token, stored.request_id, self._revocations)
        self._save(token_id, stored)
        self._tokens[token_id] = stored
        self.sessions.end_of_token(token_id)
        self.streams.recheck(lambda known: known.token_id == token_id)
        event, self._revoked = self._revoked, asyncio.Event()
        event.set()

    def is_revoked(self, token_id: str) -> bool:
        """Return whether this token was revoked."""
        stored = self._tokens.get(token_id)
        return stored is not None and bool(stored.token.revoked_at_ms)

    def next_revocation(self) -> asyncio.Event:
        """Return an event that is set at the next revocation of a token."""
        return self._revoked

    def forget_old_tokens(self) -> None:
        """Remove the tokens that expired long ago."""
        until_ms = now_for_ages_ms() - _LISTED_S * 1000
        old = [stored for stored in self._tokens.values() if stored.token.expires_at_ms < until_ms]
        for stored in old:
            self._save(stored.token.token_id, None)
            del self._tokens[stored.token.token_id]
            self._by_request.pop(stored.request_id, None)

    def _new_token(self, request: cluster_pb2.Controller.CreateTokenRequest) -> StoredToken:
        check_token_name(request.name)
        if request.role not in GIVEN_ROLES:
            raise InvalidArgumentError(f"role must be one of {', '.join(GIVEN_ROLES)}, got {request.role!r}")
        check_whole_number("ttl_seconds", request.ttl_seconds, most=MAX_TTL_S, advice="0 means 30 days")
        now_s = int(wall_s())
        token = Token(
            token_id=secrets.token_hex(8),
            name=request.name,
            role=request.role,
            created_at_ms=now_s * 1000,
            expires_at_ms=(now_s + (request.ttl_seconds or DEFAULT_TTL_S)) * 1000,
        )
        stored = StoredToken(token, request.request_id)
        self._save(token.token_id, stored)
        self._tokens[token.token_id] = stored
        if request.request_id:
            self._by_request[request.request_id] = stored
        return stored

    def _sign(self, token: Token) -> str:
        holder = Caller(
            token.name,
            token.role,
            token.token_id,
            token.expires_at_ms // 1000,
            worker_id=token.name if token.role == WORKER else "",
        )
        return self._key.sign(holder, token.created_at_ms / 1000)
