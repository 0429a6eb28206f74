"""Reads the schema of the wire, the proto files from which the code of clients in other languages is generated."""

from __future__ import annotations

from pathlib import Path

# The schema in an installed package, and the schema in a checkout whose package is installed for development.
_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "proto", _PACKAGE.parents[1] / "proto")


def schema_files() -> dict[str, bytes]:
    """Return the proto files by their import paths, for example `iris/rpc/cluster.proto`."""
    root = next(place for place in _PLACES if place.is_dir())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.proto"))}
