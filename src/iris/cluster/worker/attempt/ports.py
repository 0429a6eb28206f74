"""Ports that are free, and stay reserved for an attempt until it has ended.

Nobody can hold a port for another process that is still to bind it, so a reservation has two halves: the ports come
from below the range that the kernel deals out to outgoing connections, and a lock file per port keeps the workers of
this machine, also those of other clusters, from giving out the same one. A lock goes with the process that holds it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import tempfile
from pathlib import Path

from iris.errors import ResourceExhaustedError
from iris.system.locks import try_lock
from iris.system.sockets import bind_addresses

FIRST_PORT = 20000
_TRIES = 2000


class PortReservations:
    """The ports that this process has given out.

    Args:
        host: The address that tasks will bind to.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._locks: dict[int, int] = {}  # port -> file descriptor that holds its lock
        self._directory: Path | None = None  # made with the first port: most jobs ask for none
        self._last_port = _first_ephemeral_port() - 1

    def reserve(self, *, everywhere: bool = False) -> int:
        """A port that nobody listens on and nobody else was given.

        Args:
            everywhere: It will be bound at all addresses of the machine, not at the host alone.

        Raises:
            ResourceExhaustedError: None was found.
        """
        self._directory = self._directory or _lock_directory()
        for _ in range(_TRIES):
            port = random.randint(FIRST_PORT, self._last_port)
            if port in self._locks:
                continue
            lock = try_lock(self._directory / str(port))
            if lock is None:
                continue
            try:
                if _is_free_everywhere(port) if everywhere else _is_free(self._host, port):
                    self._locks[port] = lock
                    return port
            finally:
                if port not in self._locks:
                    os.close(lock)
        where = "all addresses" if everywhere else self._host
        raise ResourceExhaustedError(
            f"no free port between {FIRST_PORT} and {self._last_port} on {where} ({_TRIES} tried)"
        )

    def release(self, port: int) -> None:
        """The attempt that had the port has ended."""
        lock = self._locks.pop(port, None)
        if lock is not None:
            os.close(lock)


def _lock_directory() -> Path:
    """One for all workers of this user on this machine; one of our own where somebody else has taken that name."""
    directory = Path(tempfile.gettempdir()) / f"iris-ports-{os.getuid()}"
    with contextlib.suppress(FileExistsError):  # it is no directory
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.lstat().st_uid == os.getuid() and not directory.is_symlink():
            return directory
    return Path(tempfile.mkdtemp(prefix="iris-ports-"))


def _is_free(host: str, port: int) -> bool:
    family, place = bind_addresses(host, port)[0]
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT can be bound as well
        try:
            probe.bind(place)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _is_free_everywhere(port: int) -> bool:
    """At each address of IPv4, and of IPv6 where the machine has that."""
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
