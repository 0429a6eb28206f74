"""Who listens on this machine's loopback: any of its users can, on a port that a server of ours has left.

A server that was killed leaves its port to whoever takes it, and clients and workers would go on showing it their
tokens. TLS has certificates against that; without it, the kernel knows whose program it is.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlsplit

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from iris.rpc.address import is_loopback

# sock_diag(7)
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = 1  # NLM_F_REQUEST
_LISTEN = 10  # TCP_LISTEN
_ANY_COOKIE = (0xFFFFFFFF, 0xFFFFFFFF)
_UID_AT = 16 + 4 + 48 + 12  # behind struct nlmsghdr, and of struct inet_diag_msg: four bytes, the id, and three numbers
_ANSWER_S = 1.0  # the kernel answers at once


class Neighbour:
    """The user whose program has to be the one that listens at an address. Says nothing of addresses that are not
    loopback, or that have TLS, nor where the kernel does not tell.

    Args:
        address: A base URL.
        among: The users that it may be; default: who it is now, or the first time, and from then on nobody else.

    Attributes:
        user: Who it was when it was last as it should be; None: nobody has listened yet, or it is not known.
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
        """Raises ConnectError when somebody else listens: before a token is shown."""
        stranger = self._stranger()
        if stranger is not None:
            raise ConnectError(
                Code.UNAVAILABLE,
                f"a program of another user of this machine (uid {stranger}) listens there; no token was shown to it",
            )

    def _stranger(self) -> int | None:
        if self._is_open:
            return None
        for uid in _listeners(*self._place):
            first = uid if self.user is None else self.user
            expected = {first} if self._among is None else set(self._among())
            # Root can read all tokens of this machine anyway, and serves ports for others.
            if uid not in expected | {0}:
                return uid
            if self.user is None or self._among is not None:
                self.user = uid
        return None


def own() -> Iterable[int]:
    """Ourselves."""
    return (os.geteuid(),)


def _listeners(host: str, port: int) -> Iterator[int]:
    """The users whose programs listen at a port, under any address that a host of the loopback may mean."""
    if sys.platform != "linux":
        return
    for address in ("127.0.0.1", "::1") if host == "localhost" else (host,):
        try:
            uid = _listener(address, port)
        except OSError:  # no such address, or a system that does not tell
            continue
        if uid is not None:
            yield uid


def _listener(host: str, port: int) -> int | None:
    """The user whose program a connection to a port would come to; None: nobody's, or it is not known."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = socket.inet_pton(family, host).ljust(16, b"\0")
    # struct nlmsghdr, struct inet_diag_req_v2 with its struct inet_diag_sockid: as if from the same address, port 0.
    body = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, 1 << _LISTEN)
    body += struct.pack("!HH", port, 0) + address + address + struct.pack("=III", 0, *_ANY_COOKIE)
    head = struct.pack("=IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_ANSWER_S)
        kernel.send(head + body)
        answer = kernel.recv(4096)
    _, kind, *_ = struct.unpack_from("=IHHII", answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        return None  # an error: most often that nobody listens
    _, state = struct.unpack_from("=BB", answer, 16)
    (uid,) = struct.unpack_from("=I", answer, _UID_AT)
    return int(uid) if state == _LISTEN else None
