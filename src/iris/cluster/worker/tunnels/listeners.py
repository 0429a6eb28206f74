"""Finds the sockets that listen on a port of this machine, and the processes that own them, in /proc (see proc(5))."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_LISTENING = "0A"  # The state of a listening socket in /proc/net/tcp.


class Listener(NamedTuple):
    """A listening socket.

    Attributes:
        inode: The number by which processes refer to the socket.
        hosts: The addresses of this machine at which the socket can be reached, the best one first.
    """

    inode: int
    hosts: tuple[str, ...]


def find_listeners(port: int) -> list[Listener]:
    """Return the TCP sockets that listen on a port. The call reads the table of all connections, so call it in a
    thread.
    """
    return [Listener(inode, _hosts(_address(host))) for number, inode, host in _listening() if number == port]


def listening_ports(pids: Iterable[int]) -> list[int]:
    """Return the TCP ports on which the processes listen, in ascending order. Call the function in a thread."""
    ports = {inode: port for port, inode, _ in _listening()}
    return sorted({ports[inode] for inode in own_sockets(pids, ports)})


def _listening() -> Iterator[tuple[int, int, str]]:
    """Yield the port, the inode and the hexadecimal address of each listening TCP socket of this machine."""
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/self/net/{name}", encoding="ascii") as file:
                lines = file.readlines()[1:]
        except OSError:  # The machine may have no IPv6.
            continue
        for line in lines:
            fields = line.split()
            host, _, hexadecimal = fields[1].rpartition(":")
            if fields[3] == _LISTENING:
                yield int(hexadecimal, 16), int(fields[9]), host


def own_sockets(pids: Iterable[int], inodes: Iterable[int]) -> set[int]:
    """Return the inodes of the given sockets that at least one of the given processes has open. The call may block, so
    call it in a thread.
    """
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: set[int] = set()
    for pid in pids:
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        # A process that has ended, or that belongs to another user, is skipped, because its descriptors cannot be read.
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                inode = wanted.get(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
            except OSError:
                continue
            if inode is not None:
                found.add(inode)
        if len(found) == len(wanted):
            break
    return found


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address that /proc/net/tcp shows as hexadecimal words in the byte order of the machine."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    return ipaddress.ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))


def _hosts(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[str, ...]:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not address.is_unspecified:
        return (str(address),)
    # A socket at all addresses of IPv6 usually accepts IPv4, too. A machine may lack the loopback address of IPv6.
    return ("127.0.0.1",) if address.version == 4 else ("::1", "127.0.0.1")
