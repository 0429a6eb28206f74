"""Keeps the token of the user who started the cluster in a file, and renews the token while the cluster is up."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
from pathlib import Path

from iris.cluster.controller.auth.authority import DEFAULT_TTL_S, Authority, Token
from iris.errors import IrisError
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import ADMIN, MAX_TTL_S
from iris.system.clock import wall_s
from iris.system.event_loop import happens
from iris.system.files import write_secret

_CHECK_S = 30.0  # The seconds between two checks of the token's expiry.
_log = logging.getLogger(__name__)


class AdminToken:
    """The admin token of a cluster, and the token's file. Only the user who started the cluster can read the file.

    The token is replaced after half of its lifetime, and after it was revoked. Programs that read the file continue to
    work after a revocation, because the file then contains a new token.

    Args:
        authority: The object that creates and checks tokens.
        path: The file of the token; None if the user gets the token without a file. A token without a file is never
            replaced.
        retry_s: The seconds to wait before another try if the file cannot be written, for example on a full disk.

    Attributes:
        secret: The text of the token, with which a program authenticates.
    """

    def __init__(self, authority: Authority, path: Path | None, retry_s: float = 10.0) -> None:
        self._authority = authority
        self._retry_s = retry_s
        self._path = path
        self._token_id = ""
        # A new token of the admin that is not yet written to its file. None if the file is up to date.
        self._unwritten: tuple[Token, str] | None = None
        self._renew_at_s = 0.0
        self.secret = ""
        self._make()

    async def renew(self) -> None:
        """Check the token regularly, and replace it in the file when needed, until the cluster ends."""
        if self._path is None:
            return
        is_written = True
        while True:
            revocation = self._authority.next_revocation()
            is_due = self._authority.is_revoked(self._token_id) or self._renew_at_s <= wall_s()
            if is_due or not is_written:
                is_written = self._try_to_make()
            if is_written:
                await happens(revocation, _CHECK_S)
            else:
                await happens(revocation, self._retry_s)

    def _try_to_make(self) -> bool:
        try:
            self._make()
        except (IrisError, OSError) as error:
            _log.error("the token of this cluster's user cannot be renewed for now: %s", error)
            return False
        return True

    def _make(self) -> None:
        ttl_s = MAX_TTL_S if self._path is None else DEFAULT_TTL_S
        if self._unwritten is None or self._authority.is_revoked(self._unwritten[0].token_id):
            request = cluster_pb2.Controller.CreateTokenRequest(name=user_name(), role=ADMIN, ttl_seconds=ttl_s)
            self._unwritten = self._authority.create_token(request)
        token, secret = self._unwritten
        if self._path is not None:
            write_secret(self._path, f"{secret}\n")
        self._unwritten = None
        self._token_id, self.secret = token.token_id, secret
        self._renew_at_s = token.expires_at_ms / 1000 - ttl_s / 2


def user_name() -> str:
    """Return the name of the user who runs this process."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return f"uid-{os.getuid()}"
