"""Whom a worker trusts: its controller, and who shows a token that the controller has signed."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iris.cluster.worker.controller_link.attempt_tokens import AttemptTokens
from iris.errors import FailedPreconditionError, PermissionDeniedError, UnavailableError
from iris.rpc.auth.authenticate import Doors
from iris.rpc.auth.caller import CONTROLLER, TASK, Caller

if TYPE_CHECKING:
    from iris.rpc.auth.tokens import Verifier


@dataclass(frozen=True, repr=False)
class WorkerCredentials:
    """What a worker is started with.

    Attributes:
        token: Its own, by which it registers.
        token_key: The public half of the key that signs the cluster's tokens; empty: what the controller says when it
            registers.
    """

    token: str
    token_key: bytes = b""

    def to_json(self) -> str:
        """As it is handed to a worker."""
        return json.dumps({"token": self.token, "token_key": self.token_key.hex()})

    @classmethod
    def read(cls, path: str) -> WorkerCredentials:
        """From a file, or from an inherited descriptor as `/dev/fd/N`, which is closed.

        Raises:
            FailedPreconditionError: It cannot be read.
        """
        try:
            descriptor = re.fullmatch(r"/dev/fd/(\d+)", path)
            if descriptor is not None:
                with os.fdopen(int(descriptor[1])) as pipe:
                    text = pipe.read()
            else:
                text = Path(path).read_text(encoding="utf-8")
            known = json.loads(text)
            return cls(known["token"], bytes.fromhex(known.get("token_key", "")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FailedPreconditionError(
                f"--credentials {path}: {type(error).__name__}; expected a file with JSON: token, token_key"
            ) from None


class Trust:
    """What a worker knows of tokens; the `Judge` of its calls.

    Args:
        worker_id: Whose it is.
        token_key: See `WorkerCredentials`.
        incarnation: Of this process of the worker.

    Attributes:
        doors: The streams that are open.
        revocations: Up to which revocation of tokens the worker knows of them.
    """

    def __init__(
        self,
        worker_id: str,
        token_key: bytes = b"",
        incarnation: str = "",
        doors: Doors | None = None,
        attempts: AttemptTokens | None = None,
    ) -> None:
        self._worker_id = worker_id
        self._incarnation = incarnation
        self._key = token_key
        self._verifier: Verifier | None = None
        self._revoked: frozenset[str] = frozenset()
        self.doors = doors or Doors()
        self.revocations = 0
        self._attempts = attempts

    def learn_key(self, token_key: bytes) -> None:
        """What the controller says of its key; the first that is known stays.

        Raises:
            UnavailableError: It is another one: this is not the controller that this worker was started by.
        """
        if token_key and not self._key:
            self._key = token_key
        if token_key and token_key != self._key:
            raise UnavailableError("who answers as the controller has another key than the one this worker trusts")

    def learn_revoked(self, revocations: int, revoked: frozenset[str]) -> None:
        """All tokens that were revoked and have not expired."""
        self.revocations, self._revoked = revocations, revoked
        self.doors.look_again(lambda known: known.token_id in revoked)

    def identify(self, token: str) -> Caller:
        """Whose token it is."""
        if self._verifier is None:
            if not self._key:
                raise UnavailableError(f"worker {self._worker_id} does not know its controller's key yet")
            from iris.rpc.auth.tokens import Verifier  # a tenth of a second, which the start need not wait for

            self._verifier = Verifier(self._key)
        known = self._verifier.read(token)
        self._check_token(known)
        return known

    async def confirm(self, known: Caller, token: str) -> None:
        """Return when the attempt goes on that a task's token was given to; other tokens are good by themselves.

        Raises:
            UnauthenticatedError: It has ended.
            UnavailableError: The controller does not say.
        """
        if known.role == TASK:
            await self._of_attempts().confirm(known, token)

    def check(self, known: Caller) -> None:
        """Raise UnauthenticatedError when a token is not good any more, UnavailableError when that is not known."""
        self._check_token(known)
        if known.role == TASK:
            self._of_attempts().check(known)

    def attempt_ended(self, job_id: str, task_index: int, attempt_id: int) -> None:
        """An attempt has ended on this worker."""
        if self._attempts is not None:
            self._attempts.ended(job_id, task_index, attempt_id)

    def _of_attempts(self) -> AttemptTokens:
        if self._attempts is None:
            raise UnavailableError(f"worker {self._worker_id} cannot ask yet which attempts go on")
        return self._attempts

    def _check_token(self, known: Caller) -> None:
        """Raises UnauthenticatedError when a token is not good any more.

        A token that the controller has made for this very process ends with it: whatever the clocks of the two say, it
        is good until then.
        """
        assert self._verifier is not None, "nobody was let in"
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
        """Nothing is known of endpoints here."""
        return None

    def owner_of_job(self, job_id: str) -> str | None:
        """Nothing is known of owners here."""
        return None
