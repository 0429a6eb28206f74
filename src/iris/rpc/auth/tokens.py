"""Tokens: JSON Web Tokens (RFC 7519), signed with Ed25519 by the controller, checked by it and by its workers.

For servers only: this module needs what the extra [server] brings.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from iris.errors import DataLossError, UnauthenticatedError
from iris.rpc.auth.caller import ADVICE, LEEWAY_S, WORKER, Caller
from iris.system.clock import wall_s
from iris.system.secret_file import read_secret, write_secret

WORKER_TTL_S = 86400.0
# Of one that is made long before its worker starts, with a job that waits in somebody else's queue.
QUEUED_WORKER_TTL_S = 30 * 86400.0
_ALGORITHM = "EdDSA"
_CLAIMS = ("jti", "sub", "role", "iat", "exp", "iss")
_MAX_TOKEN_BYTES = 4096  # ours have some 300
# Far behind any date, and still exact as a float: timers and clocks count with it.
_LATEST_EXPIRY_S = 2**53
# What a JSON parser and `int` raise on what a stranger, or a program that signs with our key, has put into a token:
# a missing claim, nesting without end, `Infinity`, a number of a thousand digits, a list in place of a word.
_UNREADABLE = (
    jwt.InvalidTokenError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_REMEMBERED = 4096  # tokens that were checked; a signature takes as long as all the rest of a small call


class SigningKey:
    """The key of a cluster. Whoever has it can make tokens for every role."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()
        self._issuer = issuer_of(self.public)

    def __repr__(self) -> str:
        return f"SigningKey({self._issuer})"

    @classmethod
    def new(cls) -> SigningKey:
        """A key that lives in memory only."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_make(cls, path: Path) -> SigningKey:
        """The key in a file, which is made when it is missing.

        Raises:
            FailedPreconditionError: Others can read the file.
            DataLossError: The file is no key.
            ResourceExhaustedError: The file cannot be written.
        """
        text = read_secret(path)
        if text is None:
            private = Ed25519PrivateKey.generate()
            pem = private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            if write_secret(path, pem.decode(), replace=False):
                return cls(private)
            text = read_secret(path) or ""  # somebody else has started in the same moment
        try:
            key = serialization.load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError) as error:
            raise DataLossError(f"{path} is no key: {error}; without it, 'iris up' makes a new one") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise DataLossError(f"{path} is no Ed25519 key; without it, 'iris up' makes a new one")
        return cls(key)

    def sign(self, caller: Caller, issued_at_s: float | None = None) -> str:
        """The token of a caller. Of the same caller and time, it is the same."""
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "jti": caller.token_id,
            "sub": caller.name,
            "role": caller.role,
            "iat": int(wall_s() if issued_at_s is None else issued_at_s),
            "exp": int(caller.expires_at_s),
        }
        if caller.worker_id:
            claims["worker"] = caller.worker_id
        if caller.incarnation:
            claims["incarnation"] = caller.incarnation
        if caller.job_id:
            claims |= {"job": caller.job_id, "task": caller.task_index, "attempt": caller.attempt_id}
        return jwt.encode(claims, self._private, algorithm=_ALGORITHM)


def worker_token(key: SigningKey, worker_id: str, ttl_s: float = WORKER_TTL_S) -> str:
    """A token of a worker, renewed with its reports."""
    expires_at_s = wall_s() + ttl_s
    return key.sign(Caller(worker_id, WORKER, secrets.token_hex(8), expires_at_s, worker_id=worker_id))


class Verifier:
    """Checks tokens of one cluster: their signature, their form and their time.

    Args:
        public: The public half of the cluster's key.
    """

    def __init__(self, public: bytes) -> None:
        self.public = public
        self._key = Ed25519PublicKey.from_public_bytes(public)
        self._issuer = issuer_of(public)
        self._known: dict[str, Caller] = {}

    def verify(self, token: str) -> Caller:
        """Whose token it is.

        Raises:
            UnauthenticatedError: It is none of this cluster's, or has expired; the text says which.
        """
        caller = self.read(token)
        self.check_time(caller)
        return caller

    def read(self, token: str) -> Caller:
        """Whose token it is, expired or not.

        Raises:
            UnauthenticatedError: It is none of this cluster's.
        """
        caller = self._known.get(token)
        if caller is None:
            caller = self._check(token)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[token] = caller
        return caller

    def has_expired(self, caller: Caller) -> bool:
        """Whether the time of a token is over by the wall clock."""
        return wall_s() >= caller.expires_at_s + LEEWAY_S

    def check_time(self, caller: Caller) -> None:
        """Raises UnauthenticatedError when the time of a token is over."""
        if self.has_expired(caller):
            raise UnauthenticatedError(f"the token {caller.token_id} of {caller.name!r} has expired; {ADVICE}")

    def _check(self, token: str) -> Caller:
        if len(token) > _MAX_TOKEN_BYTES:
            raise UnauthenticatedError(f"the token is none of Iris: it has {len(token)} characters; {ADVICE}")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],  # and no other, whatever the token says of itself
                issuer=self._issuer,
                # The expiry is checked by `check_time`. When a token was made is not checked: the signature says that
                # the controller made it, and a token from "the future" means only that a clock was set back since.
                options={"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False},
            )
            return _caller(claims)
        except _UNREADABLE as error:
            # What was given is not repeated here, and neither is the cause, which may.
            raise UnauthenticatedError(f"{self._why(token, error)}; {ADVICE}") from None

    def _why(self, token: str, error: Exception) -> str:
        with contextlib.suppress(*_UNREADABLE):
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
            if isinstance(issuer, str) and issuer != self._issuer:
                return "the token is of another cluster, or of an earlier life of this one"
        return "the token is damaged, or none of Iris"


def revoked(caller: Caller) -> UnauthenticatedError:
    """For a token that nobody may use any more."""
    return UnauthenticatedError(f"the token {caller.token_id} of {caller.name!r} was revoked; {ADVICE}")


def issuer_of(public: bytes) -> str:
    """What a cluster is called in its tokens."""
    return f"iris-{hashlib.sha256(public).hexdigest()[:16]}"


def _caller(claims: dict[str, Any]) -> Caller:
    caller = Caller(
        name=str(claims["sub"]),
        role=str(claims["role"]),
        token_id=str(claims["jti"]),
        expires_at_s=_expiry(claims),
        worker_id=str(claims.get("worker", "")),
        incarnation=str(claims.get("incarnation", "")),
    )
    if "job" not in claims:
        return caller
    return Caller(
        caller.name,
        caller.role,
        caller.token_id,
        caller.expires_at_s,
        job_id=str(claims["job"]),
        task_index=int(claims["task"]),
        attempt_id=int(claims["attempt"]),
    )


def _expiry(claims: dict[str, Any]) -> int:
    int(claims["iat"])  # looked at by nobody, and a number all the same
    expires_at_s = int(claims["exp"])
    if not 0 <= expires_at_s <= _LATEST_EXPIRY_S:
        raise ValueError("exp is no time")
    return expires_at_s
