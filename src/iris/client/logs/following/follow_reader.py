"""Carries out the instructions of the follow engine, and yields log entries for the user. The sync and the async client
use this module."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from iris.client.logs.read_outage import OutageNotice, new_pauses, retry_rules
from iris.client.logs.read_state import Items, ReadState, is_final
from iris.cluster.client.operations.jobs import get_task_status
from iris.cluster.client.operations.steps import ItemOperation
from iris.cluster.logs.follow import Follow, FollowRules
from iris.cluster.logs.follow_events import (
    AttemptAbandoned,
    Deliver,
    Event,
    Fail,
    GiveUp,
    Instruction,
    ReadElsewhere,
    Retry,
    StreamId,
    TasksChanged,
)
from iris.cluster.logs.progress import NextAttempt, NoAttempt
from iris.errors import DeadlineExceededError, UnavailableError
from iris.rpc import cluster_pb2


class Engine(Protocol):
    """The methods of a driver with which the reader reports events to the follow engine."""

    def report(self, event: Event) -> Iterable[Instruction]:
        """Report an event, and return the instructions for the reader."""

    def restart(self, stream: StreamId, task_index: int) -> None:
        """Read a task from a new stream."""


def new_follow(state: ReadState) -> Follow:
    """Return the follow engine for the tasks of a reader."""
    options = state.options
    rules = FollowRules(
        retry_rules(options),
        one_attempt=options.attempt_id is not None,
        has_other_server=state.routes.has_other_server,
    )
    return Follow(state.positions(), rules, new_pauses)


class FollowReader:
    """Carries out the instructions of the follow engine for one reader.

    Args:
        state: The state of the log reader.
        engine: The object that runs the follow engine, and gets events about the logs.
    """

    def __init__(self, state: ReadState, engine: Engine) -> None:
        self._state = state
        self._engine = engine
        self._notices: dict[int, OutageNotice] = {}

    def carry_out(self, instructions: Iterable[Instruction]) -> ItemOperation[Items, None]:
        """Carry out instructions of the follow engine, and yield the log entries for the user."""
        for instruction in instructions:
            match instruction:
                case Deliver():
                    yield from self._deliver(instruction)
                case NextAttempt() | NoAttempt():
                    self._state.apply([instruction])
                case ReadElsewhere(task_index, attempt_id):
                    self._state.routes.leave_worker(task_index, attempt_id)
                case Retry():
                    yield from self._handle_retry(instruction)
                case GiveUp(_, _, error) | Fail(error):
                    raise error

    def _deliver(self, delivery: Deliver) -> ItemOperation[Items, None]:
        state, chunk = self._state, delivery.chunk
        index = chunk.task_index
        reader = state.reader(index, chunk.attempt_id)
        batches: Iterable[tuple[int, Items]] = reader.read(chunk.records)
        if is_final(chunk.end):
            batches = itertools.chain(batches, reader.flush(ended=True))
        elif chunk.flush and state.partial:
            batches = itertools.chain(batches, reader.flush())
        for timestamp_ms, items in batches:
            if not state.is_before_start(index, timestamp_ms):
                state.deliver(index, items)
                yield items
        if chunk.HasField("end") and chunk.end.complete:
            state.attempt_ended(index, delivery.attempt, chunk.end)
        elif chunk.flush and state.existing_was_read(index):
            self._engine.restart(delivery.stream, index)

    def _handle_retry(self, retry: Retry) -> ItemOperation[Items, None]:
        state, index, attempt = self._state, retry.task_index, retry.attempt
        if retry.worker is not None and retry.tries > 1:
            state.routes.lost_worker(retry.worker[1])
        if not state.routes.has_other_server:
            # The worker may have restarted at another address. Therefore the newest status of the task is requested
            # from the controller, which knows the address.
            with suppress(UnavailableError, DeadlineExceededError):
                status = yield from get_task_status(state.job_id, index)
                attempt = status.attempts[attempt.attempt_id]
                yield from self.carry_out(self._engine.report(TasksChanged([status])))
            if (yield from state.routes.is_out_of_reach(attempt, retry.since_s)):
                yield from self._abandon(index, attempt, retry.error)
                return
        notice = self._notices.get(index)
        if notice is None:
            is_told = bool(self._notices)  # The user gets one notice, even if the logs of several tasks are unreadable.
            subject = f"task {index}, attempt {attempt.attempt_id}"
            notice = self._notices[index] = OutageNotice(state.options, subject, quiet=is_told)
        notice.report(retry.error, retry.failure, retry.tries)

    def _abandon(self, index: int, attempt: cluster_pb2.TaskAttempt, error: Exception) -> ItemOperation[Items, None]:
        state = self._state
        for _, items in state.reader(index, attempt.attempt_id).flush(ended=True):
            state.deliver(index, items)
            yield items
        state.attempt_ended(index, attempt, state.give_up_attempt(index, attempt, error).end)
        yield from self.carry_out(self._engine.report(AttemptAbandoned(index)))
