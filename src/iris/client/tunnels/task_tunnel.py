"""Keeps a tunnel to the running attempt of a task open, through broken connections.

1. `_stream_until_closed` opens a tunnel and applies its messages. After a broken stream, the same tunnel is resumed.
2. `_write` sends the data of all channels to the worker, with one call at a time. Data that arrives during a call is
   sent with the next call.
3. `run` ends when the attempt has ended. A further `run` waits for the task's next attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from iris.client.tunnels.tunnel_calls import OpenTunnelRequest, TunnelCalls, WriteTunnelRequest
from iris.errors import (
    DeadlineExceededError,
    IrisError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from iris.reasons import ErrorReason
from iris.rpc.cluster_pb2 import ChannelReset, ChannelTarget, TunnelMessage
from iris.rpc.tunnels.budget import Budget
from iris.rpc.tunnels.channel import Channel
from iris.rpc.tunnels.tunnel import Tunnel
from iris.system.backoff import Backoff

FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
# The client tries this many times to open the first stream of a tunnel. For a later stream, it tries until `patience_s`
# is over.
_FIRST_TRIES = 5
_LEAST_WRITE_BYTES, _MOST_WRITE_BYTES = 64 * 1024, 512 * 1024
# If a call takes less than the first number of seconds, the next call is larger. If it takes more than the second
# number, the next call is smaller, because other channels wait during a slow call.
_GOOD_CALL_S, _LONG_CALL_S = 0.05, 0.25
_WAIT_S = 3600.0
_WRITE_S = 20.0
_CLOSE_S = 1.0
_SILENCE_S = 2.0  # An outage of fewer seconds is not reported to the user.


def _ignore(*details: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class TunnelEvents:
    """Callbacks of a tunnel, which report what has happened to it.

    Attributes:
        on_note: A function that is called with each message for the user.
        on_opened: A function that is called with the first message of the worker on each stream. If the function raises
            an error, the tunnel ends.
        on_lost: A function that is called with the incomplete channels that the worker does not have any more.
        on_reset: A function that is called when the worker has reset a channel. Its arguments are the channel, the code
            and the text of the reset.
    """

    on_note: Callable[[str], None]
    on_opened: Callable[[TunnelMessage.Opened], None] = _ignore
    on_lost: Callable[[list[Channel]], None] = _ignore
    on_reset: Callable[[Channel, ChannelReset, str], None] = _ignore


class TaskTunnel:
    """Connects a client with the running attempt of one task. Each attempt needs a new tunnel.

    Args:
        calls: The object that makes the calls to the controller.
        job_id: The id of the job.
        task_index: The index of the task in its job, from 0.
        events: The functions that the tunnel calls, for example after the worker has reset a channel.
        when_running: A text for people that says what will be possible once the task runs.
        patience_s: How many seconds an outage may last before the tunnel fails.
        pauses: The pauses before a broken stream is opened again.

    Attributes:
        attempt_id: The attempt of the present tunnel, or None before the worker has answered.
        cut: The number of channels that were open when the last tunnel was closed.
    """

    def __init__(
        self,
        calls: TunnelCalls,
        job_id: str,
        task_index: int,
        events: TunnelEvents,
        *,
        when_running: str,
        patience_s: float = math.inf,
        pauses: Backoff | None = None,
    ) -> None:
        self.attempt_id: int | None = None
        self.cut = 0
        self._calls = calls
        self._job_id = job_id
        self._task_index = task_index
        self._events = events
        self._when_running = when_running
        self._patience_s = patience_s
        self._budget = Budget()
        self._backoff = pauses or Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._answered = asyncio.Event()  # `_answered` is set by the first message of the controller.
        self._ready = asyncio.Event()  # `_ready` is set while a tunnel to a running attempt is open.
        self._tunnel: Tunnel | None = None
        self._tunnel_id = ""
        self._write_bytes = _LEAST_WRITE_BYTES
        self._silent_since_s: float | None = None
        self._is_silence_told = False
        self._last_note = ""

    @property
    def is_answered(self) -> bool:
        """Whether the controller has answered."""
        return self._answered.is_set()

    @property
    def is_silent(self) -> bool:
        """Whether the servers have not answered for so long that the user got a notice about it."""
        return self._is_silence_told

    async def open_channel(self, target: ChannelTarget) -> Channel:
        """Open a channel. Wait until an attempt of the task runs."""
        while self._tunnel is None or not self._ready.is_set():
            await self._ready.wait()
        return self._tunnel.open(target)

    async def until_answered(self) -> None:
        """Wait until the controller has answered for the first time."""
        await self._answered.wait()

    async def run(self) -> TunnelMessage.Closed:
        """Open a tunnel to the next running attempt, and return why the tunnel was closed.

        Raises:
            IrisError: The job is unknown, the caller has no permission, or the servers have not answered for
                `patience_s`.
        """
        self._tunnel_id = secrets.token_hex(8)
        self.attempt_id = None
        self._tunnel = Tunnel(self._budget, on_reset=self._events.on_reset)
        writing = asyncio.create_task(self._write(self._tunnel))
        streaming: asyncio.Task[TunnelMessage.Closed] = asyncio.create_task(self._stream_until_closed(self._tunnel))
        try:
            await asyncio.wait((writing, streaming), return_when=asyncio.FIRST_COMPLETED)
            closed = streaming.result() if streaming.done() else writing.result()
            self.cut = len(self._tunnel.channels)
            return closed
        finally:
            self._ready.clear()
            for task in (writing, streaming):
                task.cancel()
            await asyncio.gather(writing, streaming, return_exceptions=True)
            self._tunnel.drop_all()

    async def close(self) -> None:
        """Close the tunnel on the worker. Without this call, the worker would keep the tunnel for a minute, because a
        client could resume it."""
        if self.attempt_id is not None:
            with contextlib.suppress(IrisError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._calls.write(self._write_request(close=True), _CLOSE_S)

    def note(self, text: str) -> None:
        """Report a message for people, unless it is the same as the last message."""
        if text != self._last_note:
            self._last_note = text
            self._events.on_note(text)

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
            # New connections wait until a stream is open again, because the worker of the attempt may be lost.
            self._ready.clear()
            if closed is not None:
                return closed
            await asyncio.sleep(self._backoff.next_s())

    async def _stream(self, tunnel: Tunnel) -> TunnelMessage.Closed | None:
        """Open one stream of the tunnel, and apply its messages. Return the message that closes the tunnel, or None if
        the stream broke."""
        request = OpenTunnelRequest(job_id=self._job_id, task_index=self._task_index, tunnel_id=self._tunnel_id)
        if self.attempt_id is not None:
            request.attempt_id, request.resume = self.attempt_id, True
        async with aclosing(self._calls.messages(request)) as messages:
            async for message in messages:
                self._silent_since_s, self._is_silence_told = None, False
                self._backoff.answered()
                if message.HasField("closed"):
                    return message.closed
                if message.waiting:
                    self.note(f"{message.waiting}; {self._when_running}")
                if message.HasField("opened"):
                    self._opened(tunnel, message.opened)
                tunnel.apply(message.parts)
                self._answered.set()
        return None

    def _opened(self, tunnel: Tunnel, opened: TunnelMessage.Opened) -> None:
        self._events.on_opened(opened)
        self.attempt_id = opened.attempt_id
        lost = tunnel.drop_missing(set(opened.channels))
        if lost:
            self._events.on_lost(lost)
        tunnel.rewind()
        self._ready.set()

    # To the worker.

    async def _write(self, tunnel: Tunnel) -> TunnelMessage.Closed:
        """Send the data of all channels to the worker, until the tunnel is closed."""
        backoff = Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S)
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
            attempt_id=self.attempt_id or 0,
            **fields,  # type: ignore[arg-type]
        )

    def _adapt(self, took_s: float) -> None:
        """Choose how many bytes the next call sends, from the duration of the last call. Large calls are efficient, but
        other channels wait during a slow call."""
        if took_s < _GOOD_CALL_S:
            self._write_bytes = min(self._write_bytes * 2, _MOST_WRITE_BYTES)
        elif took_s > _LONG_CALL_S:
            self._write_bytes = max(self._write_bytes // 2, _LEAST_WRITE_BYTES)

    # Messages for people.

    def _note_silence(self, error: IrisError) -> None:
        """Report an outage that lasts.

        Raises:
            IrisError: The servers have not answered for `patience_s`.
        """
        now_s = time.monotonic()
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        if now_s - self._silent_since_s > self._patience_s:
            raise error
        if now_s - self._silent_since_s > _SILENCE_S and not self._is_silence_told:
            self._is_silence_told = True
            self.note(f"{error}; trying again")
