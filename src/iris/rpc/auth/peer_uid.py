"""Asks the kernel which user's program is at the other end of a connection over this machine's loopback.

A client makes this check before it sends a token. When a server is killed, any user of the machine can bind the
server's port. Clients and workers would then send their tokens to that user's program. With TLS, certificates prevent
such an attack. Without TLS, this module asks the kernel which user's program listens on the port.

A controller also asks the kernel which user's browser makes a call in a web session. Therefore another user of the
machine cannot use a stolen cookie or a stolen sign-in code.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlsplit

from connectrpc.code import Code

from iris.reasons import ErrorReason
from iris.rpc.address import is_loopback
from iris.rpc.error_details import connect_error

# sock_diag(7)
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
# The kernel names the next three numbers NLM_F_REQUEST, TCP_ESTABLISHED and TCP_LISTEN.
_REQUEST = 1
_ESTABLISHED = 1
_LISTEN = 10
_ANY_COOKIE = (0xFFFFFFFF, 0xFFFFFFFF)
# The offset of the user id in the kernel's answer. The answer begins with a struct nlmsghdr and a struct inet_diag_msg.
# In the second struct, the user id follows four single bytes, the socket's id, and three 32-bit numbers.
_UID_AT = 16 + 4 + 48 + 12
_ANSWER_S = 1.0  # The longest time in seconds to wait for the kernel, which usually answers at once.


class PeerUidCheck:
    """Checks that the program at an address belongs to an expected user.

    The check accepts every program in three cases: the address is not a loopback address, the address uses TLS, or the
    kernel of this system does not report which user's program listens.

    Args:
        address: The base URL of the server.
        among: A function that returns the accepted users. By default, only the user whose program was found first is
            accepted.

    Attributes:
        user: Without `among`, the user whose program was found first. With `among`, the user whose program passed the
            last check. None if no program has been found yet.
    """

    def __init__(self, address: str, among: Callable[[], Iterable[int]] | None = None) -> None:
        parts = urlsplit(address)
        self._place = (parts.hostname or "", parts.port or 80)
        self._is_open = parts.scheme != "http" or not is_loopback(address)
        self._among = among
        self.user: int | None = None
        if among is None:
            self._stranger()

    def check(self) -> None:
        """Check which user's program listens at the address. Call this before a token is sent.

        Raises:
            ConnectError: A program of another user listens at the address.
        """
        stranger = self._stranger()
        if stranger is not None:
            raise connect_error(
                Code.UNAVAILABLE,
                f"a program of another user of this machine (uid {stranger}) listens at the address; no token was sent",
                ErrorReason.UNAVAILABLE,
            )

    def _stranger(self) -> int | None:
        if self._is_open:
            return None
        for uid in _listeners(*self._place):
            first = uid if self.user is None else self.user
            expected = {first} if self._among is None else set(self._among())
            # A program of root is accepted, because root can read every token on this machine anyway, and may serve
            # ports for other users.
            if uid not in expected | {0}:
                return uid
            if self.user is None or self._among is not None:
                self.user = uid
        return None


def own() -> Iterable[int]:
    """Return the id of the user who runs this process."""
    return (os.geteuid(),)


def _listeners(host: str, port: int) -> Iterator[int]:
    """Yield the users whose programs listen at a port, on every address of the host."""
    if sys.platform != "linux":
        return
    for address in ("127.0.0.1", "::1") if host == "localhost" else (host,):
        try:
            uid = _listener(address, port)
        except OSError:  # Skip the address, because the machine lacks it or the kernel does not answer.
            continue
        if uid is not None:
            yield uid


def client_uid(client: tuple[str, int] | None, server: tuple[str, int] | None) -> int | None:
    """Return the user whose program has opened a connection to this process.

    Args:
        client: The address and port of the client's end of the connection, or None if they are not known.
        server: The address and port of this process's end of the connection, or None if they are not known.

    Returns:
        The user's id. None if the client is on another machine, or if the kernel does not report the user.
    """
    if sys.platform != "linux" or client is None or server is None:
        return None
    try:
        ends = [(ipaddress.ip_address(host), port) for host, port in (client, server)]
    except ValueError:
        # The kernel finds users by IP addresses only. The host may be a name, or be missing for a Unix socket.
        return None
    # A server's socket that accepts both families shows an IPv4 address in its IPv6 form. The address is converted to
    # IPv4, because the client's own socket usually has the IPv4 form.
    plain = [(getattr(host, "ipv4_mapped", None) or host, port) for host, port in ends]
    if not all(host.is_loopback for host, _ in plain):
        return None
    (near, near_port), (far, far_port) = ((str(host), port) for host, port in plain)
    try:
        return _socket_uid(near, near_port, far, far_port, _ESTABLISHED)
    except OSError:  # The kernel does not answer, so the user is unknown.
        return None


def _listener(host: str, port: int) -> int | None:
    """Return the user whose program listens at a port. Return None if no program listens, or if the kernel does not
    report the user.
    """
    # To find the listener of a port, the kernel is asked about a connection from the same address and port 0.
    return _socket_uid(host, port, host, 0, _LISTEN)


def _socket_uid(host: str, port: int, other_host: str, other_port: int, state: int) -> int | None:
    """Return the user who owns the TCP socket with these two ends, or None if there is no such socket.

    Args:
        host: The address of the socket.
        port: The port of the socket.
        other_host: The address of the socket's peer.
        other_port: The port of the socket's peer.
        state: The state that the socket must have.

    Raises:
        OSError: The kernel does not answer.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ends = socket.inet_pton(family, host).ljust(16, b"\0") + socket.inet_pton(family, other_host).ljust(16, b"\0")
    # The request is a struct nlmsghdr and a struct inet_diag_req_v2, which contains a struct inet_diag_sockid.
    body = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, 1 << state)
    body += struct.pack("!HH", port, other_port) + ends + struct.pack("=III", 0, *_ANY_COOKIE)
    head = struct.pack("=IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_ANSWER_S)
        kernel.send(head + body)
        answer = kernel.recv(4096)
    _, kind, *_ = struct.unpack_from("=IHHII", answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        return None  # The kernel has answered with an error, which usually means that there is no such socket.
    _, found = struct.unpack_from("=BB", answer, 16)
    (uid,) = struct.unpack_from("=I", answer, _UID_AT)
    return int(uid) if found == state else None
