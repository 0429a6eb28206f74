"""Follows logs until all tasks have ended. A log reader first reads the lines that already exist (existing_lines.py).

`iris.cluster.logs.follow` decides which logs are read next, and `AsyncioDriver` reads them from the workers and the
kept logs. `FutureLines` turns the received records into lines. Following a log needs no thread, and stores only the
messages that the driver buffers.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Iterable, Iterator

from iris.cluster.controller.logs.relay import BUFFERED_MESSAGES
from iris.cluster.controller.logs.relay_servers import RelayServers
from iris.cluster.controller.plain_http.items import Item, Notice, Pause
from iris.cluster.controller.plain_http.reader_state import ReaderState
from iris.cluster.logs.asyncio_driver import AsyncioDriver
from iris.cluster.logs.follow import Follow, FollowRules
from iris.cluster.logs.follow_events import Deliver, Fail, GiveUp, Instruction, ReadElsewhere, Retry
from iris.cluster.logs.outage import FIRST_PAUSE_S, Failure, RetryRules
from iris.cluster.logs.progress import NextAttempt, NoAttempt
from iris.rpc import cluster_pb2
from iris.system.backoff import Backoff

_PATIENCE_S = 300.0
_LONGEST_PAUSE_S = 5.0
_NOTICE_INTERVAL_S = 10.0
# If a worker does not know an attempt, the reader gets a notice after this number of failed tries. Fewer failed tries
# are normal, because the attempt may have just started.
_QUIET_TRIES = 8


class FutureLines:
    """Follows the logs of a reader's tasks.

    Args:
        state: The state of the reader.
    """

    def __init__(self, state: ReaderState) -> None:
        self._state = state
        chosen = cluster_pb2.Worker.FetchLogsFilter()
        chosen.CopyFrom(state.filter)
        if state.checks_start_itself:
            chosen.ClearField("start_ms")
        self._servers = RelayServers(
            state.sources,
            state.caller,
            state.record,
            state.request(chosen, follow=True),
            lambda read: state.reader(read.task_index, read.attempt.attempt_id).received,
        )
        rules = FollowRules(RetryRules(_PATIENCE_S), one_attempt=state.query.attempt_id is not None)
        self._follow = Follow(state.received(), rules, lambda: Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S))
        self._told_s = -math.inf

    async def read(self) -> AsyncGenerator[Item]:
        """Yield the lines as tasks write them, until the logs of all tasks were read to their ends."""
        statuses = self._servers.statuses(list(self._state.tasks))
        driver = AsyncioDriver(self._follow, self._servers, statuses, buffered_messages=BUFFERED_MESSAGES)
        try:
            while not self._follow.is_over:
                step = await driver.step()
                for item in self._carry_out(step.instructions):
                    yield item
                yield Pause()
        finally:
            await driver.close()

    def _carry_out(self, instructions: Iterable[Instruction]) -> Iterator[Item]:
        state = self._state
        for instruction in instructions:
            match instruction:
                case Deliver():
                    yield from self._deliver(instruction)
                case NextAttempt() | NoAttempt():
                    yield from state.apply(instruction)
                case ReadElsewhere(task_index, attempt_id):
                    self._servers.leave_worker(task_index, attempt_id)
                case Retry():
                    yield from self._notice_of(instruction)
                case GiveUp(_, _, error) | Fail(error):
                    raise error

    def _deliver(self, delivery: Deliver) -> Iterator[Item]:
        state, chunk = self._state, delivery.chunk
        index = chunk.task_index
        reader = state.reader(index, chunk.attempt_id)
        for timestamp_ms, entries in reader.read(chunk.records):
            if not self._is_before_start(timestamp_ms):
                yield state.deliver(index, entries)
        is_final = chunk.HasField("end") and (chunk.end.complete or bool(chunk.end.missing_reason))
        if is_final or (chunk.flush and state.partial):
            for timestamp_ms, entries in reader.flush(ended=is_final):
                if not self._is_before_start(timestamp_ms):
                    yield state.deliver(index, entries)
        if chunk.HasField("end") and chunk.end.complete:
            yield from state.attempt_ended(index, delivery.attempt, chunk.end)

    def _is_before_start(self, timestamp_ms: int) -> bool:
        return timestamp_ms <= self._state.filter.start_ms

    def _notice_of(self, retry: Retry) -> Iterator[Notice]:
        now = time.monotonic()
        is_news = retry.tries == (_QUIET_TRIES if retry.failure is Failure.NOT_YET else 1)
        if is_news and now - self._told_s >= _NOTICE_INTERVAL_S:
            self._told_s = now
            yield Notice(f"task {retry.task_index}, attempt {retry.attempt.attempt_id}: {retry.error}; trying again")
