"""Signs and checks tokens, which are JSON Web Tokens (RFC 7519). The controller signs tokens with Ed25519, and
controller and workers check them. Only servers import this module, because it needs the packages of the extra [server].
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
from iris.reasons import ErrorReason
from iris.rpc.auth.caller import ADVICE, LEEWAY_S, WORKER, Caller
from iris.system.clock import wall_s
from iris.system.files import read_secret, write_secret

WORKER_TTL_S = 86400.0
# The lifetime of a token that is made long before its worker starts, for a job that waits in the queue of Slurm.
QUEUED_WORKER_TTL_S = 30 * 86400.0
_ALGORITHM = "EdDSA"
_CLAIMS = ("jti", "sub", "role", "iat", "exp", "iss")
# A token with more bytes than this is refused without a check of its signature. Tokens of Iris have about 300 bytes.
_MAX_TOKEN_BYTES = 4096

# The latest accepted expiry time of a token, in seconds. Timers use floats, and a float cannot hold larger whole
# numbers exactly.
_LATEST_EXPIRY_S = 2**53
# The errors that a malformed token can cause: a missing claim, deep nesting, `Infinity`, a number of a thousand digits,
# or a list in place of a word. Anybody can send such a token. A program that has the server key can even sign it.
_UNREADABLE = (
    jwt.InvalidTokenError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
# The results of this many checks of tokens are remembered, because checking a signature takes as long as the rest of a
# small call.
_REMEMBERED = 4096


class SigningKey:
    """The server key of a cluster. It can sign tokens for every role."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()
        self._issuer = issuer_of(self.public)

    def __repr__(self) -> str:
        return f"SigningKey({self._issuer})"

    @classmethod
    def new(cls) -> SigningKey:
        """Return a new key that is not stored."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_make(cls, path: Path) -> SigningKey:
        """Return the server key in a file. If the file is missing, create it with a new key.

        Raises:
            FailedPreconditionError: Other users can read the file.
            DataLossError: The file does not contain an Ed25519 key.
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
            # The key file exists, because another process has just created it. Therefore its key is used.
            text = read_secret(path) or ""
        try:
            key = serialization.load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError) as error:
            raise DataLossError(
                f"{path} does not contain a key: {error}; if you remove the file, 'iris up' makes a new key"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise DataLossError(f"{path} is not an Ed25519 key; if you remove the file, 'iris up' makes a new key")
        return cls(key)

    def sign(self, caller: Caller, issued_at_s: float | None = None) -> str:
        """Return a signed token for a caller. The same caller and time always give the same token."""
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
        if caller.job_submitted_at_ms:
            claims["submitted"] = caller.job_submitted_at_ms
        return jwt.encode(claims, self._private, algorithm=_ALGORITHM)


def worker_token(key: SigningKey, worker_id: str, ttl_s: float = WORKER_TTL_S) -> str:
    """Return a token for a worker. The controller renews the token in its answers to the worker's reports."""
    expires_at_s = wall_s() + ttl_s
    return key.sign(Caller(worker_id, WORKER, secrets.token_hex(8), expires_at_s, worker_id=worker_id))


class Verifier:
    """Checks the tokens of one cluster: the signature, the form and the expiry time of each token.

    Args:
        public: The public key of the cluster.
    """

    def __init__(self, public: bytes) -> None:
        self.public = public
        self._key = Ed25519PublicKey.from_public_bytes(public)
        self._issuer = issuer_of(public)
        self._known: dict[str, Caller] = {}

    def verify(self, token: str) -> Caller:
        """Return the holder of a token.

        Raises:
            UnauthenticatedError: The token is damaged, belongs to another cluster, or has expired.
        """
        caller = self.read(token)
        self.check_time(caller)
        return caller

    def read(self, token: str) -> Caller:
        """Return the holder of a token, whether or not the token has expired.

        Raises:
            UnauthenticatedError: The token is damaged, or belongs to another cluster.
        """
        caller = self._known.get(token)
        if caller is None:
            caller = self._check(token)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[token] = caller
        return caller

    def has_expired(self, caller: Caller) -> bool:
        """Return whether the expiry time of a token passed at least `LEEWAY_S` seconds ago on the wall clock."""
        return wall_s() >= caller.expires_at_s + LEEWAY_S

    def check_time(self, caller: Caller) -> None:
        """Check that a token has not expired.

        Raises:
            UnauthenticatedError: The token has expired.
        """
        if self.has_expired(caller):
            raise UnauthenticatedError(
                f"the token {caller.token_id} of {caller.name!r} has expired; {ADVICE}",
                reason=ErrorReason.TOKEN_EXPIRED,
                metadata={"token_id": caller.token_id},
            )

    def _check(self, token: str) -> Caller:
        if len(token) > _MAX_TOKEN_BYTES:
            raise UnauthenticatedError(
                f"this is not a token of Iris: it has {len(token)} characters; {ADVICE}",
                reason=ErrorReason.TOKEN_INVALID,
            )
        try:
            claims = jwt.decode(
                token,
                self._key,
                # Only this signature algorithm is accepted, even if the token's header names another one.
                algorithms=[_ALGORITHM],
                issuer=self._issuer,
                # `check_time` checks the expiry. The time of issue is not checked, because the signature proves that
                # the controller made the token, and a token "from the future" only means that a clock was set back.
                options={"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False},
            )
            return _caller(claims)
        except _UNREADABLE:
            # The error does not quote the token, because the token is a secret. The original error is dropped, because
            # its text may quote the token.
            problem = self._describe(token)
            raise UnauthenticatedError(f"{problem}; {ADVICE}", reason=ErrorReason.TOKEN_INVALID) from None

    def _describe(self, token: str) -> str:
        with contextlib.suppress(*_UNREADABLE):
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
            if isinstance(issuer, str) and issuer != self._issuer:
                return "the token is from another cluster, or from before this cluster got a new key"
        return "the token is damaged, or is not a token of Iris"


def revoked(caller: Caller) -> UnauthenticatedError:
    """Return the error for a revoked token."""
    return UnauthenticatedError(
        f"the token {caller.token_id} of {caller.name!r} was revoked; {ADVICE}",
        reason=ErrorReason.TOKEN_REVOKED,
        metadata={"token_id": caller.token_id},
    )


def issuer_of(public: bytes) -> str:
    """Return the issuer's name in the tokens of a cluster, which is made from the cluster's public key."""
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
        job_submitted_at_ms=int(claims.get("submitted", 0)),
    )


def _expiry(claims: dict[str, Any]) -> int:
    int(claims["iat"])  # The time of issue must be a number, although it is not used.
    expires_at_s = int(claims["exp"])
    if not 0 <= expires_at_s <= _LATEST_EXPIRY_S:
        raise ValueError("the expiry time in the token is negative or too late")
    return expires_at_s
