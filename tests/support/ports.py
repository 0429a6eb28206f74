"""Finds ports of loopback for programs that cannot bind to port 0."""

from __future__ import annotations

import random
import socket

# Linux gives ports from 32768 on to programs that bind to port 0. Such a program, for example the server of another
# test, never takes a port below.
_FIRST, _LAST = 20_000, 32_767


def free_port() -> int:
    """Return the number of a port of loopback that no program uses now."""
    while True:
        port = random.SystemRandom().randint(_FIRST, _LAST)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
