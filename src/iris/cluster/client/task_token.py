"""Reads the owner of a token, a user or a task, from the token."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from iris.cluster.types import JobInfo, make_task_id


def task_of_token(token: str) -> JobInfo | None:
    """Return the task that owns a token, or None if the owner is not a task. This function does not check the signature
    of the token, because the server checks the signature of every call's token.
    """
    claims = _claims(token)
    try:
        job_id, index, attempt_id = str(claims["job"]), int(claims["task"]), int(claims["attempt"])
    except (KeyError, TypeError, ValueError):
        return None
    return JobInfo(job_id, task_id=make_task_id(job_id, index), task_index=index, attempt_id=attempt_id)


def name_in_token(token: str) -> str | None:
    """Return the name in a token. The jobs that were submitted with this token have this name as their owner. Return
    None if the token has no name. This function does not check the signature of the token.
    """
    name = _claims(token).get("sub")
    return name if isinstance(name, str) and name else None


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a token, as the token states it. The signature of the token is not checked.

    Attributes:
        name: The name of the token's holder.
        role: The role of the token's holder, for example "user".
        token_id: The id of the token, with which `iris token revoke` revokes it.
        expires_at_ms: When the token expires, in milliseconds since the Unix epoch.
    """

    name: str
    role: str
    token_id: str
    expires_at_ms: int


def holder_of_token(token: str) -> Holder | None:
    """Return the holder of a token, or None if the token does not have the form of Iris's tokens. This function does
    not check the signature of the token."""
    claims = _claims(token)
    try:
        return Holder(str(claims["sub"]), str(claims["role"]), str(claims["jti"]), int(claims["exp"]) * 1000)
    except (KeyError, TypeError, ValueError):
        return None


def _claims(token: str) -> dict[str, Any]:
    """Return the claims in a token, or an empty dict if the token is malformed."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}
