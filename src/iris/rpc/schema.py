"""Reads the schema of the wire, the proto files from which the code of clients in other languages is generated."""

from __future__ import annotations

from pathlib import Path

import iris

# The schema in an installed package, and the schema in a checkout whose package is installed for development.
_PLACES = (Path(iris.__file__).parent / "proto", Path(iris.__file__).parents[2] / "proto")


def schema_files() -> dict[str, bytes]:
    """Return the proto files by their import paths, for example `iris/rpc/cluster.proto`."""
    root = next(place for place in _PLACES if place.is_dir())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.proto"))}
