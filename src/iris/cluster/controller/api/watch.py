"""Sends the changes of a job to the clients that watch the job. Each message is made once for all clients that need it.

The end of a job is sent at once. Other changes are sent after up to 20 ms, so that several changes share one message.
The pause between two messages grows with the number of clients that watch the job. Otherwise a job with thousands of
tasks and hundreds of clients would keep the controller's loop busy. If many clients watch a job, the controller sends
their messages one after the other, with pauses for other calls. The controller does not wait for a slow client. The
next message to a slow client contains all changes that the client has missed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from weakref import WeakValueDictionary

from iris.cluster.controller.api import messages
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.storage.saver import SavedJobs
from iris.cluster.types import is_job_finished
from iris.rpc import cluster_pb2
from iris.system.event_loop import happens

WatchJobResponse = cluster_pb2.Controller.WatchJobResponse

# A client gets an empty message after this many seconds without changes, because common proxies cut idle streams after
# 20 to 60 s.
BEAT_S = 10.0
# The changes of a job within this many seconds are sent in one message. The end of a job is sent at once.
_MERGE_S = 0.02
# The pause between two messages about a job grows by this many seconds for each client that watches the job.
_PACE_S = 0.001
# If more clients than this number watch a job, their streams get messages one after the other, with other work in
# between. Otherwise each client gets the message at once, so that a user who waits for a job does not wait for the
# clients of other jobs.
_MOST_AT_ONCE = 4
# The number of stored messages about a job. They are sent again, because most clients of a job need the same message.
_MAX_MESSAGES = 8


class JobWatches:
    """The watches of all jobs. Through a watch, clients get each change of a job, and other parts of the controller can
    wait for the next change.

    Args:
        jobs: The table of all jobs of the cluster.
        saved: The object that returns the last saved state of a job, which clients may see.
        slices: The object that makes messages with many tasks in small steps.
    """

    def __init__(self, jobs: JobTable, saved: SavedJobs, slices: Slices) -> None:
        self._jobs = jobs
        self._saved = saved
        self._slices = slices
        self._watches: dict[str, JobWatch] = {}
        # The dictionary has only weak references to its events. Therefore the event of a job disappears when no code
        # waits for a change of the job.
        self._changes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._watches)

    def publish(self, record: JobRecord) -> None:
        """Notify the watchers of the job that the job's saved state has changed."""
        changed = self._changes.pop(record.job_id, None)
        if changed is not None:
            changed.set()
        watch = self._watches.get(record.job_id)
        if watch is not None:
            watch.job_changed()

    def next_change(self, job_id: str) -> asyncio.Event:
        """Return an event that is set at the next change of the job's saved state."""
        changed = self._changes.get(job_id)
        if changed is None:
            changed = self._changes[job_id] = asyncio.Event()
        return changed

    def of_job(self, record: JobRecord) -> JobWatch:
        """Return the watch of a job. If no client watches the job, create the watch."""
        watch = self._watches.get(record.job_id)
        # The watch may belong to a removed job with the same name, which still has a slow client.
        if watch is not None and watch.is_of(record):
            return watch
        return JobWatch(record, self._jobs, self._saved, self._slices)

    async def messages(
        self, record: JobRecord, caller: str = "", *, include_tasks: bool
    ) -> AsyncGenerator[WatchJobResponse]:
        """Yield the job's state, and afterwards each change of the state, until the state is final.

        Raises:
            ResourceExhaustedError: The caller has too many calls waiting for large answers.
        """
        watch = self._watches[record.job_id] = self.of_job(record)
        try:
            async with aclosing(watch.messages(caller, include_tasks=include_tasks)) as stream:
                async for message in stream:
                    yield message
        finally:
            if not watch.clients and self._watches.get(record.job_id) is watch:
                del self._watches[record.job_id]


class JobWatch:
    """The clients that watch one job.

    Args:
        record: The record of the job.
        jobs: The table of all jobs of the cluster.
        saved: The object that returns the last saved state of a job, which clients may see.
        slices: The object that makes messages with many tasks, one caller after the other.

    Attributes:
        clients: The number of clients that watch the job.
        built: The number of messages that were made for these clients.
    """

    def __init__(self, record: JobRecord, jobs: JobTable, saved: SavedJobs, slices: Slices) -> None:
        self.clients = 0
        self.built = 0
        self._record = record
        self._jobs = jobs
        self._saved = saved
        self._slices = slices
        self._making = asyncio.Lock()
        # Clients that watch the job wait for this event. Each new message about the job sets the event, and a new event
        # replaces it.
        self._announced = asyncio.Event()
        self._announced_at_s = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        # The stored messages. The key is the revision of the job that the receiving clients already know, or None for
        # clients that want no tasks. The value is the message, and the revision of the job in the message.
        self._messages: dict[int | None, tuple[WatchJobResponse, int]] = {}

    def is_of(self, record: JobRecord) -> bool:
        """Return whether the clients of this watch watch the job with the given record."""
        return self._record is record

    def job_changed(self) -> None:
        """Announce a change of the job to the clients. The end of the job is announced at once. Any other change is
        announced after a pause.
        """
        if self._record.job.is_finished:
            self._announce()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            due_s = max(loop.time() + _MERGE_S, self._announced_at_s + self.clients * _PACE_S)
            self._timer = loop.call_at(due_s, self._announce)

    async def messages(self, caller: str, *, include_tasks: bool) -> AsyncGenerator[WatchJobResponse]:
        """Yield the messages for one client (see `JobWatches.messages`)."""
        self.clients += 1
        known = 0
        try:
            while True:
                announced = self._announced
                message, known = await self._saved_message(caller, known if include_tasks else None, first=not known)
                yield message
                if is_job_finished(message.job.state) and self._jobs.is_concluded(self._record):
                    return
                while not announced.is_set():
                    if not await happens(announced, BEAT_S):
                        yield WatchJobResponse()
                if self.clients > _MOST_AT_ONCE:
                    await self._slices.stream_turns.turn()
        finally:
            self.clients -= 1
            if not self.clients:
                self._discard()

    @property
    def _shown(self) -> JobRecord:
        return self._saved.shown(self._record)

    async def _saved_message(self, caller: str, known: int | None, *, first: bool) -> tuple[WatchJobResponse, int]:
        while True:
            made = await self._message(caller, known, first=first)
            await self._saved.settled()
            if made[1] <= self._shown.job.revision:
                return made
            self._messages.clear()  # A stored message is not sent if the changes in the message could not be saved.

    def _announce(self) -> None:
        self._discard()
        self._announced_at_s = asyncio.get_running_loop().time()
        announced, self._announced = self._announced, asyncio.Event()
        announced.set()

    async def _message(self, caller: str, known: int | None, *, first: bool) -> tuple[WatchJobResponse, int]:
        """Return the message with the changes since the revision `known`. The first message to a client always shows
        the job's current state.
        """
        if known is None or messages.tasks_at_once(self._shown, known):
            return self._made(known, first=first) or self._make(known)
        # A client waits for its turn before it acquires the lock. If a client acquired the lock first, other clients of
        # the job would have to wait while this client waits for its turn.
        async with self._slices.lane.turn(caller), self._making:
            # If another client has made the same message while this client waited for the lock, that message is reused.
            made = self._made(known, first=first)
            if made is not None:
                return made
            job = await self._slices.run(messages.job_with_tasks(self._shown, since=known))
            return self._store(known, WatchJobResponse(job=job))

    def _made(self, known: int | None, *, first: bool) -> tuple[WatchJobResponse, int] | None:
        made = self._messages.get(known)
        return made if made is not None and (made[1] == self._shown.job.revision or not first) else None

    def _make(self, known: int | None) -> tuple[WatchJobResponse, int]:
        return self._store(known, WatchJobResponse(job=messages.job_status(self._shown, tasks_since=known)))

    def _store(self, known: int | None, message: WatchJobResponse) -> tuple[WatchJobResponse, int]:
        """Store a new message for reuse, together with the job's current revision. The caller must not await anything
        between making the message and this call.
        """
        self.built += 1
        while len(self._messages) >= _MAX_MESSAGES:
            del self._messages[next(iter(self._messages))]
        made = self._messages[known] = (message, self._shown.job.revision)
        return made

    def _discard(self) -> None:
        self._messages.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
