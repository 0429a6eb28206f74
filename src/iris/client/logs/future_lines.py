"""Reads future log lines until all tasks have ended. A reader of logs has two stages, and this is the second stage.

`iris.cluster.logs.follow` decides which logs are read next from which servers, and `ThreadDriver` reads them.
`FutureLines` turns the received data into entries for the user.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from iris.client.logs.read_outage import OutageNotice, new_pauses, retry_rules
from iris.client.logs.read_state import Items, ReadState, is_final
from iris.client.logs.thread_driver import OpenStream, Silence, ThreadDriver
from iris.cluster.logs.cursor import to_message
from iris.cluster.logs.follow import Follow, FollowRules
from iris.cluster.logs.follow_events import (
    AttemptAbandoned,
    Deliver,
    Fail,
    GiveUp,
    Instruction,
    Read,
    ReadElsewhere,
    Retry,
    TasksChanged,
    Worker,
)
from iris.cluster.logs.progress import NextAttempt, NoAttempt
from iris.errors import DeadlineExceededError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.http.client.stream_handle import StreamHandle

# A server is a pair. The first item is the worker from which to read, or None for the controller. The second item says
# whether the client, and not the server, checks `start_ms`.
_Server = tuple[Worker | None, bool]


class FutureLines:
    """Reads the future lines of a reader's tasks.

    Args:
        state: The state of the reader.
    """

    def __init__(self, state: ReadState) -> None:
        self._state = state
        options = state.options
        rules = FollowRules(
            retry_rules(options),
            one_attempt=options.attempt_id is not None,
            has_other_server=state.routes.has_other_server,
        )
        self._follow = Follow(state.positions(), rules, new_pauses)
        self._driver: ThreadDriver[_Server] = ThreadDriver(self._follow, _ClientServers(state))
        self._notices: dict[int, OutageNotice] = {}
        self._until = min(options.until, options.follow_until)

    def run(self) -> Iterator[Items]:
        """Yield batches of items as they arrive. An empty batch means that no more data has arrived yet."""
        state, driver = self._state, self._driver
        yield from self._carry_out(driver.report(TasksChanged(list(state.tasks.values()))))
        if self._follow.is_over or time.monotonic() >= self._until:
            return
        driver.start()
        try:
            while not self._follow.is_over:
                yield from self._carry_out(driver.open_and_close())
                if not driver.has_arrivals:
                    yield ()
                arrival = driver.wait(self._until)
                if state.is_closed or (arrival is None and time.monotonic() >= self._until):
                    return
                if isinstance(arrival, Silence):
                    # The user needs no notice about a silent controller while a stream of log lines is open or is being
                    # retried.
                    if not self._follow.has_streams and not self._follow.has_outage:
                        state.options.on_notice(f"{arrival.error}; trying again")
                elif arrival is not None:
                    yield from self._carry_out(driver.apply(arrival))
        finally:
            driver.end()

    def wake(self) -> None:
        """Make the iteration over `run` continue soon, even if no data arrives. Any thread may call this method."""
        self._driver.wake()

    def end(self) -> None:
        """End the threads, from any thread."""
        self._driver.end()

    def _carry_out(self, instructions: Iterable[Instruction]) -> Iterator[Items]:
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

    def _deliver(self, delivery: Deliver) -> Iterator[Items]:
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
            self._driver.restart(delivery.stream, index)

    def _handle_retry(self, retry: Retry) -> Iterator[Items]:
        state, index, attempt = self._state, retry.task_index, retry.attempt
        if retry.worker is not None and retry.tries > 1:
            state.cluster.lost_worker(retry.worker[1])
        if not state.routes.has_other_server:
            # The worker may have restarted at another address. The controller knows the new address.
            with suppress(UnavailableError, DeadlineExceededError):
                status = state.cluster.get_task_status(state.job_id, index)
                attempt = status.attempts[attempt.attempt_id]
                yield from self._carry_out(self._driver.report(TasksChanged([status])))
            if state.routes.is_out_of_reach(attempt, retry.since_s):
                yield from self._abandon(index, attempt, retry.error)
                return
        notice = self._notices.get(index)
        if notice is None:
            is_told = bool(self._notices)  # One notice is enough, even if the logs of several tasks are unreadable.
            subject = f"task {index}, attempt {attempt.attempt_id}"
            notice = self._notices[index] = OutageNotice(state.options, subject, quiet=is_told)
        notice.report(retry.error, retry.failure, retry.tries)

    def _abandon(self, index: int, attempt: cluster_pb2.TaskAttempt, error: Exception) -> Iterator[Items]:
        state = self._state
        for _, items in state.reader(index, attempt.attempt_id).flush(ended=True):
            state.deliver(index, items)
            yield items
        state.attempt_ended(index, attempt, state.give_up_attempt(index, attempt, error).end)
        yield from self._carry_out(self._driver.report(AttemptAbandoned(index)))


class _ClientServers:
    """Implements `LogServers` for the servers of a cluster."""

    def __init__(self, state: ReadState) -> None:
        self._state = state

    def choose(self, read: Read) -> _Server:
        worker = self._state.routes.worker_of(read.task_index, read.attempt)
        return worker, self._state.filters_start_here(read.task_index)

    def worker(self, server: _Server) -> Worker | None:
        return server[0]

    def opener(self, server: _Server, reads: Sequence[Read]) -> OpenStream:
        worker, without_start_time = server
        positions = [
            to_message(read.task_index, self._state.reader(read.task_index, read.attempt.attempt_id).received)
            for read in reads
        ]
        request = self._state.request(positions, follow=True, without_start_time=without_start_time)
        return lambda handle: self._state.cluster.stream_task_logs(request, worker, handle)

    def watch(
        self, handle: StreamHandle, on_silence: Callable[[UnavailableError], None]
    ) -> Iterator[Sequence[cluster_pb2.TaskStatus]]:
        jobs = self._state.cluster.watch_job(
            self._state.job_id,
            patience_s=self._state.options.patience_s,
            include_tasks=True,
            handle=handle,
            on_silence=on_silence,
        )
        return (job.tasks for job in jobs)
