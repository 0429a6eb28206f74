"""Defines `AsyncForward`: a local port that leads to a port of a task, served by the event loop of the caller."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from iris.arguments import JobReference, check_timeout
from iris.client.forwarding.forward import LOOPBACK, LocalAddresses, not_ended
from iris.client.forwarding.forwarding import Forwarding
from iris.client.forwarding.port_pairs import PortPair
from iris.client.tunnels.tunnel_calls import AsyncTunnelCalls
from iris.cluster.client.aio.connection import AsyncClusterConnection
from iris.errors import FailedPreconditionError


class AsyncForward(LocalAddresses):
    """A local port that leads to a port of a task, through the controller. `AsyncIrisClient.forward` makes it.

    The forward is an asynchronous context manager. Inside the block, every connection to `address` reaches the task.
    Connections continue after a lost connection to the controller. When the task is retried, new connections reach its
    next attempt. The event loop serves the connections.
    """

    def __init__(
        self,
        connection: AsyncClusterConnection,
        job_id: str | JobReference,
        task_index: int,
        ports: Sequence[PortPair],
        *,
        host: str = LOOPBACK,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(job_id, task_index, ports, host, on_notice)
        self._connection = connection

    async def __aenter__(self) -> Self:
        if self._forwarding is not None:
            raise FailedPreconditionError(
                "this object of client.forward(…) was opened before: call client.forward(…) again"
            )
        calls = AsyncTunnelCalls(self._connection)
        forwarding = Forwarding(calls, self._job_id, self._task_index, self._ports, self._host, self._on_notice)
        await forwarding.start()
        self._forwarding = forwarding
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._forwarding is not None:
            await self._forwarding.stop()

    async def wait(self, timeout: float | None = None) -> str:
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
                "the forwarding of ports is not open: use client.forward(…) in an 'async with' block"
            )
        limit = asyncio.timeout(timeout_s if math.isfinite(timeout_s) else None)
        try:
            async with limit:
                return await self._forwarding.ended()
        except TimeoutError:
            if not limit.expired():
                raise  # The time limit has not passed, so the forward itself failed with this error.
            raise not_ended(self._job_id, timeout_s) from None
