"""What clients that watch a job are told: made once for each change and once for all of them, however many there are.

A change is told within a moment, and the end of a job at once. What changes meanwhile travels in the same message; the
more clients there are, the longer they wait for the next one, so that a job of thousands of tasks and hundreds of
clients leaves the loop its time. A client that reads slowly is not waited for: its next message has all that it missed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable

from iris.cluster.controller.api import messages
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.types import is_job_finished
from iris.rpc import cluster_pb2
from iris.system.event_loop import happens

WatchJobResponse = cluster_pb2.Controller.WatchJobResponse

_BEAT_S = 10.0  # on a stream without news; common proxies cut idle ones after 20 to 60 s
_MERGE_S = 0.02  # news within this time travels in one message; the end never waits
_PACE_S = 0.001  # between two messages, for each client: to write one takes the loop a fifth of that
_KEPT = 8  # messages: nearly all clients know of the same changes, some are behind


class Watch:
    """The clients that watch one job.

    Args:
        record: The job.
        settled: Waits until what has changed is kept, or cannot be saved now: then `record.shown` is what was saved
            last. Before that nobody is told of it.
        slices: Makes messages with many tasks, one caller after the other; default: slices of its own.

    Attributes:
        clients: How many there are.
        built: How many messages have been made for them.
    """

    def __init__(
        self, record: JobRecord, settled: Callable[[], Awaitable[object]], slices: Slices | None = None
    ) -> None:
        self.clients = 0
        self.built = 0
        self._record = record
        self._settled = settled
        self._slices = slices or Slices()
        self._making = asyncio.Lock()
        self._told = asyncio.Event()  # set, and replaced, when there is something to send
        self._told_at_s = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        # By the revision that the client knows, None without tasks: the message, and up to where it tells.
        self._messages: dict[int | None, tuple[WatchJobResponse, int]] = {}

    def job_changed(self) -> None:
        """There is news."""
        if self._record.job.is_finished:
            self._tell()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            due_s = max(loop.time() + _MERGE_S, self._told_at_s + self.clients * _PACE_S)
            self._timer = loop.call_at(due_s, self._tell)

    async def messages(self, caller: str = "", *, include_tasks: bool) -> AsyncGenerator[WatchJobResponse]:
        """For one client: what the job is, then what changes of it, until it is final.

        Raises:
            ResourceExhaustedError: The caller has too many calls waiting for large answers.
        """
        self.clients += 1
        known = 0
        try:
            while True:
                told = self._told
                message, known = await self._kept_message(caller, known if include_tasks else None, first=not known)
                yield message
                if is_job_finished(message.job.state) and self._record.concluded:
                    return
                while not told.is_set():
                    if not await happens(told, _BEAT_S):
                        yield WatchJobResponse()
        finally:
            self.clients -= 1
            if not self.clients:
                self._forget()
                self._record.watch = None

    async def _kept_message(self, caller: str, known: int | None, *, first: bool) -> tuple[WatchJobResponse, int]:
        while True:
            made = await self._message(caller, known, first=first)
            await self._settled()
            if made[1] <= self._record.shown.job.revision:
                return made
            self._messages.clear()  # they tell what could not be saved

    def _tell(self) -> None:
        self._forget()
        self._told_at_s = asyncio.get_running_loop().time()
        told, self._told = self._told, asyncio.Event()
        told.set()

    async def _message(self, caller: str, known: int | None, *, first: bool) -> tuple[WatchJobResponse, int]:
        """What is told to who knows of a revision; a client's first message is never older than what is known now."""
        if known is None or messages.tasks_at_once(self._record.shown, known):
            return self._made(known, first=first) or self._make(known)
        # The turn comes first: a client never waits for the queue of another caller.
        async with self._slices.lane.turn(caller), self._making:
            # Of clients that came together, the first has made it for all by now.
            made = self._made(known, first=first)
            if made is not None:
                return made
            job = await self._slices.run(messages.job_with_tasks(self._record.shown, since=known))
            return self._keep(known, WatchJobResponse(job=job))

    def _made(self, known: int | None, *, first: bool) -> tuple[WatchJobResponse, int] | None:
        made = self._messages.get(known)
        return made if made is not None and (made[1] == self._record.shown.job.revision or not first) else None

    def _make(self, known: int | None) -> tuple[WatchJobResponse, int]:
        return self._keep(known, WatchJobResponse(job=messages.job_status(self._record.shown, tasks_since=known)))

    def _keep(self, known: int | None, message: WatchJobResponse) -> tuple[WatchJobResponse, int]:
        """Keep a message that was made just now, without a pause since."""
        self.built += 1
        while len(self._messages) >= _KEPT:
            del self._messages[next(iter(self._messages))]
        made = self._messages[known] = (message, self._record.shown.job.revision)
        return made

    def _forget(self) -> None:
        self._messages.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
