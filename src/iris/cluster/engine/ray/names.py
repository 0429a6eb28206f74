"""What the gangs of a cluster are called on Ray, which others use too: by these names they are found again."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

_READABLE = re.compile(r"[^A-Za-z0-9_.@-]")
_LONGEST = 100


def load_or_make_cluster_id(directory: Path) -> str:
    """The id of the cluster that is kept in a directory: made once, since what Ray still holds bears it."""
    path = directory / "cluster-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        beside = path.with_name("cluster-id.new")
        beside.write_text(f"{secrets.token_hex(4)}\n")
        beside.rename(path)
        return path.read_text().strip()


def namespace_of(cluster_id: str) -> str:
    """The Ray namespace of its actors."""
    return f"iris-{cluster_id}"


def group_of(cluster_id: str, gang_id: str) -> str:
    """The name of a gang's placement group; a table of those of all namespaces is all that Ray tells."""
    return f"iris-{cluster_id}/{gang_id}"


def gang_of(cluster_id: str, group: str) -> str | None:
    """The gang whose placement group has this name; None: it is not of this cluster."""
    prefix = group_of(cluster_id, "")
    return group.removeprefix(prefix) if group.startswith(prefix) else None


def worker_of(gang_id: str, slot: int) -> str:
    """The worker of a slot, and the actor that holds it. Readable, and unique also where the gang's id is long."""
    name = _READABLE.sub("_", gang_id)
    if name != gang_id or len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}-{hashlib.sha256(gang_id.encode()).hexdigest()[:8]}"
    return f"{name}.{slot}"
