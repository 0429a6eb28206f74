"""The cluster that `iris up` has started for this user on this machine, as far as a client has to know of it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from iris.rpc.address import is_loopback, is_wildcard
from iris.rpc.credentials import TOKEN_FILE
from iris.rpc.identity import identify_process
from iris.rpc.private_dir import check_owned
from iris.rpc.secret_file import read_secret
from iris.rpc.tls import PART_FILE, ClientTls


def state_home() -> Path:
    """`$XDG_STATE_HOME/iris`, or `~/.local/state/iris`: the default state directory."""
    home = os.environ.get("XDG_STATE_HOME", "")
    # A relative path is to be ignored, says the XDG base directory specification.
    return (Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state") / "iris"


def record_path() -> Path:
    """Where `iris up` notes it, see cli/record.py. One for each machine: home directories are shared between machines,
    clusters are not."""
    return state_home() / f"up-{socket.gethostname()}.json"


def read_up() -> Mapping[str, Any]:
    """Return what `iris up` has noted of its cluster, as JSON; empty where there is nothing, or nothing of ours.

    Raises:
        FailedPreconditionError: Another user owns the note or may write it, so what it names is not to be trusted.
    """
    path = record_path()
    try:
        check_owned(path)
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


@dataclass(frozen=True, slots=True)
class Here:
    """What a client needs to know of the cluster of `iris up`.

    Attributes:
        state_dir: Where everything of it lies.
        tls_cert: The certificate that it shows; empty: it has none.
        client_ca: By what it knows those of clients; empty: they need none.
        engine: What gives its tasks their places, see `iris up --engine`.
    """

    state_dir: Path
    tls_cert: str = ""
    client_ca: str = ""
    engine: str = "local"

    def token(self) -> str | None:
        """The token of who has started it; None when it has none.

        Raises:
            FailedPreconditionError: Others can read the file that it is in.
        """
        return read_secret(self.state_dir / TOKEN_FILE)

    def tls(self) -> ClientTls:
        """How it is known, and what it has for who has started it."""
        return ClientTls(self.tls_cert, str(self.state_dir / PART_FILE) if self.client_ca else "")


def find_here(address: str) -> Here | None:
    """The cluster at an address, where that is the one that `iris up` has started here; else None.

    Its process has to run: another user's program may have taken the port of one that is gone, and would be told.

    Raises:
        FailedPreconditionError: Another user may have written what is noted of the cluster of `iris up`.
    """
    try:
        record = read_up()
        process = record["process"]
        ours = _leads_to(address, record)
        if not ours or not process or identify_process(record["pid"]) != process:
            return None
        files = record.get("tls_cert", ""), record.get("client_ca", "")
        return Here(Path(record["state_dir"]), *files, record.get("engine", "local"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, or not one of ours
        return None


def find_token(address: str) -> str | None:
    """The token of the cluster at an address, where that is the one that `iris up` has started here; else None.

    Raises:
        FailedPreconditionError: Others can read the file that it is in, or may have written what is noted of the
            cluster of `iris up`.
    """
    here = find_here(address)
    return None if here is None else here.token()


def _leads_to(address: str, record: Mapping[str, Any]) -> bool:
    """By the address that it advertises, or straight to where it is bound."""

    def plain(url: str) -> str:
        return url.lower().replace("//localhost:", "//127.0.0.1:")

    if plain(address) == plain(record["address"]):
        return True
    given, host = urlsplit(plain(address)), record["host"].lower()
    if (given.scheme, given.port) != ("https" if record.get("tls_cert") else "http", record["port"]):
        return False
    return is_loopback(address) if is_wildcard(host) else given.hostname == host.replace("localhost", "127.0.0.1")
