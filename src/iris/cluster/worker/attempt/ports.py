"""Reserves free ports for attempts until they end.

A process cannot keep a port free for another process that will bind the port later. Therefore two rules protect a
reserved port. First, all reserved ports lie below the range from which the kernel chooses the ports of outgoing
connections. Second, each reserved port has a lock file. The lock prevents another worker on this machine, even of
another cluster, from reserving the same port. The kernel releases a lock when its process ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from iris.errors import ResourceExhaustedError
from iris.system.locks import try_lock
from iris.system.sockets import bind_addresses

FIRST_PORT = 20000
_TRIES = 2000


class PortReservations:
    """The ports that this process has reserved.

    Args:
        host: The address to which tasks will bind.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._locks: dict[int, int] = {}  # For each reserved port, the descriptor of its lock file.
        self._directory: Path | None = None
        self._last_port = _first_ephemeral_port() - 1

    def reserve(self, *, everywhere: bool = False) -> int:
        """Reserve a port that is free on this machine and not reserved by another worker.

        Args:
            everywhere: Whether the port must be free at all addresses of the machine, and not only at the address
                `host`.

        Raises:
            ResourceExhaustedError: No free port was found.
        """
        for _ in range(_TRIES):
            port = random.randint(FIRST_PORT, self._last_port)
            if self._try(port, lambda port: _is_free_everywhere(port) if everywhere else _is_free(self._host, port)):
                return port
        where = "all addresses" if everywhere else self._host
        raise ResourceExhaustedError(
            f"no free port between {FIRST_PORT} and {self._last_port} on {where} ({_TRIES} tried)"
        )

    def reserve_again(self, port: int) -> int:
        """Reserve the port of an earlier attempt for a retry, and return the port. Return 0 if the port is not free.

        While connections of the earlier attempt are still being closed, the port does not count as free, because some
        servers could not bind the port.
        """
        is_known = FIRST_PORT <= port <= self._last_port
        return port if is_known and self._try(port, lambda port: _is_free(self._host, port, strictly=True)) else 0

    def _try(self, port: int, is_free: Callable[[int], bool]) -> bool:
        """Reserve a port if no other attempt has reserved the port and `is_free` returns True. Return whether the port
        was reserved.
        """
        self._directory = self._directory or _lock_directory()
        if port in self._locks:
            return False
        lock = try_lock(self._directory / str(port))
        if lock is None:
            return False
        try:
            if is_free(port):
                self._locks[port] = lock
        finally:
            if port not in self._locks:
                os.close(lock)
        return port in self._locks

    def release(self, port: int) -> None:
        """Release the port of an attempt that has ended."""
        lock = self._locks.pop(port, None)
        if lock is not None:
            os.close(lock)


def _lock_directory() -> Path:
    """Return the directory of lock files that all workers of this user share. If the name of the shared directory
    belongs to a file, a link, or a directory of another user, this worker uses its own directory.
    """
    directory = Path(tempfile.gettempdir()) / f"iris-ports-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.lstat().st_uid == os.getuid() and not directory.is_symlink():
            return directory
    return Path(tempfile.mkdtemp(prefix="iris-ports-"))


def _is_free(host: str, port: int, *, strictly: bool = False) -> bool:
    """Return whether a port can be bound. A port whose last connections are still being closed (TIME_WAIT) counts as
    free, unless `strictly` is set.
    """
    family, place = bind_addresses(host, port)[0]
    with socket.socket(family) as probe:
        # With SO_REUSEADDR, even a port in the state TIME_WAIT can be bound.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0 if strictly else 1)
        try:
            probe.bind(place)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _is_free_everywhere(port: int) -> bool:
    """Return whether a port is free at each IPv4 address, and at each IPv6 address if the machine has IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return _is_free("0.0.0.0", port)
    return _is_free("0.0.0.0", port) and _is_free("::", port)


def _first_ephemeral_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
    return first if first > FIRST_PORT + 1000 else 65536
