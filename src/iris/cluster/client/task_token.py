"""Reads from a token which task owns it."""

from __future__ import annotations

import base64
import binascii
import json

from iris.cluster.types import JobInfo, make_task_id


def task_of_token(token: str) -> JobInfo | None:
    """Return the task that owns a token. None if the owner is not a task.

    This function does not check the signature of the token, because the server checks the signature of every call's
    token.
    """
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        job_id, index, attempt_id = str(claims["job"]), int(claims["task"]), int(claims["attempt"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None
    return JobInfo(job_id, task_id=make_task_id(job_id, index), task_index=index, attempt_id=attempt_id)
