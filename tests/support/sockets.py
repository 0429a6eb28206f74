"""TCP connections of this machine, and the bytes that the kernel holds for them.

The connections are counted from /proc/net/tcp, because `psutil.net_connections` reads the descriptors of all processes
on the machine, which takes 20 ms of CPU time. A test that waits for the end of a connection asks many times.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
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


def undelivered_bytes(connection: socket.socket) -> int:
    """Return how many sent bytes have not arrived at the kernel of the other end."""
    return _ask_kernel(connection, termios.TIOCOUTQ)


def unread_bytes(connection: socket.socket) -> int:
    """Return how many bytes have arrived that the program has not read."""
    return _ask_kernel(connection, termios.FIONREAD)


def _ask_kernel(connection: socket.socket, request: int) -> int:
    return int.from_bytes(fcntl.ioctl(connection.fileno(), request, bytes(4)), sys.byteorder)
