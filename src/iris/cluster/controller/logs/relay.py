"""Relays logs to a reader. The controller combines the streams of workers and the kept logs into one stream.

The relay does not parse log records. A message of a worker goes to the reader unchanged if possible, because copying
large messages costs time. The module `iris.cluster.logs.follow` decides which log is read next. The relay converts the
instructions of that module to messages for the reader.

If a worker's stream breaks after some records, the relay cannot resume the stream, because only the reader knows how
many records it has received. Therefore the relay ends its stream to the reader with a notice, and the reader requests
the log again from its own position. If a server does not answer, the relay tries again for `_PATIENCE_S` seconds.
Afterwards the reader gets an error, and decides whether to try again.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Mapping

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.relay_servers import RelayServers
from iris.cluster.controller.logs.sources import LogSources
from iris.cluster.logs.asyncio_driver import AsyncioDriver, Step
from iris.cluster.logs.cursor import Position
from iris.cluster.logs.follow import Follow, FollowRules
from iris.cluster.logs.follow_events import (
    Deliver,
    Fail,
    GiveUp,
    Instruction,
    Interrupted,
    NothingYet,
    ReadElsewhere,
)
from iris.cluster.logs.outage import FIRST_PAUSE_S, RetryRules
from iris.cluster.logs.progress import NoAttempt, complete_end, end_without_attempt
from iris.cluster.logs.streaming.open_log import BEAT_S
from iris.cluster.logs.streaming.refused_log import refused_log
from iris.rpc.cluster_pb2 import StreamTaskLogsRequest, StreamTaskLogsResponse
from iris.system.backoff import Backoff

_PATIENCE_S = 2.0
_TRIES_WITHOUT_FOLLOW = 3
_LONGEST_PAUSE_S = 2.0
BUFFERED_MESSAGES = 2  # A relay keeps at most this many messages that its reader has not received yet.

Chunk = StreamTaskLogsResponse.Chunk


class LogRelay:
    """The stream of logs for one reader. The caller has to close the relay.

    Args:
        sources: The object that finds the worker or the kept log for each attempt.
        caller: The key under which limits count the caller (`Caller.key`).
        record: The record of the job.
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
        self._request = request
        self._servers = RelayServers(sources, caller, record, request, lambda read: read.position)
        retry = RetryRules(
            patience_s=_PATIENCE_S,
            max_tries=math.inf if request.follow else _TRIES_WITHOUT_FOLLOW,
            any_answer_counts=False,
        )
        rules = FollowRules(retry, follow=request.follow, one_attempt=request.one_attempt, resumes=False)
        self._follow = Follow(positions, rules, lambda: Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S))
        statuses = self._servers.statuses(list(positions))
        self._driver = AsyncioDriver(self._follow, self._servers, statuses, buffered_messages=BUFFERED_MESSAGES)
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

    # Messages to the reader.

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
                if self._request.max_bytes:
                    # The size of the records is counted only if the request has a limit, because protobuf copies the
                    # records at each access.
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
                    # With `follow`, the reader gets an incomplete end, and asks again from its own position.
                    return _incomplete_end(task_index, attempt_id)
                # A reader without `follow` gets an error, because the reader would take an incomplete end for the end
                # of the log.
                return refused_log(task_index, attempt_id, error)
            case GiveUp(task_index, attempt_id, error):
                return refused_log(task_index, attempt_id, error)
            case ReadElsewhere(task_index, attempt_id):
                self._servers.leave_worker(task_index, attempt_id)
            case Fail(error):
                raise error
        return None


def _incomplete_end(task_index: int, attempt_id: int) -> Chunk:
    chunk = Chunk(task_index=task_index, attempt_id=attempt_id)
    chunk.end.complete = False
    return chunk
