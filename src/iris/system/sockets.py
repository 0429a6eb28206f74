"""Opens the sockets of servers, and finds the addresses of this machine. This module imports nothing heavy, because a
server binds its port before it loads the rest of its code.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from iris.errors import FailedPreconditionError


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Connections wait in the socket until a server accepts them.

    Args:
        host: The address to bind to, or a name of this machine. If a name has addresses of both families, the IPv4
            address is bound.
        port: The port. 0 selects a free port.

    Raises:
        FailedPreconditionError: The port is in use or reserved, or the name has no address of this machine.
    """
    try:
        addresses = bind_addresses(host, port)
    except (OSError, ValueError) as unknown:
        raise _cannot_listen(host, port, unknown) from unknown
    failure: OSError | None = None
    for family, address in addresses:
        try:
            # The socket is created with the number of the protocol TCP, because the loop of asyncio turns Nagle's
            # algorithm off only for such sockets. With the algorithm, each call to a server without uvloop would take
            # 40 ms.
            listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        except OSError as error:  # the machine has no IPv6
            failure = error
            continue
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError as error:
            listener.close()
            failure = error
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                # Another program listens at the first address of the name. Clients that use the name try this address
                # first and would reach the other program. Therefore no further address of the name is bound.
                break
        else:
            return listener
    assert failure is not None, "a name that resolves has an address"
    raise _cannot_listen(host, port, failure) from failure


def bind_addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """Return the addresses of a host and a port for `socket.bind`: pairs of address family and address, IPv4 first.

    Raises:
        OSError: The name does not resolve.
        ValueError: The port is not between 0 and 65535, or the host is not a name.
    """
    if not 0 <= port <= 65535:
        # The port is checked here, because getaddrinfo accepts any number and takes it modulo 65536.
        raise ValueError(f"the port must be between 0 and 65535, got {port}")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses: set[tuple[int, Any]] = {(int(family), address) for family, _, _, _, address in found}
    return sorted(addresses, key=lambda one: one[0] != socket.AF_INET)


def _cannot_listen(host: str, port: int, error: Exception) -> FailedPreconditionError:
    reason = getattr(error, "strerror", None) or str(error)
    return FailedPreconditionError(f"cannot listen on {host}:{port}: {reason} (another port, or 0 for any free one)")


def port_of(listener: socket.socket) -> int:
    """Return the port on which a socket listens."""
    return int(listener.getsockname()[1])


def address_of(listener: socket.socket) -> str:
    """Return the base URL of a socket that listens, for clients on this machine."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def own_host_towards(other: str) -> str:
    """Return the address from which this machine would call the host `other`.

    The other machine can most likely call this machine at the returned address. The result comes from the routing
    table, and nothing is sent.

    Raises:
        FailedPreconditionError: There is no route to `other`.
    """
    try:
        family, _, _, _, target = socket.getaddrinfo(other, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        reason = error.strerror or str(error)
        raise FailedPreconditionError(
            f"this machine has no address by which it could call {other}: {reason}"
        ) from error
