"""The names of a cluster's gangs and workers on Ray, by which the next engine finds them. The names contain the
cluster's id, because other clusters and other programs use the same Ray cluster.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from iris.system.files import write_file

_READABLE = re.compile(r"[^A-Za-z0-9_.@-]")
_LONGEST = 100


def load_or_make_cluster_id(directory: Path) -> str:
    """Return the id of the cluster that is stored in a directory. The first call creates the id. A cluster's id never
    changes, because the names of existing placement groups and actors contain the id.
    """
    path = directory / "cluster-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        write_file(path, f"{secrets.token_hex(4)}\n")
        return path.read_text().strip()


def namespace_of(cluster_id: str) -> str:
    """Return the Ray namespace of a cluster's actors."""
    return f"iris-{cluster_id}"


def group_of(cluster_id: str, gang_id: str) -> str:
    """Return the name of a gang's placement group. A placement group's name contains the cluster's id, because Ray
    lists the placement groups of all namespaces in one table.
    """
    return f"iris-{cluster_id}/{gang_id}"


def gang_of(cluster_id: str, group: str) -> str | None:
    """Return the id of the gang with this placement group, or None if the group is not one of the cluster's."""
    prefix = group_of(cluster_id, "")
    return group.removeprefix(prefix) if group.startswith(prefix) else None


def worker_of(gang_id: str, slot: int) -> str:
    """Return the id of a slot's worker, which is also the name of its actor. A worker's id is readable. If the gang's
    id is long or has special characters, a hash keeps the worker's id unique.
    """
    name = _READABLE.sub("_", gang_id)
    if name != gang_id or len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}-{hashlib.sha256(gang_id.encode()).hexdigest()[:8]}"
    return f"{name}.{slot}"
