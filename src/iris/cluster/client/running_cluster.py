"""Finds the cluster that `iris up` has started for this user on this machine, with its token and certificate."""

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
from iris.system.files import read_secret
from iris.system.private_dir import check_owned
from iris.system.process_identity import identify_process, own_place, runs_program


def state_home() -> Path:
    """Return the default state directory: `$XDG_STATE_HOME/iris`, or `~/.local/state/iris`.

    Raises:
        FailedPreconditionError: This user has no home directory, for example in a container.
    """
    # A relative path is ignored, as the XDG base directory specification requires.
    given = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "iris"
    home = user_home()
    if home is None:
        raise FailedPreconditionError(
            "there is no directory for the state of a cluster, because this user has no home directory: set HOME or"
            " XDG_STATE_HOME to a writable directory"
        )
    return home / ".local" / "state" / "iris"


def user_home() -> Path | None:
    """Return the home directory of this user, or None if there is none, for example in a container."""
    home = os.path.expanduser("~") if os.environ.get("HOME") else _home_of_user()
    return Path(home) if os.path.isabs(home) else None


def record_path() -> Path:
    """Return the path at which `iris up` writes its record (see cli/cluster/cluster_record.py). Several machines may
    share a home directory but have different clusters. Therefore each machine has a separate file.

    Raises:
        FailedPreconditionError: This user has no home directory.
    """
    return state_home() / f"up-{socket.gethostname()}.json"


def find_record() -> tuple[Path, dict[str, Any]] | None:
    """Return the path and the content of this machine's record, or None if `iris up` has started no cluster.

    The machine may have been renamed since the record was written. Therefore this function tries three kinds of
    records, in this order: a record of a process that runs on this machine, the record with this machine's name, and a
    record that was written after the start of this machine.

    Raises:
        FailedPreconditionError: Another user owns the record or may write to it, so it cannot be trusted.
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


def home_stamp(path: Path) -> str:
    """Return the inode of a record's lock file as text, or an empty string if there is no lock file. A renamed or
    remounted file keeps its inode, but a copy has another inode."""
    try:
        return str(os.stat(lock_path(path)).st_ino)
    except OSError:
        return ""


def lock_path(path: Path) -> Path:
    """Return the path of the lock file that belongs to a record of `iris up`."""
    return path.with_suffix(".lock")


def is_running(record: Mapping[str, Any]) -> bool:
    """Return whether the process of a record runs on this machine. Return False if the process id now belongs to
    another process."""
    pid, process = record.get("pid"), record.get("process")
    return (
        isinstance(pid, int) and bool(process) and identify_process(pid) == process and runs_program(pid, "iris.server")
    )


def _home_of_user() -> str:
    """Return the home directory of this user from the system's user database, or an empty string if the database does
    not contain the user.
    """
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError, AttributeError):
        return "" if hasattr(os, "getuid") else os.path.expanduser("~")


@dataclass(frozen=True, slots=True)
class Here:
    """The facts needed to connect to the cluster that `iris up` has started on this machine.

    Attributes:
        state_dir: The state directory of the cluster.
        tls_cert: The file with the cluster's certificate. Empty: the cluster does not use TLS.
        client_ca: The file with the certificates that sign client certificates. Empty: clients need no certificate.
        engine: The name of the engine, as in `iris up --engine`.
    """

    state_dir: Path
    tls_cert: str = ""
    client_ca: str = ""
    engine: str = "local"

    def token(self) -> str | None:
        """Return the token of the user who has started the cluster, or None if there is no token.

        Raises:
            FailedPreconditionError: Other users can read the file with the token.
        """
        return read_secret(self.state_dir / TOKEN_FILE)

    def tls(self) -> ClientTls:
        """Return the TLS settings for calls to the cluster: the certificate to trust, and the client certificate of the
        user who has started the cluster.
        """
        return ClientTls(self.tls_cert, str(self.state_dir / PART_FILE) if self.client_ca else "")


def find_here(address: str) -> Here | None:
    """Return the cluster that `iris up` has started on this machine, or None if the cluster has another address.

    If the server of the cluster has ended, the result is None. A program of another user may now listen at the port,
    and that program must not get the token.

    Raises:
        FailedPreconditionError: Another user owns the record of the cluster or may write to it.
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
    except (ValueError, TypeError, KeyError, AttributeError):  # The record of `iris up` is invalid, and is ignored.
        return None


def find_token(address: str) -> str | None:
    """Return the token of the cluster that `iris up` has started on this machine, or None if the cluster has another
    address.

    Raises:
        FailedPreconditionError: Other users can read the file with the token, or may write to the record of the
            cluster.
    """
    here = find_here(address)
    return None if here is None else here.token()


def _leads_to(address: str, record: Mapping[str, Any]) -> bool:
    """Return whether an address is the advertised address of a cluster, or the address at which the cluster listens."""

    def plain(url: str) -> str:
        return url.lower().replace("//localhost:", "//127.0.0.1:")

    if plain(address) == plain(record["address"]):
        return True
    given, host = urlsplit(plain(address)), record["host"].lower()
    if (given.scheme, given.port) != ("https" if record.get("tls_cert") else "http", record["port"]):
        return False
    return is_loopback(address) if is_wildcard(host) else given.hostname == host.replace("localhost", "127.0.0.1")
