"""Counts TCP connections of this machine from /proc/net/tcp.

`psutil.net_connections` reads the descriptors of all processes on the machine, which takes 20 ms of CPU time. A test
that waits for the end of a connection asks many times.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

ESTABLISHED = "01"
_LISTEN = "0A"


def count_connections(ports: Container[int | None], state: str | None = None) -> int:
    """Return the number of connections over IPv4 that processes hold at local ports, without sockets that listen.

    Args:
        ports: The local ports.
        state: The state of the connections as /proc/net/tcp has it, for example `ESTABLISHED`. None: any state.
    """
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, found, _, _, _, _, _, inode, *_ = line.split()
        port = int(local.rpartition(":")[2], 16)
        is_held = inode != "0"  # The kernel keeps a closed connection for a while, without a process that holds it.
        count += port in ports and is_held and found != _LISTEN and state in (None, found)
    return count
