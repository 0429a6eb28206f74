"""Finds the secret that signs the requests to webhooks."""

from __future__ import annotations

import secrets
from pathlib import Path

from iris.cluster.controller.events.webhooks.signature import MIN_SECRET
from iris.errors import FailedPreconditionError
from iris.system.files import read_secret, write_secret

SECRET_FILE = "webhook.secret"


def find_secret(given_file: str, given: str, own_file: Path | None) -> str:
    """Return the secret that signs requests to webhooks, from the first source that has a secret.

    The sources, in the order in which they are tried:
    1. The secret in the file that the operator has named.
    2. The secret that the operator has given in the environment. The secret is also stored in the controller's own
       file, so that a later start without the variable signs with the same secret.
    3. The secret in the controller's own file.
    4. A new random secret, which is stored in the controller's own file.

    Args:
        given_file: The path of the operator's file; empty if there is none.
        given: The secret from the environment variable; empty if the variable is not set.
        own_file: The controller's own file; None if nothing is stored.

    Raises:
        FailedPreconditionError: A file cannot be read, other users can read it, or the secret is too short.
        ResourceExhaustedError: The controller's own file cannot be written.
    """
    if given_file:
        return _checked(_read(Path(given_file)), given_file)
    if given.strip():
        secret = _checked(given.strip(), "IRIS_WEBHOOK_SECRET")
        if own_file is not None:
            write_secret(own_file, secret)
        return secret
    known = None if own_file is None else read_secret(own_file)
    if known and known.strip():
        return _checked(known.strip(), str(own_file))
    secret = secrets.token_hex(32)
    if own_file is not None:
        write_secret(own_file, secret)
    return secret


def _read(path: Path) -> str:
    try:
        secret = read_secret(path)
    except OSError as error:
        raise FailedPreconditionError(f"--webhook-secret-file: cannot read {path}: {error.strerror}") from error
    if secret is None:
        raise FailedPreconditionError(f"--webhook-secret-file: there is no file {path}")
    return secret.strip()


def _checked(secret: str, source: str) -> str:
    if len(secret) < MIN_SECRET:
        raise FailedPreconditionError(
            f"the secret of webhooks in {source} must have at least {MIN_SECRET} characters, got {len(secret)}"
        )
    return secret
