"""Reads the schema of the wire, the proto files from which the code of clients in other languages is generated."""

from __future__ import annotations

from pathlib import Path

# The folders that may contain the proto files: first the folder of an installed package, then the folder of a checkout
# of the repository.
_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "proto", _PACKAGE.parents[1] / "proto")


def schema_files() -> dict[str, bytes]:
    """Return the proto files by their import paths, for example `iris/rpc/cluster.proto`."""
    root = next(place for place in _PLACES if place.is_dir())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.proto"))}
