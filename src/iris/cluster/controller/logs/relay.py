"""Relays logs to a reader. The controller combines the streams of workers and the kept logs into one stream.

The relay does not parse log records. A message of a worker goes to the reader unchanged if possible, because copying
large messages costs time. The module `iris.cluster.logs.follow` decides which log is read next. The relay converts the
instructions of that module to messages for the reader.

If a worker's stream breaks after some records, the relay cannot resume the stream, because only the reader knows how
many records it has received. Therefore the relay ends its own stream with a notice, and the reader asks again from its
position. If a server does not answer, the relay tries again for `_PATIENCE_S` seconds. Afterwards the reader gets an
error, and decides whether to try again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import ExitStack, aclosing

from iris.cluster.controller.api import messages
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.sources import LogSources, end_of
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.cluster.logs.asyncio_driver import AsyncioDriver, Step
from iris.cluster.logs.cursor import Position, to_message
from iris.cluster.logs.follow import Follow, FollowRules
from iris.cluster.logs.follow_events import (
    Deliver,
    Fail,
    GiveUp,
    Instruction,
    Interrupted,
    NothingYet,
    Read,
    ReadElsewhere,
    Worker,
)
from iris.cluster.logs.outage import FIRST_PAUSE_S, RetryRules
from iris.cluster.logs.progress import NoAttempt, complete_end, end_without_attempt
from iris.cluster.logs.streaming.open_log import BEAT_S, OpenLog
from iris.cluster.logs.streaming.refused_log import refused_log
from iris.cluster.logs.streaming.serve_stream import stream_logs
from iris.errors import NotFoundError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import stream_async
from iris.rpc.cluster_pb2 import StreamTaskLogsRequest, StreamTaskLogsResponse
from iris.rpc.peer import Peer
from iris.rpc.serving.steps import finish
from iris.system.backoff import Backoff

_PATIENCE_S = 2.0
_TRIES_WITHOUT_FOLLOW = 3
_LONGEST_PAUSE_S = 2.0
_BUFFERED_MESSAGES = 2  # The largest number of messages that one relay holds for its reader.
_OPENED_PER_TURN = 50  # The number of logs that a relay opens before the event loop handles other events.

Chunk = StreamTaskLogsResponse.Chunk


class LogRelay:
    """The stream of logs for one reader. The caller has to close the relay.

    Args:
        sources: Finds the worker or the kept log for each attempt.
        caller: The name of the caller, whose quotas apply.
        record: The job.
        request: The reader's request.
        positions: The position from which the reader wants to read, by task index.
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
        self._indices = list(positions)
        retry = RetryRules(
            patience_s=_PATIENCE_S,
            max_tries=math.inf if request.follow else _TRIES_WITHOUT_FOLLOW,
            any_answer_counts=False,
        )
        rules = FollowRules(retry, follow=request.follow, one_attempt=request.one_attempt, resumes=False)
        self._follow = Follow(positions, rules, lambda: Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S))
        self._not_at_worker: set[tuple[int, int]] = set()  # Each item is a pair of task index and attempt id.
        self._driver = AsyncioDriver(self._follow, self, self._statuses(), buffered_messages=_BUFFERED_MESSAGES)
        self._sent_bytes = 0

    async def run(self) -> AsyncGenerator[StreamTaskLogsResponse]:
        """Yield the messages for the reader until all requested logs are sent."""
        beat_at = time.monotonic() + BEAT_S
        while not self._follow.is_over:
            answer = self._answer(await self._driver.step(beat_at))
            if answer.chunks:
                beat_at = time.monotonic() + BEAT_S
                yield answer
                if self._request.max_bytes and self._sent_bytes >= self._request.max_bytes:
                    return
            elif time.monotonic() >= beat_at:
                beat_at = time.monotonic() + BEAT_S
                yield StreamTaskLogsResponse()

    async def close(self) -> None:
        """End the streams from which the relay reads."""
        await self._driver.close()

    # What the reader is told.

    def _answer(self, step: Step) -> StreamTaskLogsResponse:
        chunks: list[Chunk] = []
        for instruction in step.instructions:
            chunk = self._chunk(instruction)
            if chunk is not None:
                chunks.append(chunk)
        if step.message is not None and len(chunks) == len(step.message.chunks):
            # The worker's message is sent unchanged, because making a new message would copy all records.
            return step.message
        return StreamTaskLogsResponse(chunks=chunks)

    def _chunk(self, instruction: Instruction) -> Chunk | None:
        match instruction:
            case Deliver(_, chunk, attempt):
                self._sent_bytes += len(chunk.records)
                if attempt is not None and chunk.HasField("end"):
                    complete_end(chunk.end, attempt)
                return chunk
            case NoAttempt(task):
                number = len(task.attempts)
                return Chunk(task_index=task.task_index, attempt_id=number, end=end_without_attempt(task))
            case NothingYet(task_index, attempt_id):
                return _incomplete_end(task_index, attempt_id)
            case Interrupted(task_index, attempt_id, error):
                if self._request.follow:
                    # A reader with `follow` asks again from its position after an incomplete end.
                    return _incomplete_end(task_index, attempt_id)
                # A reader without `follow` gets an error, because it would mistake an incomplete end for the end of the
                # log.
                return refused_log(task_index, attempt_id, error)
            case GiveUp(task_index, attempt_id, error):
                return refused_log(task_index, attempt_id, error)
            case ReadElsewhere(task_index, attempt_id):
                self._not_at_worker.add((task_index, attempt_id))
            case Fail(error):
                raise error
        return None

    # The methods below read the states of tasks from the controller.

    async def _statuses(self) -> AsyncGenerator[list[cluster_pb2.TaskStatus]]:
        """Yield the saved statuses of all tasks. After each change, yield the saved statuses of the changed tasks."""
        seen = 0
        while True:
            changed = self._sources.watches.next_change(self._record.job_id)
            record = self._sources.saved.shown(self._record)
            revision = record.job.revision
            indices = [index for index in self._indices if not seen or record.job.tasks[index].revision > seen]
            making = messages.some_tasks(record, indices)
            if len(indices) <= messages.AT_ONCE:
                tasks = finish(making)
            else:
                tasks = await self._sources.slices.run_for(self._caller, making)
            if not await self._sources.saved.settled():
                continue  # These statuses could not be saved, so no reader may see them.
            yield tasks
            seen = revision
            await changed.wait()

    # The methods below implement `AsyncLogServers`. The relay's driver calls them to open streams.

    def choose(self, read: Read) -> WorkerRecord | None:
        """Return the worker that has the log of an attempt; None if the controller has the log."""
        if (read.task_index, read.attempt.attempt_id) in self._not_at_worker:
            return None
        return self._sources.source_of(self._record, read.task_index, read.attempt)

    def worker(self, server: WorkerRecord | None) -> Worker | None:
        """Return the id and address of a worker."""
        return None if server is None else (server.identity.worker_id, server.identity.address)

    def is_lost(self, server: WorkerRecord | None) -> bool:
        """Return whether a worker was declared lost."""
        return server is not None and server.is_dead

    def open(self, server: WorkerRecord | None, reads: Sequence[Read]) -> AsyncGenerator[StreamTaskLogsResponse]:
        """Return the stream of an attempt's log, from a worker or from the kept logs."""
        return self._kept_stream(reads) if server is None else self._worker_stream(server, reads)

    async def _worker_stream(
        self, worker: WorkerRecord, reads: Sequence[Read]
    ) -> AsyncGenerator[StreamTaskLogsResponse]:
        request = StreamTaskLogsRequest(
            job_id=self._request.job_id,
            positions=[to_message(read.task_index, read.position) for read in reads],
            follow=self._request.follow,
            filter=self._request.filter,
            max_bytes=self._request.max_bytes,
        )
        peer = Peer(worker.identity.address, f"worker {worker.identity.worker_id!r}")
        try:
            async with aclosing(stream_async(worker.stub.stream_task_logs(request), peer)) as worker_messages:
                async for message in worker_messages:
                    yield message
        except (UnauthenticatedError, PermissionDeniedError) as error:
            # The worker has refused the token of the controller, so the reader's token is not the problem.
            raise UnavailableError(str(error)) from error

    async def _kept_stream(self, reads: Iterable[Read]) -> AsyncGenerator[StreamTaskLogsResponse]:
        with ExitStack() as reading:
            async with aclosing(self._kept_messages(reads, reading)) as kept_messages:
                async for message in kept_messages:
                    yield message

    async def _kept_messages(self, reads: Iterable[Read], reading: ExitStack) -> AsyncGenerator[StreamTaskLogsResponse]:
        logs: list[OpenLog] = []
        for number, read in enumerate(reads):
            if not number % _OPENED_PER_TURN:
                await asyncio.sleep(0)
            index, attempt = read.task_index, read.attempt
            try:
                logs.append(
                    await self._sources.open_kept(self._record, index, attempt, read.position, self._request, reading)
                )
            except NotFoundError as error:
                end = end_of(attempt)
                end.complete = True
                if attempt.started_at_ms:
                    end.missing_reason = f"the log is gone: {error}"
                yield StreamTaskLogsResponse(chunks=[Chunk(task_index=index, attempt_id=attempt.attempt_id, end=end)])
            except UnavailableError as error:
                yield StreamTaskLogsResponse(chunks=[refused_log(index, attempt.attempt_id, error)])
        if logs:
            stream = stream_logs(logs, self._sources.budget, follow=False, caller=self._caller)
            async with aclosing(stream) as kept_messages:
                async for message in kept_messages:
                    yield message


def _incomplete_end(task_index: int, attempt_id: int) -> Chunk:
    chunk = Chunk(task_index=task_index, attempt_id=attempt_id)
    chunk.end.complete = False
    return chunk
