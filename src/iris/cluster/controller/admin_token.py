"""The token of who started the cluster: in a file that only they can read, and renewed while the cluster is up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
from pathlib import Path

from iris.cluster.controller.authority import DEFAULT_TTL_S, MAX_TTL_S, Authority
from iris.errors import IrisError
from iris.rpc import cluster_pb2
from iris.rpc.caller import ADMIN
from iris.rpc.process import happens
from iris.rpc.secret_file import write_secret

_log = logging.getLogger(__name__)


class AdminToken:
    """Makes it, and replaces it when half of its time is over, or when it was revoked: what was copied from the file
    is of no use then, and who reads the file is let in.

    Args:
        authority: Makes tokens.
        path: The file; None: it is handed to who started the cluster, is kept nowhere, and lasts as long as that.

    Attributes:
        secret: The token.
    """

    def __init__(self, authority: Authority, path: Path | None) -> None:
        self._authority = authority
        self._path = path
        self._token_id = ""
        self._revoked = asyncio.Event()
        self.secret = ""
        self._make()
        authority.on_revoked = self._look

    async def renew(self) -> None:
        """Keeps the file good, for as long as the cluster is up."""
        if self._path is None:
            return
        while True:
            await happens(self._revoked, DEFAULT_TTL_S / 2)
            self._revoked.clear()
            try:
                self._make()
            except IrisError as error:
                _log.error("the token of this cluster's user cannot be renewed: %s", error)

    def _look(self, token_id: str) -> None:
        if token_id == self._token_id:
            self._revoked.set()

    def _make(self) -> None:
        ttl_s = MAX_TTL_S if self._path is None else DEFAULT_TTL_S
        request = cluster_pb2.Controller.CreateTokenRequest(name=user_name(), role=ADMIN, ttl_seconds=ttl_s)
        token, secret = self._authority.create_token(request)
        if self._path is not None:
            write_secret(self._path, f"{secret}\n")
        self._token_id, self.secret = token.token_id, secret


def user_name() -> str:
    """Who we are on this machine."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return f"uid-{os.getuid()}"
