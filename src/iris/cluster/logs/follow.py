"""The follow engine: decides which attempts are read from which streams, when a broken stream is opened again, and when
everything was read.

`Follow` is pure: a driver reports events with the current time, and carries out the instructions that `Follow` returns.
There are two drivers, one with threads (`iris.client.logs.following.thread_driver`) and one with asyncio
(`iris.cluster.logs.asyncio_driver`). The rules are:
1. `Progress` decides which attempts are read. The driver opens one stream for all attempts on the same server.
2. The driver reports each chunk of a log message, and `Follow` delivers the chunk to the reader. The reader, and not
   `Follow`, notes where the chunk ends. A client opens each stream at the first byte that the reader has not received
   (`client/logs/following/resume_request.py`). The controller's relay opens each stream at `Read.position`.
3. A stream that breaks is opened again after a pause. A reader that cannot resume (`FollowRules.resumes`) and has
   already received data from the stream gets an `Interrupted` instruction instead.
4. A stream from a lost worker is closed when it has been silent for `LOST_WORKER_SILENCE_S`, because a machine that
   has lost power closes no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from iris.cluster.logs.cursor import Position
from iris.cluster.logs.follow_events import (
    AttemptAbandoned,
    Chunk,
    ChunkReceived,
    CloseStream,
    Deliver,
    Event,
    Fail,
    GiveUp,
    Instruction,
    Interrupted,
    MessageReceived,
    NoServer,
    NothingYet,
    Read,
    ReadElsewhere,
    RestartRequested,
    Retry,
    StreamEnded,
    StreamId,
    StreamOpened,
    TasksChanged,
    TimePassed,
    Worker,
    WorkerLost,
)
from iris.cluster.logs.outage import Failure, Outage, Pauses, RetryRules
from iris.cluster.logs.progress import Progress
from iris.cluster.types import is_task_finished
from iris.errors import DeadlineExceededError, UnavailableError, WorkerUnreachableError
from iris.rpc import cluster_pb2

# If a worker that was declared lost still runs, its last messages arrive at once. Therefore a short silence means that
# no more messages will arrive.
LOST_WORKER_SILENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class FollowRules:
    """The rules by which one reader follows logs.

    Attributes:
        retry: For how many seconds, and how many times, a reader tries again to read a log.
        follow: Whether the reader waits for future lines and attempts.
        one_attempt: Whether the reader wants only the attempts at which it starts.
        resumes: Whether the reader knows how far it has read, so that it can continue after a broken stream.
        has_other_server: Whether the log of an ended attempt may be available on a server other than the attempt's
            worker.
    """

    retry: RetryRules
    follow: bool = True
    one_attempt: bool = False
    resumes: bool = True
    has_other_server: bool = True


@dataclass(slots=True)
class _Stream:
    """An open stream.

    Attributes:
        tasks: The indices of the tasks whose logs the stream still carries.
        worker: The id and address of the worker that serves the stream; None if the controller serves the stream.
        opened_s: When the stream was opened, on the monotonic clock.
        has_answered: Whether a message has arrived from the stream.
        delivered: The indices of the tasks whose chunks were delivered to the reader.
        close_at: The time at which the stream is closed because its worker is lost; None if the worker is not lost.
    """

    tasks: set[int]
    worker: Worker | None
    opened_s: float
    has_answered: bool = False
    delivered: set[int] = field(default_factory=set)
    close_at: float | None = None


class Follow:
    """The state of one reader that follows logs: its progress, its open streams and its retries.

    Args:
        positions: The position at which the reader starts in the log of each task, by task index.
        rules: The rules by which the reader follows logs.
        new_pauses: A function that returns the pauses between the tries to read one log.
    """

    def __init__(
        self,
        positions: Mapping[int, Position],
        rules: FollowRules,
        new_pauses: Callable[[], Pauses],
    ) -> None:
        self._rules = rules
        self._new_pauses = new_pauses
        self._progress = Progress(positions, follow=rules.follow, one_attempt=rules.one_attempt)
        self._streams: dict[StreamId, _Stream] = {}
        self._outages: dict[int, Outage] = {}
        # For each task that waits for another try, the time at which its log is read again.
        self._retry_at: dict[int, float] = {}

    @property
    def is_over(self) -> bool:
        """Whether the reader has received all logs that it wants, to their ends."""
        return self._progress.is_over

    @property
    def has_outage(self) -> bool:
        """Whether at least one of the logs cannot be read at the moment."""
        return any(outage.tries for outage in self._outages.values())

    @property
    def has_streams(self) -> bool:
        """Whether at least one stream is open."""
        return bool(self._streams)

    @property
    def wake_at(self) -> float | None:
        """The time on the monotonic clock at which the driver must report `TimePassed`; None if the driver needs no
        timer.
        """
        closings = [stream.close_at for stream in self._streams.values() if stream.close_at is not None]
        return min([*self._retry_at.values(), *closings], default=None)

    def streams_of_lost_workers(self) -> list[StreamId]:
        """Return the open streams from workers that the controller has declared lost. The result is empty if no other
        server has the logs of lost workers.
        """
        if not self._rules.has_other_server:
            return []
        return [
            stream_id
            for stream_id, stream in self._streams.items()
            if stream.worker is not None
            and stream.close_at is None
            and any(_is_lost(self._progress.attempt(index)) for index in stream.tasks)
        ]

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Apply an event, and return the instructions in the order in which they must be carried out.

        Args:
            event: The event to handle.
            now: The present time on the monotonic clock, in seconds.
        """
        match event:
            case ChunkReceived(stream, chunk):
                return self._chunk_received(stream, chunk, now)
            case MessageReceived(stream):
                self._message_received(stream, now)
            case TimePassed():
                return self._time_passed(now)
            case TasksChanged(tasks):
                return list(self._progress.update(tasks))
            case StreamOpened(stream, worker, task_indices):
                self._streams[stream] = _Stream(set(task_indices), worker, now)
            case StreamEnded(stream, error, is_token_renewed):
                return self._stream_ended(stream, error, is_token_renewed, now)
            case NoServer(task_index, error):
                return self._failed(task_index, error, Failure.UNREACHABLE, None, now, began_s=now)
            case WorkerLost(stream):
                known = self._streams.get(stream)
                if known is not None and known.close_at is None:
                    known.close_at = now + LOST_WORKER_SILENCE_S
            case RestartRequested(stream, task_index):
                return self._restart(stream, task_index, now)
            case AttemptAbandoned(task_index):
                self._retry_at.pop(task_index, None)
                return list(self._progress.attempt_ended(task_index))
        return []

    def _time_passed(self, now: float) -> list[Instruction]:
        instructions: list[Instruction] = []
        for stream_id, stream in list(self._streams.items()):
            if stream.close_at is not None and stream.close_at <= now:
                del self._streams[stream_id]
                instructions.append(CloseStream(stream_id))
                instructions += self._leave_lost_worker(stream, now)
        for index in [index for index, at in self._retry_at.items() if at <= now]:
            del self._retry_at[index]
            self._progress.interrupted(index)
        instructions += [Read(*attempt) for attempt in self._progress.to_open()]
        return instructions

    def _leave_lost_worker(self, stream: _Stream, now: float) -> list[Instruction]:
        instructions: list[Instruction] = []
        who = "its worker" if stream.worker is None else f"worker {stream.worker[0]!r}"
        error = WorkerUnreachableError(f"{who} was lost and is silent")
        for index in sorted(stream.tasks):
            attempt = self._progress.attempt(index)
            if attempt is not None and _is_lost(attempt):
                instructions.append(ReadElsewhere(index, attempt.attempt_id))
            instructions += self._broke(index, stream, error, Failure.UNREACHABLE, now)
        return instructions

    def _message_received(self, stream_id: StreamId, now: float) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.has_answered = True
        if stream.close_at is not None:
            stream.close_at = now + LOST_WORKER_SILENCE_S
        if self._outages:
            for index in stream.tasks & self._outages.keys():
                self._outages[index].server_answered()

    def _chunk_received(self, stream_id: StreamId, chunk: Chunk, now: float) -> list[Instruction]:
        stream, index = self._streams.get(stream_id), chunk.task_index
        if stream is None or index not in stream.tasks:
            # The chunk comes from an old stream, and the task is read from another stream now. Therefore the chunk is
            # ignored.
            return []
        if chunk.error:
            stream.tasks.discard(index)
            return self._refused(stream, chunk, now)
        stream.delivered.add(index)
        if index in self._outages:
            self._outages[index].data_arrived()
        instructions: list[Instruction] = [Deliver(stream_id, chunk, self._progress.attempt(index))]
        if chunk.HasField("end"):
            stream.tasks.discard(index)
            if chunk.end.complete or not self._rules.follow:
                instructions += self._progress.attempt_ended(index)
            elif self._rules.resumes:
                # The server has not sent the whole log, because the server is being stopped. Therefore the log is read
                # again.
                self._retry_at[index] = now
            else:
                # A reader that cannot resume a broken stream reads nothing more of this task.
                self._progress.give_up(index)
        return instructions

    def _refused(self, stream: _Stream, chunk: Chunk, now: float) -> list[Instruction]:
        """Handle a server's answer that it does not have a log."""
        index = chunk.task_index
        attempt = self._progress.attempt(index)
        error = WorkerUnreachableError(chunk.error)
        if stream.worker is None:
            return self._failed(index, error, Failure.REFUSED, None, now, began_s=self._began_s(stream, now))
        if attempt is not None and is_task_finished(attempt.state) and self._rules.has_other_server:
            self._retry_at[index] = now
            return [ReadElsewhere(index, attempt.attempt_id)]
        if not self._rules.follow:
            return [NothingYet(index, chunk.attempt_id), *self._progress.attempt_ended(index)]
        return self._failed(index, error, Failure.NOT_YET, stream.worker, now, began_s=now)

    def _stream_ended(
        self, stream_id: StreamId, error: Exception | None, is_token_renewed: bool, now: float
    ) -> list[Instruction]:
        stream = self._streams.pop(stream_id, None)
        if stream is None or not stream.tasks:
            return []
        if error is None:
            error = WorkerUnreachableError("the stream ended before the end of the log")
        if not isinstance(error, UnavailableError | DeadlineExceededError):
            return [Fail(error)]
        failure = Failure.TOKEN_RENEWED if is_token_renewed else Failure.UNREACHABLE
        instructions: list[Instruction] = []
        for index in sorted(stream.tasks):
            instructions += self._broke(index, stream, error, failure, now)
        return instructions

    def _broke(self, index: int, stream: _Stream, error: Exception, failure: Failure, now: float) -> list[Instruction]:
        attempt = self._progress.attempt(index)
        if not self._rules.resumes and index in stream.delivered and attempt is not None:
            self._progress.give_up(index)
            return [Interrupted(index, attempt.attempt_id, error)]
        return self._failed(index, error, failure, stream.worker, now, began_s=self._began_s(stream, now))

    def _began_s(self, stream: _Stream, now: float) -> float:
        """Return the time at which the outage of a failed stream began. If the rules say that every message from a
        server ends an outage, and this stream has brought a message, then the outage begins now. Otherwise, the outage
        began when the stream was opened.
        """
        return now if stream.has_answered and self._rules.retry.any_answer_counts else stream.opened_s

    def _failed(
        self, index: int, error: Exception, failure: Failure, worker: Worker | None, now: float, *, began_s: float
    ) -> list[Instruction]:
        outage = self._outages.get(index)
        if outage is None:
            outage = self._outages[index] = Outage(self._rules.retry, self._new_pauses())
        pause_s = outage.failed(failure, now, began_s)
        attempt = self._progress.attempt(index)
        if pause_s is None:
            self._progress.give_up(index)
            return [GiveUp(index, 0 if attempt is None else attempt.attempt_id, error)]
        self._retry_at[index] = now + pause_s
        if attempt is None or outage.since_s is None:
            return []
        return [Retry(index, attempt, error, failure, outage.tries, outage.since_s, worker)]

    def _restart(self, stream_id: StreamId, index: int, now: float) -> list[Instruction]:
        stream = self._streams.get(stream_id)
        if stream is None or index not in stream.tasks:
            return []
        stream.tasks.discard(index)
        self._retry_at[index] = now
        if stream.tasks:
            return []
        del self._streams[stream_id]
        return [CloseStream(stream_id)]


def _is_lost(attempt: cluster_pb2.TaskAttempt | None) -> bool:
    return attempt is not None and attempt.is_worker_failure and is_task_finished(attempt.state)


Server = TypeVar("Server", bound=Hashable)


def group_by_server(
    reads: Iterable[Read], choose: Callable[[Read], Server]
) -> tuple[dict[Server, list[Read]], list[NoServer]]:
    """Group the attempts to read by the server that has their logs. Return the groups, and an event for each attempt
    whose log no server has.

    Args:
        reads: The attempts whose logs are to be read.
        choose: A function that returns the server for an attempt, or raises UnavailableError if no server has the log.
    """
    by_server: dict[Server, list[Read]] = {}
    missing: list[NoServer] = []
    for read in reads:
        try:
            by_server.setdefault(choose(read), []).append(read)
        except UnavailableError as error:
            missing.append(NoServer(read.task_index, error))
    return by_server, missing
