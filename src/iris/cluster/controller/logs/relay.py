"""One reader's stream through the controller: put together from those of workers, and of what is kept here."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field

from iris.cluster.controller.api import messages
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.sources import LogSources, end_of
from iris.cluster.controller.workers.dispatch import WorkerRecord
from iris.cluster.logs.cursor import Position, to_message
from iris.cluster.logs.progress import Progress, complete_end, end_without_attempt
from iris.cluster.logs.reading.live_stream import stream_logs
from iris.cluster.logs.reading.open_log import BEAT_S, OpenLog
from iris.cluster.types import is_task_finished
from iris.errors import (
    DeadlineExceededError,
    IrisError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from iris.rpc import cluster_pb2
from iris.rpc.calls import stream_async
from iris.rpc.cluster_pb2 import StreamTaskLogsRequest, StreamTaskLogsResponse
from iris.rpc.peer import Peer
from iris.rpc.serving.steps import finish

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 2.0
_OPENED_AT_ONCE = 50  # logs that are kept here; then all else has its turn
_HELD_MESSAGES = 2  # of all that is relayed to one reader
# For so long, and so often, a source that does not answer is tried before the reader is told, who has patience or not.
_TRIED_S = 2.0
_TRIES = 3
# Of a worker that was declared lost: what it has to say still comes at once, or never.
_LAST_WORDS_S = 2.0
_log = logging.getLogger(__name__)

Chunk = StreamTaskLogsResponse.Chunk


@dataclass(slots=True, eq=False)
class _Leg:
    """One source of a relay: a stream of a `worker`, or of what is kept here."""

    tasks: set[int]
    worker: WorkerRecord | None = None
    reading: asyncio.Task[None] | None = None
    has_given: set[int] = field(default_factory=set)
    is_left: bool = False
    since_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Trouble:
    """A task whose log does not come: since when, and how often it was tried."""

    since_s: float
    tries: int = 0


class LogRelay:
    """One reader's stream.

    1. Attempts that are to be read, and are not, are opened: one stream for all that come from the same worker.
    2. What comes is handed on as it is. The end of an attempt is noted in the books, which say what is next.
    3. A source that breaks before it gave anything is opened again. One that has given something is not, since we do
       not know how far it came: the reader does, is told by an `end` that is not complete, and asks again from there.
    4. One of a worker that was declared lost, and is silent, is left: a machine that is gone ends no connection.
    5. One that does not answer for a while is the reader's to have patience with, and is told of by an `error`.
    """

    def __init__(
        self,
        sources: LogSources,
        caller: str,
        record: JobRecord,
        request: StreamTaskLogsRequest,
        positions: Mapping[int, Position],
    ) -> None:
        self._sources = sources
        self._caller = caller
        self._record = record
        self._request = request
        self._positions = dict(positions)
        self._progress = Progress(positions, follow=request.follow, one_attempt=request.one_attempt)
        self._queue: asyncio.Queue[tuple[_Leg | None, StreamTaskLogsResponse | Exception | None]] = asyncio.Queue(
            _HELD_MESSAGES
        )
        self._legs: set[_Leg] = set()
        self._watching: asyncio.Task[None] | None = None
        self._due: dict[int, float] = {}
        self._dying: dict[_Leg, float] = {}  # of lost workers: when they are left
        self._troubles: dict[int, _Trouble] = {}
        self._not_at_worker: set[tuple[int, int]] = set()  # attempts of tasks, by their numbers
        self._sent = 0

    async def run(self) -> AsyncGenerator[StreamTaskLogsResponse]:
        """What is to be sent, until the end."""
        seen = await self._update(0)
        self._watching = asyncio.create_task(self._watch())
        beat_at = time.monotonic() + BEAT_S
        while True:
            failed = self._leave_lost()
            failed.MergeFrom(self._open())
            if failed.chunks:
                yield failed
            if self._progress.is_over:
                return
            within_s = max(0.0, min([beat_at, *self._due.values(), *self._dying.values()]) - time.monotonic())
            try:
                async with asyncio.timeout(within_s):
                    leg, event = await self._queue.get()
            except TimeoutError:
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + BEAT_S
                    yield StreamTaskLogsResponse()
                continue
            if leg is None:
                seen = await self._update(seen)
                continue
            message = self._take(leg, event)
            if message.chunks:
                beat_at = time.monotonic() + BEAT_S
                yield message
                if self._request.max_bytes and self._sent >= self._request.max_bytes:
                    return

    async def close(self) -> None:
        """Ends its sources."""
        tasks = [leg.reading for leg in self._legs if leg.reading is not None]
        if self._watching is not None:
            tasks.append(self._watching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _update(self, seen: int) -> int:
        while True:
            record = self._sources.saved.shown(self._record)
            revision = record.job.revision
            changed = [index for index in self._positions if record.job.tasks[index].revision > seen or not seen]
            making = messages.some_tasks(record, changed)
            if len(changed) <= messages.AT_ONCE:
                news = finish(making)
            else:
                news = await self._sources.slices.run_for(self._caller, making)
            if await self._sources.saved.settled():  # else it could not be saved, and is not shown
                self._progress.update(news)
                return revision

    async def _watch(self) -> None:
        while True:
            changed = self._sources.watches.next_change(self._record.job_id)
            await self._queue.put((None, None))  # also for what changed before we looked
            await changed.wait()

    def _open(self) -> StreamTaskLogsResponse:
        """Opens what is to be read; answers with what is to be said of what cannot be."""
        now = time.monotonic()
        for index in [index for index, at in self._due.items() if at <= now]:
            del self._due[index]
            self._progress.interrupted(index)
        answer = StreamTaskLogsResponse()
        for task in self._progress.without_attempt():
            answer.chunks.add(task_index=task.task_index, attempt_id=len(task.attempts), end=end_without_attempt(task))
        of_workers: dict[str, list[tuple[int, Position]]] = {}
        kept: list[tuple[int, cluster_pb2.TaskAttempt, Position]] = []
        for index, attempt, position in self._progress.to_open():
            if (index, attempt.attempt_id) in self._not_at_worker:
                kept.append((index, attempt, position))
                continue
            try:
                worker = self._sources.source_of(self._record, index, attempt)
            except UnavailableError as error:
                self._failed(index, attempt.attempt_id, error, time.monotonic(), answer)
                continue
            if worker is None:
                kept.append((index, attempt, position))
            else:
                of_workers.setdefault(worker.place.worker_id, []).append((index, position))
        for worker_id, positions in of_workers.items():
            worker = self._sources.workers[worker_id]
            self._start(self._worker_stream(worker, positions), (index for index, _ in positions), worker)
        if kept:
            self._start(self._kept_stream(kept), (index for index, _, _ in kept))
        return answer

    async def _kept_stream(
        self, wanted: Iterable[tuple[int, cluster_pb2.TaskAttempt, Position]]
    ) -> AsyncGenerator[StreamTaskLogsResponse]:
        with ExitStack() as reading:
            async for message in self._kept_messages(wanted, reading):
                yield message

    async def _kept_messages(
        self, wanted: Iterable[tuple[int, cluster_pb2.TaskAttempt, Position]], reading: ExitStack
    ) -> AsyncGenerator[StreamTaskLogsResponse]:
        logs: list[OpenLog] = []
        for index, attempt, position in wanted:
            if not len(logs) % _OPENED_AT_ONCE:
                await asyncio.sleep(0)
            try:
                log = await self._sources.open_kept(self._record, index, attempt, position, self._request, reading)
                logs.append(log)
            except NotFoundError as error:
                end = end_of(attempt)
                end.complete = True
                if attempt.started_at_ms:
                    end.missing_reason = f"it is gone: {error}"
                yield StreamTaskLogsResponse(chunks=[Chunk(task_index=index, attempt_id=attempt.attempt_id, end=end)])
            except UnavailableError as error:
                yield StreamTaskLogsResponse(
                    chunks=[Chunk(task_index=index, attempt_id=attempt.attempt_id, error=str(error))]
                )
        if logs:
            stream = stream_logs(logs, self._sources.budget, follow=False, caller=self._caller)
            async with aclosing(stream) as messages:
                async for message in messages:
                    yield message

    def _worker_stream(
        self, worker: WorkerRecord, positions: list[tuple[int, Position]]
    ) -> AsyncGenerator[StreamTaskLogsResponse]:
        request = StreamTaskLogsRequest(
            job_id=self._request.job_id,
            positions=[to_message(index, position) for index, position in positions],
            follow=self._request.follow,
            filter=self._request.filter,
            max_bytes=self._request.max_bytes,
        )
        peer = Peer(worker.place.address, f"worker {worker.place.worker_id!r}")
        return stream_async(worker.stub.stream_task_logs(request), peer)

    def _start(
        self,
        messages: AsyncGenerator[StreamTaskLogsResponse],
        tasks: Iterable[int],
        worker: WorkerRecord | None = None,
    ) -> None:
        leg = _Leg(set(tasks), worker)
        self._legs.add(leg)
        leg.reading = asyncio.create_task(self._read(leg, messages))

    async def _read(self, leg: _Leg, messages: AsyncGenerator[StreamTaskLogsResponse]) -> None:
        ended: Exception | None = None
        try:
            async with aclosing(messages):
                async for message in messages:
                    await self._queue.put((leg, message))
        except (UnauthenticatedError, PermissionDeniedError) as error:
            ended = UnavailableError(str(error))  # it is us whom the worker does not let in, not our reader
        except IrisError as error:
            ended = error
        except Exception as error:  # noqa: BLE001 - a bug must not look like a log that goes on
            _log.exception("relaying a log")
            ended = error
        await self._queue.put((leg, ended))

    def _leave_lost(self) -> StreamTaskLogsResponse:
        """Leaves workers that were lost and have nothing more to say; the answer is to be sent."""
        now = time.monotonic()
        answer = StreamTaskLogsResponse()
        for leg in self._legs:
            if leg.worker is None or not leg.worker.gone or leg.is_left:
                continue
            if now < self._dying.setdefault(leg, now + _LAST_WORDS_S):
                continue
            del self._dying[leg]
            leg.is_left = True
            if leg.reading is not None:
                leg.reading.cancel()
            for index in sorted(leg.tasks):
                error = UnavailableError(f"worker {leg.worker.place.worker_id!r} was lost")
                self._interrupted(leg, index, error, answer)
        return answer

    def _take(self, leg: _Leg, event: StreamTaskLogsResponse | Exception | None) -> StreamTaskLogsResponse:
        """What becomes of what a source brought; the answer is to be sent."""
        if leg.is_left:
            return StreamTaskLogsResponse()  # what it brought is read elsewhere
        if leg in self._dying:
            self._dying[leg] = time.monotonic() + _LAST_WORDS_S
        if not isinstance(event, StreamTaskLogsResponse):
            self._legs.discard(leg)
            self._dying.pop(leg, None)
            if event is not None and not isinstance(event, UnavailableError | DeadlineExceededError):
                raise event  # what was asked for cannot be had; asking again would change nothing
            answer = StreamTaskLogsResponse()
            for index in sorted(leg.tasks):
                self._interrupted(leg, index, event or UnavailableError("its log ended without an end"), answer)
            return answer
        refused = [chunk for chunk in event.chunks if chunk.error]
        answer = StreamTaskLogsResponse() if refused else event  # what is large is not copied
        for chunk in refused:
            leg.tasks.discard(chunk.task_index)
            self._refused(leg, chunk, answer)
        for chunk in event.chunks:
            index = chunk.task_index
            if chunk.error:
                continue
            leg.has_given.add(index)
            self._troubles.pop(index, None)
            self._sent += len(chunk.records)
            if chunk.HasField("end"):
                leg.tasks.discard(index)
                attempt = self._progress.attempt(index)
                if attempt is not None:
                    complete_end(chunk.end, attempt)
                if chunk.end.complete or not self._request.follow:
                    self._progress.attempt_ended(index)
                else:
                    self._progress.give_up(index)
            if refused:
                answer.chunks.append(chunk)
        return answer

    def _interrupted(self, leg: _Leg, index: int, error: Exception, answer: StreamTaskLogsResponse) -> None:
        attempt = self._progress.attempt(index)
        if index not in leg.has_given or attempt is None:
            self._failed(index, attempt.attempt_id if attempt else 0, error, leg.since_s, answer)
            return
        chunk = answer.chunks.add(task_index=index, attempt_id=attempt.attempt_id)
        if self._request.follow:
            chunk.end.complete = False  # who follows asks again, from where it is
        else:
            chunk.error = str(error)  # to who takes what there is now, an end would be the end of that
        self._progress.give_up(index)

    def _refused(self, leg: _Leg, chunk: Chunk, answer: StreamTaskLogsResponse) -> None:
        """A worker does not have a log: it has not heard of the attempt yet, or no longer has it. Or it is kept, and
        cannot be had now."""
        index = chunk.task_index
        attempt = self._progress.attempt(index)
        ended = attempt is not None and is_task_finished(attempt.state)
        if leg.worker is None:
            self._failed(index, chunk.attempt_id, UnavailableError(chunk.error), leg.since_s, answer)
        elif ended:
            self._not_at_worker.add((index, chunk.attempt_id))
            self._progress.interrupted(index)
        elif self._request.follow:
            trouble = self._troubles.setdefault(index, _Trouble(time.monotonic()))
            trouble.tries += 1
            self._later(index, trouble)
        else:
            answer.chunks.add(task_index=index, attempt_id=chunk.attempt_id).end.complete = False
            self._progress.attempt_ended(index)

    def _failed(
        self, index: int, attempt_id: int, error: Exception, since_s: float, answer: StreamTaskLogsResponse
    ) -> None:
        """The log of a task does not come: it is tried again, or told to the reader."""
        trouble = self._troubles.setdefault(index, _Trouble(since_s))
        trouble.tries += 1
        is_long = time.monotonic() - trouble.since_s >= _TRIED_S
        if is_long or (trouble.tries >= _TRIES and not self._request.follow):
            answer.chunks.add(task_index=index, attempt_id=attempt_id, error=str(error))
            self._progress.give_up(index)
        else:
            self._later(index, trouble)

    def _later(self, index: int, trouble: _Trouble) -> None:
        self._due[index] = time.monotonic() + pause_s(trouble.tries) * random.uniform(0.5, 1.5)


def pause_s(tries: int) -> float:
    """Seconds until a source is tried again that was tried so often: twice as long each time, up to a limit."""
    longest_after = math.ceil(math.log2(_LONGEST_PAUSE_S / _FIRST_PAUSE_S))
    return min(_FIRST_PAUSE_S * 2.0 ** min(tries, longest_after), _LONGEST_PAUSE_S)
