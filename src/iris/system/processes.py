"""What the program of a server needs before it serves: a port, a loop, and to know when its parent is gone.

Nothing heavy is imported here: a program can bind, and start others, before it loads the rest of itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from iris.errors import FailedPreconditionError


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; connections wait in it until somebody serves.

    Args:
        host: The address to bind to, or a name of this machine. Of a name with addresses of both families, the IPv4
            address is bound.
        port: 0 takes a free one.

    Raises:
        FailedPreconditionError: The port is taken or may not be bound, or the name has no address of this machine.
    """
    try:
        places = places_of(host, port)
    except (OSError, ValueError) as unknown:
        raise _cannot_listen(host, port, unknown) from unknown
    failure: OSError | None = None
    for family, place in places:
        try:
            listener = socket.socket(family)
        except OSError as error:  # the machine has no IPv6
            failure = error
            continue
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(2048)
        except OSError as error:
            listener.close()
            failure = error
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                break  # the next address of the name is not the one that users of this name would try first
        else:
            return listener
    assert failure is not None, "a name that resolves has an address"
    raise _cannot_listen(host, port, failure) from failure


def places_of(host: str, port: int) -> list[tuple[int, Any]]:
    """Return what a host and a port mean to `socket.bind`: pairs of address family and address, IPv4 first.

    Raises:
        OSError: The name does not resolve.
        ValueError: The port is not between 0 and 65535, or the host is no name.
    """
    if not 0 <= port <= 65535:
        raise ValueError("the port must be between 0 and 65535")  # getaddrinfo takes any number, modulo 65536
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    places: set[tuple[int, Any]] = {(int(family), place) for family, _, _, _, place in found}
    return sorted(places, key=lambda place: place[0] != socket.AF_INET)


def _cannot_listen(host: str, port: int, error: Exception) -> FailedPreconditionError:
    reason = getattr(error, "strerror", None) or str(error)
    return FailedPreconditionError(f"cannot listen on {host}:{port}: {reason} (another port, or 0 for any free one)")


def port_of(listener: socket.socket) -> int:
    """Where a socket listens."""
    return int(listener.getsockname()[1])


def address_of(listener: socket.socket) -> str:
    """The base URL of a socket that listens, for who is on this machine."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def own_host_towards(other: str) -> str:
    """The address of this machine by which it would call `other`, so by which `other` can most likely call it: asked of
    the routing table; nothing is sent.

    Raises:
        FailedPreconditionError: There is no way there.
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


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Runs a server's program on uvloop where that is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def raise_file_limit() -> None:
    """Lets this process open as many files as it may: each attempt takes a worker four, each reader a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptors() -> int:
    """How many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def use_no_proxy() -> None:
    """Calls between the parts of a cluster take no proxy, whatever the environment says.

    Not `*` alone: connectrpc's transport does not apply that to addresses that are numbers.
    """
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "0.0.0.0/0,::/0,*"


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Waits for an event, at most for so many seconds; whether it has happened.

    Not `asyncio.wait_for`: before Python 3.12 that can swallow the cancellation of who waits.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    return event.is_set()


def when_child_ends(pid: int, then: Callable[[], object]) -> None:
    """Calls `then` on the running loop when a child of ours has ended; who collects it is not our affair."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        if pidfd is not None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        then()

    def look() -> None:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            loop.call_later(1.0, look)  # an old kernel, or a sandbox without the call: look every second
        else:
            ended()

    pidfd: int | None = None
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        look()
    else:
        loop.add_reader(pidfd, ended)


def when_parent_ends(parent_pid: int, then: Callable[[], object]) -> None:
    """Calls `then` on the running loop when our parent is gone, however it ended; also when it is gone already."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        if pidfd is not None:
            loop.remove_reader(pidfd)
        then()

    def look() -> None:
        if os.getppid() != parent_pid:
            then()
        elif pidfd is None:
            loop.call_later(1.0, look)  # an old kernel, or a sandbox without the call: look every second

    pidfd: int | None = None
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(parent_pid)
        loop.add_reader(pidfd, ended)
    look()
