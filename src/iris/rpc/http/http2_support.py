"""Determines whether this installation can speak HTTP/2."""

from __future__ import annotations

import importlib.util
from functools import cache


@cache
def has_http2() -> bool:
    """Return whether the library `h2` is installed, which clients and servers need for HTTP/2."""
    return importlib.util.find_spec("h2") is not None
