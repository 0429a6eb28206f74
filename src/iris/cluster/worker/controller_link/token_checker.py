"""Checks the tokens of callers. The worker accepts only tokens that its controller has signed and not revoked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from iris.cluster.worker.controller_link.attempt_tokens import AttemptTokens
from iris.errors import PermissionDeniedError, UnavailableError
from iris.rpc.auth.authenticate import AuthenticatedStreams
from iris.rpc.auth.caller import CONTROLLER, TASK, Caller

if TYPE_CHECKING:
    from iris.rpc.auth.tokens import Verifier


class TokenChecker:
    """Checks the tokens of a worker's callers. The class implements the protocol `TokenChecker` of the RPC server.

    Args:
        worker_id: The id of this worker.
        token_key: The public key of the cluster; see `WorkerCredentials`.
        incarnation: The incarnation of this process.
        streams: The open streams of this worker; a new object by default.
        attempts: The object that checks whether the attempts of task tokens still run. Without this object, the tokens
            of tasks are refused.
        owner_of: A function that returns the owner of a job, or None if this worker knows no attempt of the job.

    Attributes:
        streams: The object that knows the open streams of this worker.
        revocations: The number of the newest revocation that this worker knows.
    """

    def __init__(
        self,
        worker_id: str,
        token_key: bytes = b"",
        incarnation: str = "",
        streams: AuthenticatedStreams | None = None,
        attempts: AttemptTokens | None = None,
        owner_of: Callable[[str], str | None] = lambda job_id: None,
    ) -> None:
        self._worker_id = worker_id
        self._incarnation = incarnation
        self._key = token_key
        self._verifier: Verifier | None = None
        self._revoked: frozenset[str] = frozenset()
        self.streams = streams or AuthenticatedStreams()
        self.revocations = 0
        self._attempts = attempts
        self._owner_of = owner_of

    def learn_key(self, token_key: bytes) -> None:
        """Use the public key that the controller sends, unless a key is known already.

        Raises:
            UnavailableError: The controller's key differs from the key that this worker knows, so the worker belongs to
                another cluster.
        """
        if token_key and not self._key:
            self._key = token_key
        if token_key and token_key != self._key:
            raise UnavailableError("the controller's key does not match the key that this worker trusts")

    def learn_revoked(self, revocations: int, revoked: frozenset[str]) -> None:
        """Replace the set of revoked tokens, and end the streams that were opened with one of these tokens.

        Args:
            revocations: The number of the newest revocation.
            revoked: The ids of all revoked tokens that have not expired.
        """
        self.revocations, self._revoked = revocations, revoked
        self.streams.recheck(lambda known: known.token_id in revoked)

    def identify(self, token: str) -> Caller:
        """Check a token, and return the caller that holds the token.

        Raises:
            UnauthenticatedError: The token is invalid, expired or revoked.
            PermissionDeniedError: The token is for another worker.
            UnavailableError: This worker does not know the cluster's key yet.
        """
        if self._verifier is None:
            if not self._key:
                raise UnavailableError(f"worker {self._worker_id} does not know its controller's key yet")
            # Importing the code for tokens takes a tenth of a second. The import is delayed, so that the worker starts
            # quickly.
            from iris.rpc.auth.tokens import Verifier

            self._verifier = Verifier(self._key)
        known = self._verifier.read(token)
        self._check_token(known)
        return known

    async def confirm(self, known: Caller, token: str) -> None:
        """Check whether the attempt of a task's token still runs. Tokens that belong to no task are not checked.

        Raises:
            UnauthenticatedError: The attempt has ended.
            UnavailableError: The controller does not answer, so it is unknown whether the attempt runs.
        """
        if known.role == TASK:
            await self._of_attempts().confirm(known, token)

    def check(self, known: Caller) -> None:
        """Check whether a token that was accepted before is still valid.

        Raises:
            UnauthenticatedError: The token is no longer valid.
            UnavailableError: It is unknown whether the token is still valid.
        """
        self._check_token(known)
        if known.role == TASK:
            self._of_attempts().check(known)

    def attempt_ended(self, job_id: str, task_index: int, attempt_id: int) -> None:
        """End the streams that were opened with an attempt's token, because the attempt has ended on this worker."""
        if self._attempts is not None:
            self._attempts.ended(job_id, task_index, attempt_id)

    def _of_attempts(self) -> AttemptTokens:
        if self._attempts is None:
            raise UnavailableError(f"worker {self._worker_id} cannot check the tokens of tasks")
        return self._attempts

    def _check_token(self, known: Caller) -> None:
        """Check whether a token is still valid, and valid on this worker.

        Raises:
            UnauthenticatedError: The token has expired or was revoked.
            PermissionDeniedError: The token is for another worker.

        A token that the controller has created for this process of the worker is valid as long as the process lives.
        The token's expiry time is ignored, because the clocks of the controller and the worker may differ.
        """
        assert self._verifier is not None, "called before the controller's key is known"
        is_for_this_process = (
            known.role == CONTROLLER
            and bool(self._incarnation)
            and (known.worker_id, known.incarnation) == (self._worker_id, self._incarnation)
        )
        if not is_for_this_process:
            self._verifier.check_time(known)
        if known.token_id in self._revoked:
            from iris.rpc.auth.tokens import revoked

            raise revoked(known)
        if known.role == CONTROLLER and known.worker_id != self._worker_id:
            raise PermissionDeniedError(f"this token is for worker {known.worker_id!r}, not for {self._worker_id!r}")

    def job_of_endpoint(self, endpoint_id: str) -> str | None:
        """Return None, because a worker knows no endpoints."""
        return None

    def owner_of_job(self, job_id: str) -> str | None:
        """Return the owner of a job, or None if this worker knows no attempt of the job."""
        return self._owner_of(job_id)
