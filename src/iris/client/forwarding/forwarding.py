"""Listens on local ports, and joins each accepted connection to a channel of a tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from iris.client.forwarding.port_pairs import PortPair
from iris.client.forwarding.session import ForwardSession
from iris.client.tunnels.tunnel_calls import TunnelCalls
from iris.errors import FailedPreconditionError, IrisError
from iris.rpc.tunnels.channel import BUFFERED_BYTES, reset_connection

_BACKLOG = 1024


class Forwarding:
    """Forwards local ports to ports of a task, on an asyncio loop. Owns the listening sockets, and the session that
    keeps the tunnel to the task open.

    Args:
        calls: The object that makes the calls to the controller.
        job_id: The id of the job.
        task_index: The index of the task in its job, from 0.
        ports: The pairs of a task's port and a local port.
        host: The local address to listen on.
        on_note: A function that is called with each message for the user.

    Attributes:
        local_ports: The numbers of the local ports, in the order of `ports`. Empty before `start`.
    """

    def __init__(
        self,
        calls: TunnelCalls,
        job_id: str,
        task_index: int,
        ports: Sequence[PortPair],
        host: str,
        on_note: Callable[[str], None],
    ) -> None:
        self._calls = calls
        self._ports = ports
        self._host = host
        self._session = ForwardSession(calls, job_id, task_index, ports, on_note)
        self._servers: list[asyncio.Server] = []
        self._running: asyncio.Task[str] | None = None
        self._accepting: set[asyncio.Task[None]] = set()
        self.local_ports: list[int] = []

    async def start(self) -> None:
        """Bind the local ports, and wait for the first answer of the controller. Connections are accepted afterwards.

        Raises:
            FailedPreconditionError: A local port cannot be bound, or the task has ended.
            IrisError: The job is unknown, or the caller may not reach its ports.
        """
        try:
            for pair in self._ports:
                await self._listen(pair)
            self._running = asyncio.create_task(self._session.run())
            self._running.add_done_callback(self._refuse_connections)
            answered = asyncio.create_task(self._session.until_answered())
            await asyncio.wait((self._running, answered), return_when=asyncio.FIRST_COMPLETED)
            answered.cancel()
            if self._running.done():
                self._running.result()
        except BaseException:
            await self.stop()
            raise

    async def ended(self) -> str:
        """Wait until the task has ended, and return a text for people about how it has ended.

        Raises:
            FailedPreconditionError: The forward was closed.
            IrisError: The forward has failed.
        """
        assert self._running is not None, "the forward was started"
        await asyncio.wait((self._running,))
        if self._running.cancelled():
            raise FailedPreconditionError("the forwarding of ports was closed")
        return self._running.result()

    async def stop(self) -> None:
        """Close the local ports and all connections."""
        self._close_servers()
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError, IrisError):
                await self._running

    def _refuse_connections(self, running: asyncio.Task[str]) -> None:
        """Refuse further connections, because the session has ended. Reset the connections that wait for an attempt of
        the task."""
        if not running.cancelled():
            # Reading the exception here prevents asyncio's warning about it. The method `ended` raises the exception.
            running.exception()
        self._close_servers()

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._accepting):
            task.cancel()

    async def _listen(self, pair: PortPair) -> None:
        try:
            # A host name may have several addresses. The forward listens on only one of them, because a socket for each
            # address would get a different free port.
            found = await asyncio.get_running_loop().getaddrinfo(
                self._host, pair.local, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            server = await asyncio.start_server(
                partial(self._accepted, pair),
                str(found[0][4][0]),
                pair.local,
                limit=BUFFERED_BYTES,
                backlog=_BACKLOG,
            )
        except (OSError, UnicodeError) as error:
            raise _cannot_listen(self._host, pair, error) from error
        self._servers.append(server)
        self.local_ports.append(server.sockets[0].getsockname()[1])

    def _accepted(self, pair: PortPair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
        task = asyncio.create_task(self._join(pair, reader, writer))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _join(self, pair: PortPair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            channel = await self._session.open_channel(pair)
        except BaseException:
            reset_connection(writer)
            raise
        channel.attach(reader, writer)


def _cannot_listen(host: str, pair: PortPair, error: Exception) -> FailedPreconditionError:
    number = getattr(error, "errno", None)
    advice = "0 takes any free port"
    if number == errno.EADDRINUSE:
        why = "another program uses the port"
    elif number == errno.EACCES:
        why = "only root may use ports below 1024"
    elif isinstance(error, socket.gaierror | UnicodeError) or number == errno.EADDRNOTAVAIL:
        why, advice = "this machine has no such address", "127.0.0.1 is this machine only"
    else:
        why = getattr(error, "strerror", None) or str(error)
    return FailedPreconditionError(
        f"cannot listen on local port {pair.local} at {host}: {why} ({advice})",
        metadata={"local_port_in_use": str(pair.local)} if number == errno.EADDRINUSE else None,
    )
