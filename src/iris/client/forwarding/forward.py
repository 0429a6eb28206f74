"""Defines `Forward`: a local port that leads to a port of a task."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from iris.arguments import JobReference, check_callable, check_job_id, check_task_index, check_text, check_timeout
from iris.client.forwarding.forwarding import Forwarding
from iris.client.forwarding.port_pairs import PortPair
from iris.client.tunnels.tunnel_calls import ThreadTunnelCalls
from iris.cluster.client.verbs.connection import ClusterConnection
from iris.errors import DeadlineExceededError, FailedPreconditionError

LOOPBACK = "127.0.0.1"
_STOP_S = 5.0


def _ignore(text: str) -> None:
    """Drop a message for people."""


class LocalAddresses:
    """The arguments of a forward, and the addresses of its local ports.

    Args:
        job_id: The job.
        task_index: The index of the task in its job, from 0.
        ports: The pairs of a task's port and a local port.
        host: The local address to listen on.
        on_notice: A function that is called with messages for people. If None, the messages are dropped.
    """

    def __init__(
        self,
        job_id: str | JobReference,
        task_index: int,
        ports: Sequence[PortPair],
        host: str,
        on_notice: Callable[[str], None] | None,
    ) -> None:
        self._job_id = check_job_id(job_id)
        self._task_index = check_task_index(task_index)
        self._ports = ports
        self._host = check_text("local_host", host, empty=False, accepted="an address of this machine")
        self._on_notice = _ignore if on_notice is None else check_callable("on_notice", on_notice)
        self._forwarding: Forwarding | None = None

    def __repr__(self) -> str:
        task = f"{type(self).__name__} of {self._job_id}/task-{self._task_index}"
        if self._forwarding is None:
            return f"<{task}, not open>"
        pairs = [f"{self.address_of(number)} -> port {pair.remote}" for number, pair in enumerate(self._ports)]
        return f"<{task}: {', '.join(pairs)}>"

    @property
    def local_ports(self) -> list[int]:
        """The numbers of the local ports.

        Raises:
            FailedPreconditionError: The forwarding of ports is not open.
        """
        if self._forwarding is None:
            raise FailedPreconditionError(
                "the forwarding of ports is not open: use client.forward(…) in a 'with' block"
            )
        return self._forwarding.local_ports

    @property
    def local_port(self) -> int:
        """The number of the local port."""
        return self.local_ports[0]

    @property
    def address(self) -> str:
        """The local address, as `host:port`."""
        return self.address_of(0)

    @property
    def url(self) -> str:
        """The local address, as a URL of HTTP."""
        return f"http://{self.address}"

    def address_of(self, number: int) -> str:
        """Return the local address of one of several ports, as `host:port`. `number` counts from 0."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self.local_ports[number]}"


class Forward(LocalAddresses):
    """A local port that leads to a port of a task, through the controller. `IrisClient.forward` makes it.

    The forward is a context manager. Inside the block, every connection to `address` reaches the task. Connections
    continue after a lost connection to the controller. When the task is retried, new connections reach its next
    attempt. A thread of the forward serves the connections.
    """

    def __init__(
        self,
        connection: ClusterConnection,
        job_id: str | JobReference,
        task_index: int,
        ports: Sequence[PortPair],
        *,
        host: str = LOOPBACK,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(job_id, task_index, ports, host, on_notice)
        self._connection = connection
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="iris-forward", daemon=True)

    def __enter__(self) -> Self:
        if self._thread.ident is not None:
            raise FailedPreconditionError(
                "this object of client.forward(…) was opened before: call client.forward(…) again"
            )
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the task has ended. Return a text for people that says how the task ended.

        Args:
            timeout: How many seconds to wait. None and `math.inf` wait forever.

        Raises:
            FailedPreconditionError: The forward is not open, or was closed.
            DeadlineExceededError: (a `TimeoutError`) The task has not ended within `timeout`.
            IrisError: The forward has failed, for example because the token was revoked.
        """
        timeout_s = check_timeout("timeout", timeout)
        if self._forwarding is None:
            raise FailedPreconditionError(
                "the forwarding of ports is not open: use client.forward(…) in a 'with' block"
            )
        try:
            return self._ended.result(None if timeout is None else min(timeout_s, threading.TIMEOUT_MAX))
        except concurrent.futures.TimeoutError:
            if self._ended.done():
                raise  # The time limit has not passed, so the forward itself failed with this error.
            raise not_ended(self._job_id, timeout_s) from None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            # The event loop cannot be created, for example because no file descriptor is left.
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        calls = ThreadTunnelCalls(self._connection)
        forwarding = Forwarding(calls, self._job_id, self._task_index, self._ports, self._host, self._on_notice)
        starting = asyncio.create_task(forwarding.start())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        try:
            await starting
        except BaseException as error:  # noqa: BLE001 - `__enter__` raises the error.
            self._started.set_exception(error)
            return
        self._forwarding = forwarding
        self._started.set_result(None)
        ending = asyncio.create_task(forwarding.ended())
        ending.add_done_callback(self._set_ended)
        await stopping
        await forwarding.stop()
        await asyncio.wait((ending,))

    def _set_ended(self, ending: asyncio.Task[str]) -> None:
        if ending.cancelled():  # The task was cancelled, because the event loop of the forward has ended.
            self._ended.set_exception(FailedPreconditionError("the forwarding of ports was closed"))
        elif (error := ending.exception()) is not None:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(ending.result())

    def _stop(self) -> None:
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended already.
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_STOP_S)


def not_ended(job_id: str, timeout_s: float) -> DeadlineExceededError:
    """Return the error for a caller who waited for the end of the task for longer than the timeout."""
    return DeadlineExceededError(f"the task of job {job_id!r} has not ended within {timeout_s:g} s")
