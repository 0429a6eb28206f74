"""The cluster that `iris up` has started for this user on this machine, as far as a client has to know of it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from iris.errors import FailedPreconditionError
from iris.rpc.address import is_loopback, is_wildcard
from iris.rpc.auth.credentials import TOKEN_FILE
from iris.rpc.http.tls import PART_FILE, ClientTls
from iris.system.private_dir import check_owned
from iris.system.process_identity import identify_process, own_place, runs_program
from iris.system.secret_file import read_secret


def state_home() -> Path:
    """`$XDG_STATE_HOME/iris`, or `~/.local/state/iris`: the default state directory.

    Raises:
        FailedPreconditionError: This user has no home directory, as one that a container has made up.
    """
    # A relative path is to be ignored, says the XDG base directory specification.
    given = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "iris"
    home = os.path.expanduser("~") if os.environ.get("HOME") else _home_of_user()
    if not os.path.isabs(home):
        raise FailedPreconditionError(
            "there is no place for the state of a cluster: this user has no home directory; set HOME or XDG_STATE_HOME"
            " to a directory that you may write to"
        )
    return Path(home) / ".local" / "state" / "iris"


def record_path() -> Path:
    """Return the path at which `iris up` writes its record (see cli/cluster/cluster_record.py).

    Machines may share a home directory but not a cluster, therefore each machine has a file of its own.

    Raises:
        FailedPreconditionError: See `state_home`.
    """
    return state_home() / f"up-{socket.gethostname()}.json"


def find_record() -> tuple[Path, dict[str, Any]] | None:
    """The record of this machine, and its content: of a cluster that runs here, or whose server was killed.

    A machine may have another name by now than when the record was written. In this order: the record whose process
    runs here; the one with this machine's name; one that was written since this machine was started.

    Raises:
        FailedPreconditionError: Another user owns it or may write it, so what it names is not to be trusted.
    """
    try:
        own = record_path()
        paths = [own, *(path for path in sorted(own.parent.glob("up-*.json")) if path != own)]
    except (FailedPreconditionError, OSError):
        return None
    found: list[tuple[Path, dict[str, Any]]] = []
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            check_owned(path)
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict):
                found.append((path, record))
    here = own_place()
    running = [one for one in found if is_running(one[1])]
    named = [one for one in found if one[0] == own]
    since_start = [one for one in found if here and one[1].get("place") == here]
    return next(iter(running + named + since_start), None)


def is_running(record: Mapping[str, Any]) -> bool:
    """Whether the process of a record runs on this machine, and no other that was given its id."""
    pid, process = record.get("pid"), record.get("process")
    return (
        isinstance(pid, int) and bool(process) and identify_process(pid) == process and runs_program(pid, "iris.server")
    )


def _home_of_user() -> str:
    """As the system knows it; empty where it does not know this user."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError, AttributeError):
        return "" if hasattr(os, "getuid") else os.path.expanduser("~")


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
    found = find_record()
    if found is None:
        return None
    record = found[1]
    try:
        if not _leads_to(address, record) or not is_running(record):
            return None
        files = record.get("tls_cert", ""), record.get("client_ca", "")
        return Here(Path(record["state_dir"]), *files, record.get("engine", "local"))
    except (ValueError, TypeError, KeyError, AttributeError):  # it is none of ours
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
