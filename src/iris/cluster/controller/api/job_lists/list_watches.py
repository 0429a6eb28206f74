"""Sends pages of the list of jobs, and their changes, to the clients that watch the list (`WatchJobs`).

Clients that ask for the same page of the list share one watch. The watch reads the page from the memory and the
database when its first client comes, and then follows the changes of jobs:
1. When a job changes, each watch only notes the job, which costs a microsecond.
2. Up to four times a second, and less often for many clients, the watch makes the messages of the noted jobs that are
   on its page, waits until the changes are saved, and announces the messages. If jobs have left the page, the watch
   reads the jobs that follow.
3. Each client gets all changes since its last message. Clients at the same version share one message. The controller
   sends the messages one after the other, with pauses for other calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from iris.cluster.controller.api import messages
from iris.cluster.controller.api.job_lists.live_page import LivePage
from iris.cluster.controller.api.job_lists.pages import JobPages, PageChoice
from iris.cluster.controller.api.job_lists.state_counts import StateCounts
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.storage.saver import Saver
from iris.errors import InternalError, IrisError
from iris.rpc import cluster_pb2
from iris.rpc.serving.steps import Steps
from iris.system.event_loop import happens

WatchJobsRequest = cluster_pb2.Controller.WatchJobsRequest
WatchJobsResponse = cluster_pb2.Controller.WatchJobsResponse

# A client gets an empty message after this many seconds without changes, because common proxies cut idle streams after
# 20 to 60 s.
BEAT_S = 10.0
# If loading the list takes longer than this many seconds, the client gets an empty message, because clients wait only
# 10 s for the first message.
_FIRST_BEAT_S = 2.0
# The shortest time in seconds between two messages about changes of the list.
_PACE_S = 0.25
# The pause between two messages about changes grows by this many seconds for each client that watches the list, up to
# the limit. If jobs begin and end all the time, each of twenty clients gets a message about every 0.65 s.
_PACE_PER_CLIENT_S = 0.02
_LONGEST_PACE_S = 0.7
# For hundreds of clients, the pause grows further by this many seconds for each client.
_PACE_PER_CLIENT_OF_MANY_S = 0.002
# If a list has not changed for a while, its next change is sent after this many seconds, so that several changes share
# one message.
_MERGE_S = 0.02
# The number of stored messages about a list. They are sent again, because most clients of a list need the same message.
_MAX_MESSAGES = 8
# If jobs are removed while the list is read from the database, the list is read again, up to this many times in total.
# Afterwards the counts may include removed jobs.
_LOADS = 3
# After a message about changes, a watch pauses at least 20 times as long as the message took to make, but at most
# `_LONGEST_PAUSE_S` seconds. Therefore a watch uses at most a twentieth of the time of the controller's event loop,
# unless one message takes longer than 0.15 s.
_PAUSE_SHARE = 20.0
_LONGEST_PAUSE_S = 3.0
# If more jobs have changed than this number of pages can show, the watch reads its page again, because that is cheaper
# than applying all the changes.
_FLOOD = 2

_log = logging.getLogger(__name__)

# The version of the page, and the version of the counts of jobs by state.
Versions = tuple[int, int]
# A job's number, the job, and its state and message at one moment. The message is None if the job is not on the page.
_State = tuple[int, Job, int, cluster_pb2.JobStatus | None]


class JobListWatches:
    """The watches of the list of jobs.

    Args:
        jobs: The table of all jobs of the cluster.
        pages: The object that reads pages of the list of jobs.
        saver: The object that returns the last saved state of a job, which clients may see.
        slices: The object that makes messages with many jobs in small steps.

    Attributes:
        pages: The object that reads pages of the list of jobs.
    """

    def __init__(self, jobs: JobTable, pages: JobPages, saver: Saver, slices: Slices) -> None:
        self.pages = pages
        self._jobs = jobs
        self._saver = saver
        self._slices = slices
        self._watches: dict[PageChoice, JobListWatch] = {}
        self._last_added = saver.last_number

    def watches(self) -> Collection[JobListWatch]:
        """Return the watches that have clients now."""
        return self._watches.values()

    def job_added(self, record: JobRecord) -> None:
        """Notify the watches of a new job, which is saved. The caller must report new jobs in the order of their
        numbers.
        """
        self._last_added = max(self._last_added, record.number)
        self.publish(record)

    def publish(self, record: JobRecord) -> None:
        """Notify the watches that the job's saved state has changed."""
        for watch in self._watches.values():
            watch.job_changed(record)

    def job_removed(self, record: JobRecord) -> None:
        """Notify the watches that an ended job was removed."""
        for watch in self._watches.values():
            watch.job_removed(record)

    async def messages(self, request: WatchJobsRequest, caller: str) -> AsyncGenerator[WatchJobsResponse]:
        """Yield the page of the list of jobs that a request chooses. Then yield each change of the page until the
        client ends the call.

        Raises:
            InvalidArgumentError: The page size, the page token or a condition is invalid.
            ResourceExhaustedError: The caller has too many calls waiting for large answers.
        """
        choice = self.pages.choice(request)
        watch = self._watches.get(choice)
        if watch is None:
            watch = self._watches[choice] = JobListWatch(
                choice, caller, self._last_added, self._jobs, self.pages, self._saver, self._slices
            )
        watch.clients += 1
        try:
            async with aclosing(watch.messages()) as stream:
                async for message in stream:
                    yield message
        finally:
            watch.clients -= 1
            if not watch.clients or watch.has_failed:
                watch.stop()
                if self._watches.get(choice) is watch:
                    del self._watches[choice]


class JobListWatch:
    """The clients that watch one page of the list of jobs.

    Args:
        choice: The conditions, the order and the size of the page.
        caller: The client for which the watch was created. In the fair queue for large answers, the turns of the watch
            count as turns of this client.
        last_added: The highest number that a job has now.
        jobs: The table of all jobs of the cluster.
        pages: The object that reads pages of the list.
        saver: The object that returns the last saved state of a job, which clients may see.
        slices: The object that makes messages with many jobs in small steps.

    Attributes:
        clients: The number of clients that watch the page.
        built: The number of messages that were made for these clients.
        reads: How many times the page was read from the memory and the database.
    """

    def __init__(
        self,
        choice: PageChoice,
        caller: str,
        last_added: int,
        jobs: JobTable,
        pages: JobPages,
        saver: Saver,
        slices: Slices,
    ) -> None:
        self.clients = 0
        self.built = 0
        self.reads = 0
        self._choice = choice
        self._caller = caller
        self._last_added = last_added
        self._jobs = jobs
        self._pages = pages
        self._saver = saver
        self._slices = slices
        self._background = slices.in_background()
        self._read_s = 0.0  # How long all reads of the page have kept the controller busy.
        self._page = LivePage(choice)
        self._counts: StateCounts | None = None
        self._changed: dict[int, JobRecord] = {}
        self._removed: dict[int, JobRecord] = {}
        self._wake = asyncio.Event()
        # Clients that watch the list wait for this event. Each announcement of a change sets the event, and a new event
        # replaces it.
        self._announced = asyncio.Event()
        # The messages to clients, kept for reuse. The key has two versions of the list: before and after the message.
        self._messages: dict[tuple[Versions | None, Versions], WatchJobsResponse] = {}
        self._error: IrisError | None = None
        self._following = asyncio.create_task(self._follow())

    @property
    def has_failed(self) -> bool:
        """Whether the watch has ended with an error, so that it must not get further clients."""
        return self._error is not None

    def stop(self) -> None:
        """End the watch."""
        self._following.cancel()

    def job_changed(self, record: JobRecord) -> None:
        """Note that the saved state of a job has changed."""
        self._last_added = max(self._last_added, record.number)
        self._changed[record.number] = record
        self._wake.set()

    def job_removed(self, record: JobRecord) -> None:
        """Note that an ended job was removed."""
        self._removed[record.number] = record
        self._wake.set()

    async def messages(self) -> AsyncGenerator[WatchJobsResponse]:
        """Yield the messages for one client (see `JobListWatches.messages`)."""
        known: Versions | None = None
        while True:
            announced = self._announced
            if self._error is not None:
                raise self._error.with_traceback(None)
            if self._counts is not None and known != self._versions(self._counts):
                await self._slices.stream_turns.turn()
                now = self._versions(self._counts)
                message, known = self._message(known, now, self._counts), now
                yield message
            while not announced.is_set():
                if not await happens(announced, _FIRST_BEAT_S if known is None else BEAT_S):
                    yield WatchJobsResponse()

    def _versions(self, counts: StateCounts) -> Versions:
        return self._page.version, counts.version

    async def _follow(self) -> None:
        """Load the list of jobs. Then send each change of the list to the watching clients until the coroutine is
        cancelled.
        """
        loop = asyncio.get_running_loop()
        try:
            counts = await self._load()
            pause_s = _PACE_S
            shown: Versions | None = None
            while True:
                if shown != self._versions(counts):
                    shown = self._versions(counts)
                    self._announce()
                updated_at_s = loop.time()
                await self._wake.wait()
                await asyncio.sleep(max(_MERGE_S, updated_at_s + pause_s - loop.time()))
                self._wake.clear()
                pause_s = max(shortest_pause_s(self.clients), _PAUSE_SHARE * await self._update())
                pause_s = min(pause_s, _LONGEST_PAUSE_S)
        except IrisError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - The clients must get an error instead of silence.
            _log.exception("a watch of the list of jobs failed")
            self._error = InternalError(f"the list of jobs cannot be watched: {type(error).__name__}: {error}")
        self._announce()

    async def _load(self) -> StateCounts:
        """Read the page, and the number of jobs in each state, for the first time. Return the numbers."""
        for _ in range(_LOADS):
            self._removed.clear()
            counts, found = await self._read_all()
            if not self._removed:
                break
        self._page.replace_all(found)
        self._counts = counts
        return counts

    async def _read_all(self) -> tuple[StateCounts, dict[int, cluster_pb2.JobStatus]]:
        """Return the number of jobs in each state, and the statuses of the jobs on the page by number. Both show only
        saved changes.
        """
        wanted = replace(self._choice.wanted, states=())
        while True:
            async with self._slices.lane.turn(self._caller):
                # Jobs that change during the following read are noted, and are applied to the result of the read.
                self._changed.clear()
                counts = StateCounts(wanted, self._last_added)
                await self._slices.run(self._count_unfinished(counts, self._jobs.open_jobs()))
                counts.add_ended(await self._pages.count_ended(wanted, last=counts.last, without=counts.unfinished))
                found = await self._read_page(self._choice)
            if await self._saver.settled():
                return counts, found

    def _count_unfinished(self, counts: StateCounts, records: Sequence[JobRecord]) -> Steps[None]:
        for record in records:
            job = self._saver.shown(record).job
            counts.add_unfinished(record.number, job)
            yield

    async def _read_page(self, choice: PageChoice) -> dict[int, cluster_pb2.JobStatus]:
        self.reads += 1
        return await self._pages.read(choice, self._add_read_time)

    def _add_read_time(self, seconds: float) -> None:
        self._read_s += seconds

    async def _update(self) -> float:
        """Apply the noted changes of jobs to the page, and to the number of jobs in each state. Return how long this
        has kept the controller busy, in seconds, without the time in which other work was done.
        """
        assert self._counts is not None, "the list was loaded"
        self._background.begin_work()
        before_s = self._background.busy_s + self._read_s
        changed, self._changed = dict(sorted(self._changed.items())), {}
        removed, self._removed = self._removed, {}
        is_flood = len(changed) > _FLOOD * self._choice.limit
        for number, job, state, status in await self._saved_states(changed, without_page=is_flood):
            self._counts.change(number, job, state)
            if not is_flood:
                self._page.change(number, status)
        for number, record in removed.items():
            self._counts.remove(record.job)
            self._page.change(number, None)
        if is_flood:
            self._page.replace_all(await self._saved_page(self._choice))
        elif self._page.needs_reading:
            # Only the missing jobs are read, because the page follows the changes of its other jobs.
            self._page.extend(await self._saved_page(self._page.following()))
        return self._background.busy_s + self._read_s - before_s

    async def _saved_page(self, choice: PageChoice) -> dict[int, cluster_pb2.JobStatus]:
        while True:
            async with self._slices.lane.turn(self._caller):
                found = await self._read_page(choice)
            if await self._saver.settled():
                return found

    async def _saved_states(self, changed: Mapping[int, JobRecord], *, without_page: bool) -> list[_State]:
        """Return the saved state of each changed job, with its message if the job is on the page."""
        while True:
            made = await self._background.run(self._states(changed, without_page=without_page))
            if await self._saver.settled():
                return made

    def _states(self, changed: Mapping[int, JobRecord], *, without_page: bool) -> Steps[list[_State]]:
        made: list[_State] = []
        for number, record in changed.items():
            shown = self._saver.shown(record)
            is_on_page = not without_page and (number in self._page or self._page.could_contain(number))
            status = messages.job_status(shown) if is_on_page and self._choice.wanted.matches(shown.job) else None
            made.append((number, shown.job, int(shown.job.state), status))
            yield
        return made

    def _announce(self) -> None:
        self._messages.clear()
        announced, self._announced = self._announced, asyncio.Event()
        announced.set()

    def _message(self, known: Versions | None, now: Versions, counts: StateCounts) -> WatchJobsResponse:
        """Return the message with all changes of the list since the versions `known`, which a client has received. For
        a new client, `known` is None.
        """
        # A stored message can be used again only if the client knows the same versions, and the page and the counts
        # have not changed since the message was made.
        message = self._messages.get((known, now))
        if message is None:
            self.built += 1
            message = WatchJobsResponse()
            self._page.fill(message, None if known is None else known[0])
            counts.fill(message)
            while len(self._messages) >= _MAX_MESSAGES:
                del self._messages[next(iter(self._messages))]
            self._messages[known, now] = message
        return message


def shortest_pause_s(clients: int) -> float:
    """Return the shortest time between two messages about changes, in seconds, if `clients` clients watch the list."""
    few_s = min(_PACE_S + clients * _PACE_PER_CLIENT_S, _LONGEST_PACE_S)
    return max(few_s, _PACE_S + clients * _PACE_PER_CLIENT_OF_MANY_S)
