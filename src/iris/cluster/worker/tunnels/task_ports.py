"""Decides which ports of an attempt a client may reach, and connects to them.

A client may reach the ports that the job requested at its submission, and the ports on which a process of the attempt
listens. All other ports are refused. Otherwise a client could use a tunnel to reach the network of the cluster, or the
programs of other users on the same machine. The connection always leads to this machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.limits.process_table import Process
from iris.cluster.worker.tunnels.connector import NotConnectedError, OpenedTunnel
from iris.cluster.worker.tunnels.listeners import find_listeners, listening_ports, own_sockets
from iris.errors import quoted
from iris.rpc import cluster_pb2
from iris.rpc.address import is_wildcard
from iris.rpc.cluster_pb2 import ChannelTarget
from iris.rpc.tunnels.channel import BUFFERED_BYTES
from iris.rpc.tunnels.connections import Streams

# How many seconds the connection of a client waits for the task to listen.
_WAIT_S = 10.0
_CHECK_S = 0.2
_CONNECT_S = 10.0
# For how many seconds further connections to a port use the result of the last search for the process that listens on
# the port.
_KNOWN_S = 2.0
_SHOWN_PORTS = 10
_MAX_KNOWN = 1000

FindProcesses = Callable[[Attempt], Awaitable[list[Process]]]


class TaskPorts:
    """Connects to the ports of this worker's attempts.

    Args:
        find_processes: A function that returns the processes of an attempt.
        hosts: The addresses of this machine to which tasks bind.
        wait_s: How many seconds a connection waits for a process that listens.
    """

    def __init__(self, find_processes: FindProcesses, hosts: Sequence[str], wait_s: float = _WAIT_S) -> None:
        self._find_processes = find_processes
        self._wait_s = wait_s
        own = [host for host in dict.fromkeys(hosts) if host and not is_wildcard(host)]
        self._hosts = tuple(dict.fromkeys(("127.0.0.1", "::1", *own)))
        # The hosts at which an attempt's process listens on a port, and until when they count as known.
        self._known: dict[tuple[int, int], tuple[tuple[str, ...], float]] = {}

    async def connect(self, tunnel: OpenedTunnel, target: ChannelTarget) -> Streams:
        """Connect to a port of an attempt. Wait some seconds if no process listens on the port yet.

        Raises:
            NotConnectedError: The port may not be reached, no process listens on it, or the attempt has ended.
        """
        attempt = tunnel.attempt
        port = _port_of(attempt, target)
        is_requested = port in attempt.ports.values()
        until_s = time.monotonic() + self._wait_s
        while True:
            hosts = await self._hosts_of(attempt, port, is_requested=is_requested)
            if attempt.is_final:
                # No connection is made after the end of the attempt, because its ports may already belong to an attempt
                # of another user.
                raise NotConnectedError(
                    cluster_pb2.CHANNEL_RESET_ATTEMPT_ENDED,
                    f"attempt {attempt.request.attempt_id} of task {attempt.request.task_id} has ended",
                )
            streams = await _connect(hosts, port)
            if streams is not None:
                return streams
            self._known.pop((attempt.number, port), None)
            if time.monotonic() > until_s:
                name = f" ({target.name!r})" if target.name else ""
                raise NotConnectedError(
                    cluster_pb2.CHANNEL_RESET_REFUSED,
                    f"no process of task {attempt.request.task_id} listens on port {port}{name};"
                    f" {await self._listening_text(attempt)}",
                )
            await asyncio.sleep(_CHECK_S)

    async def _listening_text(self, attempt: Attempt) -> str:
        """Return on which ports the attempt's processes listen, for people."""
        pids = [process.pid for process in await self._find_processes(attempt)]
        ports = await asyncio.to_thread(listening_ports, pids)
        more = ", …" if len(ports) > _SHOWN_PORTS else ""
        return f"it listens on {', '.join(map(str, ports[:_SHOWN_PORTS]))}{more}" if ports else "it listens on no port"

    def tunnel_closed(self, tunnel: OpenedTunnel) -> None:
        """Do nothing, because the channels of a closed tunnel close their connections themselves."""

    async def _hosts_of(self, attempt: Attempt, port: int, *, is_requested: bool) -> tuple[str, ...]:
        """Return the hosts at which the attempt's port can be reached. The tuple is empty if no process
        listens.

        Raises:
            NotConnectedError: Only other processes listen on a port that the job did not request.
        """
        known = self._known.get((attempt.number, port))
        if known is not None and known[1] > time.monotonic():
            return known[0]
        listeners = await asyncio.to_thread(find_listeners, port)
        own: set[int] = set()
        if listeners:
            pids = [process.pid for process in await self._find_processes(attempt)]
            own = await asyncio.to_thread(own_sockets, pids, [listener.inode for listener in listeners])
        hosts = tuple(host for listener in listeners if listener.inode in own for host in listener.hosts)
        if hosts:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[attempt.number, port] = hosts, time.monotonic() + _KNOWN_S
            return hosts
        if is_requested:
            # The program that listens may run outside of the attempt's processes, for example in a Docker container.
            return self._hosts if listeners else ()
        if listeners:
            raise NotConnectedError(
                cluster_pb2.CHANNEL_RESET_FOREIGN_PORT,
                f"no process of task {attempt.request.task_id} listens on port {port}: the program that listens there"
                " does not belong to the task, and the job has not requested the port with 'iris run --port NAME'",
            )
        return ()


def _port_of(attempt: Attempt, target: ChannelTarget) -> int:
    if target.name:
        port = attempt.ports.get(target.name.lower())
        if port is None:
            names = ", ".join(sorted(attempt.ports)) or "none ('iris run --port NAME' requests one)"
            raise NotConnectedError(
                cluster_pb2.CHANNEL_RESET_NO_SUCH_PORT,
                f"task {attempt.request.task_id} has no port named {quoted(target.name)}; its ports are: {names}",
            )
        return port
    if not 1 <= target.port <= 65535:
        raise NotConnectedError(
            cluster_pb2.CHANNEL_RESET_NO_SUCH_PORT, f"a port must be from 1 to 65535, got {target.port}"
        )
    return target.port


async def _connect(hosts: Sequence[str], port: int) -> Streams | None:
    """Connect to the first host that accepts the connection. Return None if no host does."""
    for host in hosts:
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.open_connection(host, port, limit=BUFFERED_BYTES)
        except OSError:  # A TimeoutError is an OSError.
            continue
    return None
