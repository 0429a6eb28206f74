"""Finds ports of loopback for programs that cannot bind to port 0."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return the number of a port of loopback that no program uses now. Another program may take the port later."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
