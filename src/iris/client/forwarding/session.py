"""Keeps a tunnel to the running attempt of a task open, through broken connections and retries of the task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from iris.client.forwarding.port_pairs import PortPair
from iris.client.tunnels.task_tunnel import FIRST_PAUSE_S, TaskTunnel, TunnelEvents
from iris.client.tunnels.tunnel_calls import TunnelCalls
from iris.cluster.types import make_task_id
from iris.counts import counted, word_for
from iris.errors import FailedPreconditionError, NotFoundError, UnimplementedError
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import ChannelReset, TunnelMessage
from iris.rpc.tunnels.channel import Channel
from iris.versions import VERSION

_UNREACHED = (cluster_pb2.CHANNEL_RESET_REFUSED, cluster_pb2.CHANNEL_RESET_FOREIGN_PORT)


class ForwardSession:
    """Keeps a tunnel to a task open, for one forward. Each attempt of the task needs a new tunnel.

    When an attempt has ended, the session waits for the next attempt and opens a new tunnel. The session ends when the
    task has ended.

    Args:
        calls: The object that makes the calls to the controller.
        job_id: The id of the job.
        task_index: The index of the task in its job, from 0.
        ports: The pairs of a task's port and a local port. If the task's port is given by name, the job must have
            requested a port with this name.
        on_note: A function that is called with each message for the user.
    """

    def __init__(
        self,
        calls: TunnelCalls,
        job_id: str,
        task_index: int,
        ports: Sequence[PortPair],
        on_note: Callable[[str], None],
    ) -> None:
        self._job_id = job_id
        self._task_id = make_task_id(job_id, task_index)
        self._ports = ports
        events = TunnelEvents(on_note, self._opened, self._lost, self._channel_was_reset)
        self._tunnel = TaskTunnel(
            calls, job_id, task_index, events, when_running="its ports can be reached when it runs"
        )

    async def open_channel(self, pair: PortPair) -> Channel:
        """Open a channel to a port of the task. Wait until an attempt of the task runs."""
        return await self._tunnel.open_channel(pair.target)

    async def until_answered(self) -> None:
        """Wait until the controller has answered for the first time."""
        await self._tunnel.until_answered()

    async def run(self) -> str:
        """Keep a tunnel open until the task has ended. Return a text for people that says how the task ended.

        Raises:
            FailedPreconditionError: The task had ended before the first tunnel was opened.
            NotFoundError: The job has no port with one of the names.
            IrisError: The job is unknown, or the caller may not reach its ports.
        """
        try:
            while True:
                try:
                    closed = await self._tunnel.run()
                except UnimplementedError as error:
                    raise UnimplementedError(
                        "the cluster has an older release of Iris that cannot forward ports: install Iris"
                        f" {VERSION} or later on the cluster"
                    ) from error
                if self._tunnel.cut:
                    cut = counted(self._tunnel.cut, "connection was", "connections were")
                    self._tunnel.note(f"{cut} reset: {closed.text}")
                if closed.state:
                    if not self._tunnel.is_answered:
                        raise FailedPreconditionError(f"{closed.text}: its ports cannot be reached any more")
                    return closed.text
                # Without the pause, the controller could name the same attempt again, because it may not know yet that
                # the attempt has ended.
                await asyncio.sleep(FIRST_PAUSE_S)
        finally:
            await self._tunnel.close()

    def _opened(self, opened: TunnelMessage.Opened) -> None:
        names = [pair.remote for pair in self._ports if isinstance(pair.remote, str)]
        missing = [name for name in names if name.lower() not in opened.ports]
        if missing:
            known = ", ".join(sorted(opened.ports)) or "none ('iris run --port NAME' requests one)"
            raise NotFoundError(f"job {self._job_id!r} has no port named {missing[0]!r}; its ports are: {known}")
        if self._tunnel.attempt_id is None:
            if opened.attempt_id:
                self._tunnel.note(f"connections go to attempt {opened.attempt_id} of {self._task_id} now")
            for notice in filter(None, (pair.reversal_notice(opened.ports) for pair in self._ports)):
                self._tunnel.note(notice)

    def _lost(self, lost: list[Channel]) -> None:
        count = len(lost)
        self._tunnel.note(f"{counted(count, 'connection')} to {self._task_id} {word_for(count, 'was', 'were')} lost")

    def _channel_was_reset(self, channel: Channel, code: ChannelReset, text: str) -> None:
        pairs = [pair for pair in self._ports if pair.target == channel.target]
        hints = [pair.order_hint for pair in pairs if code in _UNREACHED]
        hints += [pair.same_number_hint for pair in pairs if code == cluster_pb2.CHANNEL_RESET_FOREIGN_PORT]
        hint = next(filter(None, hints), "")
        self._tunnel.note(f"a connection was reset: {text}{hint and f' ({hint})'}")
