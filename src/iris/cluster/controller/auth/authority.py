"""Makes the tokens of a cluster, and knows which of them are not good any more.

The key is the only secret. What is stored of a token is what a list of tokens shows; tasks', workers' and the
controller's own are not stored at all: they say in themselves what they are for.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from iris.arguments import check_whole_number
from iris.cluster.controller.storage.store import Changes, Store, StoredToken
from iris.cluster.names import check_token_name
from iris.cluster.types import make_task_id
from iris.errors import InvalidArgumentError, NotFoundError, UnauthenticatedError
from iris.rpc import cluster_pb2
from iris.rpc.auth.authenticate import Doors
from iris.rpc.auth.caller import CONTROLLER, GIVEN_ROLES, LEEWAY_S, TASK, WORKER, Caller
from iris.rpc.auth.tokens import QUEUED_WORKER_TTL_S, WORKER_TTL_S, SigningKey, Verifier, revoked, worker_token
from iris.system.clock import now_for_ages_ms, now_ms, wall_s

DEFAULT_TTL_S = 30 * 86400
MAX_TTL_S = 10 * 366 * 86400
_CONTROLLER_TTL_S = 600.0
_TASK_TTL_S = 366 * 86400.0  # it ends with its attempt: here, and at workers (worker/attempt_tokens.py)
_LISTED_S = 7 * 86400  # an expired token is shown for so long

Token = cluster_pb2.Controller.Token


class Authority:
    """The tokens of a cluster; a `Judge` of the controller's own calls.

    Args:
        key: Signs them.
        store: Remembers those that people made.

    Attributes:
        verifier: Checks them.
        doors: The streams that are open at the controller.
        is_live: Whether an attempt goes on (job, task, attempt); the controller sets it.
        is_worker_live: Whether a worker (id, incarnation; empty: any) is live; the controller sets it.
        on_revoked: Called with the id of a token that was revoked.
        changed: Keeps a token that was made or revoked, or forgets one (None); at once, until the controller has a
            better way.
    """

    def __init__(self, key: SigningKey, store: Store) -> None:
        self._key = key
        self.changed = _keep_at_once(store)
        self.verifier = Verifier(key.public)
        self.doors = Doors()
        self.is_live: Callable[[str, int, int], bool] = lambda job_id, task_index, attempt_id: False
        self.is_worker_live: Callable[[str, str], bool] = lambda worker_id, incarnation: False
        self.on_revoked: Callable[[str], None] = lambda token_id: None
        self._tokens = {stored.token.token_id: stored for stored in store.load_tokens()}
        self._by_request = {stored.request_id: stored for stored in self._tokens.values() if stored.request_id}
        self.forget_old_tokens()
        self._revocations = max((stored.revocation for stored in self._tokens.values()), default=0)
        self._of_controller: dict[tuple[str, str], tuple[float, str]] = {}

    # As a judge.

    def identify(self, token: str) -> Caller:
        """Whose token it is."""
        known = self.verifier.read(token)
        self.check(known)
        return known

    async def confirm(self, known: Caller, token: str) -> None:
        """Do nothing: the controller has nobody to ask about a token, since it knows all of them itself."""

    def check(self, known: Caller) -> None:
        """Raises UnauthenticatedError when a token is not good any more.

        A task's token is good for as long as its attempt is live, and a worker's that the cluster itself has made for
        as long as the worker is: somebody may set the clock, and nothing that runs may end because of it.
        """
        stored = self._tokens.get(known.token_id)
        if stored is not None and stored.token.revoked_at_ms:
            raise revoked(known)
        if known.role == TASK:
            if not self.is_live(known.job_id, known.task_index, known.attempt_id):
                raise UnauthenticatedError(
                    f"attempt {known.attempt_id} of task {known.task_index} of job {known.job_id!r}, which this token"
                    " was given to, has ended"
                )
        elif self.verifier.has_expired(known) and not (
            self._is_of_our_worker(known) and self.is_worker_live(known.worker_id, "")
        ):
            self.verifier.check_time(known)

    def check_process(self, known: Caller, incarnation: str) -> None:
        """Raises UnauthenticatedError when a worker registers by an expired token, and is not the process that is live.

        By an expired token a live process may go on, and nobody may take its place.
        """
        if self.verifier.has_expired(known) and not self.is_worker_live(known.worker_id, incarnation):
            self.verifier.check_time(known)

    def _is_of_our_worker(self, known: Caller) -> bool:
        """Whether the cluster has made the token for a worker by itself; those that people make are listed."""
        return known.role == WORKER and known.token_id not in self._tokens

    # Tokens that people make.

    def create_token(self, request: cluster_pb2.Controller.CreateTokenRequest) -> tuple[Token, str]:
        """Makes a token; answers with its secret, too."""
        known = self._by_request.get(request.request_id) if request.request_id else None
        if known is None:
            known = self._new_token(request)
        elif (known.token.name, known.token.role) != (request.name, request.role):
            raise InvalidArgumentError(f"request_id {request.request_id!r} was used for another token")
        return known.token, self._sign(known.token)

    def list_tokens(self) -> list[Token]:
        """The tokens that were made, oldest first."""
        return [stored.token for stored in self._tokens.values()]

    def revoke_token(self, token_id: str) -> None:
        """From now on a token is not good any more."""
        stored = self._tokens.get(token_id)
        if stored is None:
            raise NotFoundError(f"no token with id {token_id!r}: 'iris token list' shows them")
        if not stored.token.revoked_at_ms:
            gone = Token()
            gone.CopyFrom(stored.token)
            gone.revoked_at_ms = now_ms()
            # Higher than what a worker has heard of an earlier life, which may not have come to keep it.
            self._revocations = max(self._revocations + 1, int(wall_s() * 1_000_000))
            stored = StoredToken(gone, stored.request_id, self._revocations)
            self.changed(token_id, stored)
            self._tokens[token_id] = stored
            self.doors.look_again(lambda known: known.token_id == token_id)
            self.on_revoked(token_id)

    def _new_token(self, request: cluster_pb2.Controller.CreateTokenRequest) -> StoredToken:
        check_token_name(request.name)
        if request.role not in GIVEN_ROLES:
            raise InvalidArgumentError(f"role={request.role!r}: expected one of {', '.join(GIVEN_ROLES)}")
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
        self.changed(token.token_id, stored)
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

    def forget_old_tokens(self) -> None:
        """Drops those that expired long ago."""
        until_ms = now_for_ages_ms() - _LISTED_S * 1000
        old = [stored for stored in self._tokens.values() if stored.token.expires_at_ms < until_ms]
        for stored in old:
            self.changed(stored.token.token_id, None)
            del self._tokens[stored.token.token_id]
            self._by_request.pop(stored.request_id, None)

    # Tokens of the cluster's own parts.

    def task_token(self, job_id: str, task_index: int, attempt_id: int) -> str:
        """The token of an attempt; good for as long as it goes on."""
        return self._key.sign(
            Caller(
                make_task_id(job_id, task_index),
                TASK,
                secrets.token_hex(8),
                wall_s() + _TASK_TTL_S,
                job_id=job_id,
                task_index=task_index,
                attempt_id=attempt_id,
            )
        )

    def worker_token(self, worker_id: str) -> str:
        """A token of a worker."""
        return worker_token(self._key, worker_id)

    def renewed(self, known: Caller) -> str:
        """The next token of a worker, when half of the time of the one that it has is over; else empty. One that a
        person made is not prolonged: it could not be revoked any more."""
        left_s = known.expires_at_s - wall_s()
        # One that is good for longer than any that we make was made before somebody set the clock back.
        is_young = WORKER_TTL_S / 2 < left_s <= QUEUED_WORKER_TTL_S + LEEWAY_S
        return self.worker_token(known.worker_id) if self._is_of_our_worker(known) and not is_young else ""

    def controller_token(self, worker_id: str, incarnation: str = "") -> str:
        """By which the controller shows a process of a worker who it is. Of no use to that worker, or to anybody else.

        The process takes it whatever the time is. Only a worker of an older release looks at the time of the token.
        """
        key = (worker_id, incarnation)
        expires_at_s, token = self._of_controller.get(key, (0.0, ""))
        left_s = expires_at_s - wall_s()
        if not _CONTROLLER_TTL_S / 2 <= left_s <= _CONTROLLER_TTL_S:  # longer: somebody has set the clock back
            expires_at_s = wall_s() + _CONTROLLER_TTL_S
            token = self._key.sign(
                Caller(
                    CONTROLLER,
                    CONTROLLER,
                    secrets.token_hex(8),
                    expires_at_s,
                    worker_id=worker_id,
                    incarnation=incarnation,
                )
            )
            self._of_controller[key] = (expires_at_s, token)
        return token

    def forget_worker(self, worker_id: str) -> None:
        """It is called no more."""
        for key in [key for key in self._of_controller if key[0] == worker_id]:
            del self._of_controller[key]

    def revocations(self, known_to_worker: int) -> tuple[int, list[str]]:
        """The number of the last revocation, and which tokens are revoked that would still be good: none, where a
        worker knows of that one."""
        if known_to_worker == self._revocations:
            return self._revocations, []
        good_until_ms = now_ms() - int(LEEWAY_S * 1000)
        return self._revocations, [
            token_id
            for token_id, stored in self._tokens.items()
            if stored.token.revoked_at_ms and stored.token.expires_at_ms > good_until_ms
        ]


def _keep_at_once(store: Store) -> Callable[[str, StoredToken | None], None]:
    def keep(token_id: str, stored: StoredToken | None) -> None:
        changes = Changes()
        store.write(changes.remove_token(token_id) if stored is None else changes.save_token(stored))

    return keep
