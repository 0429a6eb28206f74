"""The token of who started the cluster: in a file that only they can read, and renewed while the cluster is up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
from pathlib import Path

from iris.cluster.controller.auth.authority import DEFAULT_TTL_S, MAX_TTL_S, Authority, Token
from iris.errors import IrisError
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import ADMIN
from iris.system.clock import wall_s
from iris.system.event_loop import happens
from iris.system.secret_file import write_secret

_LOOK_S = 30.0  # how often the time of the token is looked at
_log = logging.getLogger(__name__)


class AdminToken:
    """Makes it, and replaces it when half of its time is over, or when it was revoked: what was copied from the file
    is of no use then, and who reads the file is let in.

    Args:
        authority: Makes tokens.
        path: The file; None: it is handed to who started the cluster, is kept nowhere, and lasts as long as that.

        retry_s: How long to wait where the file cannot be written: the disk may be full.

    Attributes:
        secret: The token.
    """

    def __init__(self, authority: Authority, path: Path | None, retry_s: float = 10.0) -> None:
        self._authority = authority
        self._retry_s = retry_s
        self._path = path
        self._token_id = ""
        self._revoked = asyncio.Event()
        self._unwritten: tuple[Token, str] | None = None  # made, and not in the file yet
        self._renew_at_s = 0.0
        self.secret = ""
        self._make()
        authority.on_revoked = self._look

    async def renew(self) -> None:
        """Keeps the file good, for as long as the cluster is up."""
        if self._path is None:
            return
        is_made = True
        while True:
            was_revoked = await happens(self._revoked, _LOOK_S if is_made else self._retry_s)
            self._revoked.clear()
            # By the wall clock, as the token's end is: somebody may set it.
            if was_revoked or not is_made or self._renew_at_s <= wall_s():
                is_made = self._is_made()

    def _is_made(self) -> bool:
        try:
            self._make()
        except (IrisError, OSError) as error:
            _log.error("the token of this cluster's user cannot be renewed for now: %s", error)
            return False
        return True

    def _look(self, token_id: str) -> None:
        if token_id == self._token_id:
            self._revoked.set()
        elif self._unwritten is not None and token_id == self._unwritten[0].token_id:
            self._unwritten = None

    def _make(self) -> None:
        ttl_s = MAX_TTL_S if self._path is None else DEFAULT_TTL_S
        request = cluster_pb2.Controller.CreateTokenRequest(name=user_name(), role=ADMIN, ttl_seconds=ttl_s)
        if self._unwritten is None:
            self._unwritten = self._authority.create_token(request)
        token, secret = self._unwritten
        if self._path is not None:
            write_secret(self._path, f"{secret}\n")
        self._unwritten = None
        self._token_id, self.secret = token.token_id, secret
        self._renew_at_s = token.expires_at_ms / 1000 - ttl_s / 2


def user_name() -> str:
    """Who we are on this machine."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return f"uid-{os.getuid()}"
