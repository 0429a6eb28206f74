"""Keeps a tunnel to the running attempt of a task open, through broken connections and retries of the task.

1. `_run_tunnel` opens a tunnel and applies its messages. After a broken stream, the same tunnel is resumed.
2. `_write` takes the parts of the channels and sends them, with one call at a time. Parts that accumulate during a call
   share the next call.
3. When the attempt has ended, the next tunnel waits for the next attempt, until the task itself has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from iris.client.forwarding.port_pairs import PortPair
from iris.client.forwarding.tunnel_calls import OpenTunnelRequest, TunnelCalls, WriteTunnelRequest
from iris.cluster.types import make_task_id
from iris.counts import counted, word_for
from iris.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    IrisError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import ChannelReset, TunnelMessage
from iris.rpc.tunnels.budget import Budget
from iris.rpc.tunnels.channel import Channel
from iris.rpc.tunnels.tunnel import Tunnel
from iris.system.backoff import Backoff
from iris.versions import VERSION

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_FIRST_TRIES = 5  # The first stream is tried this many times. Later streams are tried until the forward is closed.
_LEAST_WRITE_BYTES, _MOST_WRITE_BYTES = 64 * 1024, 512 * 1024
# A call should take at most this many seconds, so that other channels do not wait long for their turn.
_GOOD_CALL_S, _LONG_CALL_S = 0.05, 0.25
_WAIT_S = 3600.0
_WRITE_S = 20.0
_CLOSE_S = 1.0
_SILENCE_S = 2.0  # A shorter outage is not reported.
_UNREACHED = (cluster_pb2.CHANNEL_RESET_REFUSED, cluster_pb2.CHANNEL_RESET_FOREIGN_PORT)


class ForwardSession:
    """The tunnels to one task, one after the other.

    Args:
        calls: The calls to the controller.
        job_id: The job.
        task_index: The task.
        ports: The pairs of ports. The job must have requested the ports with names.
        on_note: A function that is called with messages for people.
    """

    def __init__(
        self,
        calls: TunnelCalls,
        job_id: str,
        task_index: int,
        ports: Sequence[PortPair],
        on_note: Callable[[str], None],
    ) -> None:
        self._calls = calls
        self._job_id = job_id
        self._task_index = task_index
        self._task_id = make_task_id(job_id, task_index)
        self._ports = ports
        self._on_note = on_note
        self._budget = Budget()
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        # Set by the first message of the controller.
        self._answered = asyncio.Event()
        # Set while a tunnel to a running attempt is open.
        self._ready = asyncio.Event()
        self._tunnel: Tunnel | None = None
        self._tunnel_id = ""
        self._attempt_id: int | None = None
        self._write_bytes = _LEAST_WRITE_BYTES
        self._silent_since_s: float | None = None
        self._is_silence_told = False
        self._last_note = ""

    async def open_channel(self, pair: PortPair) -> Channel:
        """Open a channel to a port of the task. Wait until an attempt of the task runs."""
        while self._tunnel is None or not self._ready.is_set():
            await self._ready.wait()
        return self._tunnel.open(pair.target)

    async def until_answered(self) -> None:
        """Wait until the controller has answered for the first time."""
        await self._answered.wait()

    async def run(self) -> str:
        """Keep a tunnel open until the task has ended. Return how the task ended, for people.

        Raises:
            FailedPreconditionError: The task had ended before the first tunnel was opened.
            NotFoundError: The job has no port with one of the names.
            IrisError: The job is unknown, or the caller may not reach its ports.
        """
        try:
            while True:
                try:
                    closed = await self._run_tunnel()
                except UnimplementedError as error:
                    raise UnimplementedError(
                        "the cluster has an older release of Iris that cannot forward ports: install Iris"
                        f" {VERSION} or later there"
                    ) from error
                if closed.state:
                    if not self._answered.is_set():
                        raise FailedPreconditionError(f"{closed.text}: its ports cannot be reached any more")
                    return closed.text
                # The controller may not know of the attempt's end yet, and would name the same attempt at once.
                await asyncio.sleep(_FIRST_PAUSE_S)
        finally:
            await self._close_tunnel()

    async def _run_tunnel(self) -> TunnelMessage.Closed:
        """Open a tunnel to the next running attempt, and return why the tunnel was closed."""
        self._tunnel_id = secrets.token_hex(8)
        self._attempt_id = None
        self._tunnel = Tunnel(self._budget, on_reset=self._channel_was_reset)
        writing = asyncio.create_task(self._write(self._tunnel))
        streaming: asyncio.Task[TunnelMessage.Closed] = asyncio.create_task(self._stream_until_closed(self._tunnel))
        try:
            await asyncio.wait((writing, streaming), return_when=asyncio.FIRST_COMPLETED)
            closed = streaming.result() if streaming.done() else writing.result()
            if self._tunnel.channels:
                self._note(
                    f"{counted(len(self._tunnel.channels), 'connection was', 'connections were')} reset: {closed.text}"
                )
            return closed
        finally:
            self._ready.clear()
            for task in (writing, streaming):
                task.cancel()
            await asyncio.gather(writing, streaming, return_exceptions=True)
            self._tunnel.drop_all()

    # From the worker.

    async def _stream_until_closed(self, tunnel: Tunnel) -> TunnelMessage.Closed:
        tries = 0
        while True:
            try:
                closed = await self._stream(tunnel)
            except NotFoundError as error:
                if error.reason != ErrorReason.TUNNEL_NOT_FOUND:
                    raise
                return TunnelMessage.Closed(text=str(error))
            except (UnavailableError, DeadlineExceededError, ResourceExhaustedError) as error:
                tries += 1
                if not self._answered.is_set() and (tries >= _FIRST_TRIES or isinstance(error, ResourceExhaustedError)):
                    raise
                self._note_silence(error)
                closed = None
            # While the stream is broken, new connections wait, because the worker of the attempt may be lost.
            self._ready.clear()
            if closed is not None:
                return closed
            await asyncio.sleep(self._backoff.next_s())

    async def _stream(self, tunnel: Tunnel) -> TunnelMessage.Closed | None:
        """Apply the messages of one stream. Return the message that closes the tunnel, or None if the stream broke."""
        request = OpenTunnelRequest(job_id=self._job_id, task_index=self._task_index, tunnel_id=self._tunnel_id)
        if self._attempt_id is not None:
            request.attempt_id, request.resume = self._attempt_id, True
        async with aclosing(self._calls.messages(request)) as messages:
            async for message in messages:
                self._silent_since_s, self._is_silence_told = None, False
                self._backoff.reset()
                if message.HasField("closed"):
                    return message.closed
                if message.waiting:
                    self._note(f"{message.waiting}; its ports can be reached when it runs")
                if message.HasField("opened"):
                    self._opened(tunnel, message.opened)
                tunnel.apply(message.parts)
                self._answered.set()
        return None

    def _opened(self, tunnel: Tunnel, opened: TunnelMessage.Opened) -> None:
        names = [pair.remote for pair in self._ports if isinstance(pair.remote, str)]
        missing = [name for name in names if name.lower() not in opened.ports]
        if missing:
            known = ", ".join(sorted(opened.ports)) or "none ('iris run --port NAME' requests one)"
            raise NotFoundError(f"job {self._job_id!r} has no port named {missing[0]!r}; its ports are: {known}")
        lost = tunnel.drop_missing(set(opened.channels))
        if lost:
            self._note(
                f"{counted(len(lost), 'connection')} to {self._task_id} {word_for(len(lost), 'was', 'were')} lost"
            )
        if self._attempt_id is None:
            self._attempt_id = opened.attempt_id
            if opened.attempt_id:
                self._note(f"connections go to attempt {opened.attempt_id} of {self._task_id} now")
            for notice in filter(None, (pair.reversal_notice(opened.ports) for pair in self._ports)):
                self._note(notice)
        tunnel.rewind()
        self._ready.set()

    def _channel_was_reset(self, channel: Channel, code: ChannelReset, text: str) -> None:
        hints = [pair.order_hint for pair in self._ports if pair.target == channel.target]
        hint = next(filter(None, hints), "") if code in _UNREACHED else ""
        self._note(f"a connection was reset: {text}{hint and f' ({hint})'}")

    # To the worker.

    async def _write(self, tunnel: Tunnel) -> TunnelMessage.Closed:
        """Send the parts of the channels, until the tunnel is gone."""
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while True:
            await self._ready.wait()
            if not await tunnel.wait_for_work(_WAIT_S):
                continue
            parts = tunnel.take(self._write_bytes)
            if not parts:
                continue
            began_s = time.monotonic()
            try:
                answer = await self._calls.write(self._write_request(parts=parts), _WRITE_S)
            except NotFoundError as error:
                if error.reason != ErrorReason.TUNNEL_NOT_FOUND:
                    raise
                return TunnelMessage.Closed(text=str(error))
            except (UnavailableError, DeadlineExceededError, ResourceExhaustedError):
                tunnel.rewind()
                self._adapt(math.inf)
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            self._adapt(time.monotonic() - began_s)
            tunnel.confirm(parts)
            tunnel.send_again(answer.again)

    def _write_request(self, **fields: object) -> WriteTunnelRequest:
        return WriteTunnelRequest(
            job_id=self._job_id,
            task_index=self._task_index,
            tunnel_id=self._tunnel_id,
            attempt_id=self._attempt_id or 0,
            **fields,  # type: ignore[arg-type]
        )

    def _adapt(self, took_s: float) -> None:
        """Choose the size of the next call. Large calls are efficient, but other channels wait for a slow call."""
        if took_s < _GOOD_CALL_S:
            self._write_bytes = min(self._write_bytes * 2, _MOST_WRITE_BYTES)
        elif took_s > _LONG_CALL_S:
            self._write_bytes = max(self._write_bytes // 2, _LEAST_WRITE_BYTES)

    # The end.

    async def _close_tunnel(self) -> None:
        """Tell the worker that the tunnel is not needed any more. Otherwise the worker would keep it for a minute."""
        if self._attempt_id is not None:
            with contextlib.suppress(IrisError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._calls.write(self._write_request(close=True), _CLOSE_S)

    # Messages for people.

    def _note_silence(self, error: IrisError) -> None:
        now_s = time.monotonic()
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        if now_s - self._silent_since_s > _SILENCE_S and not self._is_silence_told:
            self._is_silence_told = True
            self._note(f"{error}; trying again")

    def _note(self, text: str) -> None:
        """Report a message, unless it repeats the last one."""
        if text != self._last_note:
            self._last_note = text
            self._on_note(text)
