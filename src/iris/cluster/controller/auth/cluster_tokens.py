"""Signs the tokens that the cluster makes for attempts and for the controller.

The tokens of attempts and of the controller are not stored. Each token names the attempt or the worker for which the
token is valid.
"""

from __future__ import annotations

import secrets

from iris.cluster.controller.jobs.job import Job
from iris.cluster.types import make_task_id
from iris.rpc.auth.caller import CONTROLLER, TASK, Caller
from iris.rpc.auth.tokens import SigningKey
from iris.system.clock import wall_s

_CONTROLLER_TTL_S = 600.0
# The token of an attempt expires after this many seconds, but becomes invalid when the attempt ends, usually long
# before. The controller and the workers (worker/controller_link) check that the attempt is live.
_TASK_TTL_S = 366 * 86400.0


class ClusterTokens:
    """Makes the tokens that the cluster needs for attempts and for the controller.

    Args:
        key: The server key, with which tokens are signed.
    """

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self._of_controller: dict[tuple[str, str], tuple[float, str]] = {}

    def task_token(self, job: Job, task_index: int, attempt_id: int) -> str:
        """Return a token for an attempt. The token is valid until the attempt ends."""
        return self._key.sign(
            Caller(
                make_task_id(job.job_id, task_index),
                TASK,
                secrets.token_hex(8),
                wall_s() + _TASK_TTL_S,
                job_id=job.job_id,
                task_index=task_index,
                attempt_id=attempt_id,
                job_submitted_at_ms=job.submitted_at_ms,
            )
        )

    def controller_token(self, worker_id: str, incarnation: str = "") -> str:
        """Return a token by which the controller identifies itself to one process of a worker. No other process accepts
        the token. Only workers of older releases check the expiry time of the token.
        """
        key = (worker_id, incarnation)
        expires_at_s, token = self._of_controller.get(key, (0.0, ""))
        left_s = expires_at_s - wall_s()
        # A token whose remaining time is longer than _CONTROLLER_TTL_S was made before the clock was set back. Such a
        # token is replaced as well.
        if not _CONTROLLER_TTL_S / 2 <= left_s <= _CONTROLLER_TTL_S:
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
        """Forget the tokens for calls to a worker. The controller will not call this worker any more."""
        for key in [key for key in self._of_controller if key[0] == worker_id]:
            del self._of_controller[key]
