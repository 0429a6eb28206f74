"""Reads the logs of tasks: what there is, then what comes, through retries and lost connections, to the end.

Two stages, both from exact places and never from a clock:

1. What there is now, task by task and attempt after attempt, merged by time where several tasks are read. One thread,
   each stream read as fast as its lines are taken.
2. With `follow`, what comes: a thread that watches the job, and one for each worker that is read from (or for the
   controller, on behalf of those that cannot be reached). They hand messages to the thread that iterates, a few at a
   time, so that a reader who pauses makes the servers pause.

A connection that is lost is opened again from the bytes that have come. Which attempt comes next, and when it is all
over, is decided by `Progress`.
"""

from __future__ import annotations

import heapq
import inspect
import itertools
import math
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, Self

from iris.client.job import LogEntry
from iris.client.logs.following import Following
from iris.client.logs.lines import LineReader, RawReader
from iris.client.logs.log_options import DEAD_WORKER_PATIENCE_S, NotYetError, RefusedError, Trouble, Wanted
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.logs.cursor import Position, decode_cursor, to_message
from iris.cluster.logs.progress import Progress, Retried, complete_end, end_without_attempt
from iris.cluster.logs.records import SOURCES
from iris.cluster.types import is_task_finished
from iris.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    IrisError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    WorkerUnreachableError,
)
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import TokenRenewedError
from iris.rpc.http.stream_handle import StreamHandle

# Several logs are merged from pages, all of them together of about this size.
_PAGES_BYTES = 32 << 20
_LARGEST_PAGE_BYTES = 4 << 20


Chunk = cluster_pb2.StreamTaskLogsResponse.Chunk
# What a record became: its lines, or its bytes.
Items = Sequence[Any]


class _Lines(itertools.chain[LogEntry]):
    """The lines of a stream. A subclass of `chain` because iterating that costs no Python code per line."""

    _reading: Reading
    _batches: Generator[Sequence[LogEntry]]

    @classmethod
    def over(cls, reading: Reading, batches: Generator[Sequence[LogEntry]]) -> Self:
        lines = cls.from_iterable(batches)
        assert isinstance(lines, cls)
        lines._reading, lines._batches = reading, batches
        return lines

    def close(self) -> None:
        """End the stream, also for another thread that is waiting for a line."""
        self._reading.close()
        with suppress(ValueError):  # another thread is in it, and comes to its end by itself
            self._batches.close()


class LogStream(Iterator[LogEntry]):
    """Lines of one or several tasks, as an iterator. Close it, or let go of it, to end it before its end.

        with job.logs(follow=True) as lines:
            for line in lines:
                print(line.task_index, line.message)

    A line that was written in pieces is one entry, given when it is finished; a line that the task never finishes is
    given when its attempt ends, and before that only after `flush`. With `partial=True` pieces come as they are
    written.

    Iterated by one thread.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._batches = reading.batches()
        self._items = _Lines.over(self._reading, self._batches)

    @property
    def ends(self) -> Mapping[int, cluster_pb2.LogEnd]:
        """How the log of each task's last attempt ended, by task index, once it was read to there: the state of the
        attempt, its exit code, how much it wrote, and whether anything is missing."""
        return self._reading.ends

    def raw(self) -> Iterator[bytes]:
        """The exact bytes that the tasks wrote, instead of lines; several times faster. Of several tasks, or sources,
        the bytes come as they were captured: a line may be torn by another one.

        Raises:
            InvalidArgumentError: Lines were taken already.
        """
        if inspect.getgeneratorstate(self._batches) is not inspect.GEN_CREATED:
            raise InvalidArgumentError("raw(): to be asked for before the first line is taken")
        if self._reading.wanted.counts_lines:
            self._reading.gives_pieces = True
            return self._reading.bytes_of(self._items)
        self._reading.reads_lines = False
        chunks: Iterator[Any] = self._items
        return chunks

    def batches(self) -> Iterator[Sequence[LogEntry]]:
        """The lines, as many at a time as came together: those of a batch are of one task, attempt, source and time,
        and one that is `partial`, or says that bytes are missing, is alone. An empty batch comes before the stream
        waits for more: what was held back until now can be shown. To be asked for instead of lines."""
        return self._batches

    def flush(self) -> None:
        """Ask for the unfinished lines, from any thread: what has come of them is given next, as entries that are
        `partial`, and what continues them later is an entry of its own. Their cursors are exact: going on from one
        repeats nothing and leaves nothing out."""
        self._reading.ask_for_unfinished()

    def close(self) -> None:
        """Ends it, also for another thread that is waiting for a line; the servers stop sending."""
        self._items.close()

    def __iter__(self) -> Iterator[LogEntry]:
        return self._items

    def __next__(self) -> LogEntry:
        return next(self._items)

    def __enter__(self) -> LogStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Reading:
    """One reading of logs.

    Args:
        cluster: Where the job runs.
        job_id: The job.
        task_indices: Which tasks; None for all.
        wanted: What of them.

    Attributes:
        ends: How each task's last attempt that was read to its end has ended.
        reads_lines: Gives lines; else bytes.
        gives_pieces: Unfinished lines are given as they are written; else once they are finished or never will be.
        is_closed: Nobody wants to read on.

    Raises:
        NotFoundError: There is no such job, task or attempt.
        InvalidArgumentError: The cursor is of another job, or of another task.
        ControllerUnreachableError: It has not answered for `patience_s`.
    """

    def __init__(
        self, cluster: RemoteClusterClient, job_id: str, task_indices: Sequence[int] | None, wanted: Wanted
    ) -> None:
        self._cluster = cluster
        self._job_id = job_id
        self._wanted = wanted
        self.ends: dict[int, cluster_pb2.LogEnd] = {}
        self.reads_lines = True
        self.gives_pieces = wanted.partial
        self.is_closed = False
        self._is_flush_asked = False
        self._handles: dict[StreamHandle, None] = {}  # of the streams that the iterating thread has open
        self._following: Following | None = None
        trouble = Trouble(wanted, "")
        while True:
            left_s = max(0.001, wanted.until - time.monotonic())
            try:
                if task_indices is not None and len(task_indices) == 1:
                    tasks = [cluster.get_task_status(job_id, task_indices[0], timeout_s=left_s)]
                else:
                    tasks = cluster.list_tasks(job_id, timeout_s=left_s)
                break
            except (UnavailableError, DeadlineExceededError) as error:
                self._cluster.pause(trouble.pause(error))
        known = {task.task_index: task for task in tasks}
        for index in task_indices or ():
            if index not in known:
                raise NotFoundError(f"job {job_id!r} has no task {index}: its tasks are 0 to {len(known) - 1}")
        self._tasks = known if task_indices is None else {index: known[index] for index in task_indices}
        if wanted.route == "auto" and len(self._tasks) > 1:
            attempts = [attempt for task in self._tasks.values() for attempt in task.attempts]
            cluster.find_routes((attempt.worker_id, attempt.worker_address) for attempt in attempts)
        self._readers = {
            index: self._new_reader(index, position) for index, position in self._first_positions().items()
        }
        self._places = _Places(self._readers) if len(self._tasks) > 1 else None
        self._elsewhere: set[tuple[int, int]] = set()  # attempts whose workers are not asked
        self._caught_up: set[int] = set()  # tasks of which all was read that there was at the start
        self._silent: set[str] = set()  # workers that did not answer in the first stage of a follow

    def batches(self) -> Generator[Any]:
        """Lines, or bytes, as they came together, until the end; an empty batch when there is nothing more now."""
        wanted = self._wanted
        if not self.reads_lines or self.gives_pieces != wanted.partial:
            self._readers = {index: self._new_reader(index, reader.received) for index, reader in self._readers.items()}
        left = wanted.max_lines or math.inf
        with closing(self._with_unfinished(self._all())) as batches:
            for items in batches:
                # The pieces of a line are one line, which the last of them ends.
                if wanted.max_lines and items and (not items[0].partial or items[0].origin.ended):
                    yield items[: int(left)]
                    left -= len(items)
                else:
                    yield items
                if left <= 0 or time.monotonic() >= wanted.until or self.is_closed:
                    return

    def bytes_of(self, entries: Iterable[LogEntry]) -> Iterator[bytes]:
        """The bytes of lines that had to be counted; what is missing is told."""
        for entry in entries:
            if entry.missing_bytes:
                self._wanted.on_notice(f"task {entry.task_index}: {entry.message}")
            else:
                yield entry.data if entry.partial else entry.data + b"\n"

    def ask_for_unfinished(self) -> None:
        """Makes `batches` give the unfinished lines next; from any thread."""
        self._is_flush_asked = True
        if self._following is not None:
            self._following.wake()

    def close(self) -> None:
        """Ends it, from any thread."""
        self.is_closed = True
        for handle in list(self._handles):
            handle.abort()
        if self._following is not None:
            self._following.end()

    def _with_unfinished(self, batches: Generator[Items]) -> Generator[Items]:
        """The same batches, and the unfinished lines where they were asked for."""
        with closing(batches):
            for items in batches:
                yield items
                if self._is_flush_asked:
                    self._is_flush_asked = False
                    for index, reader in self._readers.items():
                        for _, unfinished in reader.flush():
                            self.place(index, unfinished)
                            yield unfinished

    def _all(self) -> Generator[Items]:
        if self._wanted.tail is not None:
            yield from self._last(self._wanted.tail)
        else:
            yield from self._until_now()
        if self._wanted.follow and not self.is_closed:
            self._following = Following(self)
            yield from self._following.run()

    # From where.

    def _first_positions(self) -> dict[int, Position]:
        wanted = self._wanted
        if wanted.cursor is not None:
            places = decode_cursor(self._job_id, wanted.cursor)
            if len(self._tasks) == 1 and not places.keys() & self._tasks.keys():
                (index,) = self._tasks
                other = min(places, default=0)
                raise InvalidArgumentError(
                    f"cursor={wanted.cursor!r} is a place in the log of task {other}, not of task {index}"
                )
            first = Position(wanted.attempt_id or 0)
            positions = {index: places.get(index, first) for index in self._tasks}
            for index, position in positions.items():
                if wanted.attempt_id not in (None, position.attempt_id):
                    raise InvalidArgumentError(
                        f"cursor={wanted.cursor!r} is a place in attempt {position.attempt_id} of task {index},"
                        f" not in attempt {wanted.attempt_id}"
                    )
            return positions
        if wanted.attempt_id is None:
            return dict.fromkeys(self._tasks, Position())
        for index, task in self._tasks.items():
            if wanted.attempt_id >= len(task.attempts) and (is_task_finished(task.state) or not wanted.follow):
                raise NotFoundError(
                    f"task {task.task_id!r} has no attempt {wanted.attempt_id}"
                    f" (it has had {len(task.attempts)}, counted from 0)"
                )
            del index
        return dict.fromkeys(self._tasks, Position(wanted.attempt_id))

    def _new_reader(self, index: int, position: Position) -> LineReader | RawReader:
        if self.reads_lines:
            return LineReader(self._job_id, index, position, whole=self._wanted.is_whole, pieces=self.gives_pieces)
        return RawReader(position, lambda text: self._wanted.on_notice(f"task {index}: {text}"))

    def progress(self, positions: Mapping[int, Position], *, follow: bool) -> Progress:
        """Books for reading on from places."""
        return Progress(positions, follow=follow, one_attempt=self._wanted.attempt_id is not None)

    # What there is now.

    def _until_now(self) -> Iterator[Items]:
        if len(self._tasks) == 1:
            (index,) = self._tasks
            with closing(self._task_until_now(index, page_bytes=0)) as blocks:
                for _, items in blocks:
                    yield items
            return
        # By time; but a task's own order is never changed, whatever its clock did: only the heads are compared.
        page_bytes = min(_LARGEST_PAGE_BYTES, max(64 << 10, _PAGES_BYTES // len(self._tasks)))
        heads = []
        for index in self._tasks:
            blocks = self._task_until_now(index, page_bytes=page_bytes)
            for timestamp_ms, items in blocks:
                heads.append((timestamp_ms, index, items, blocks))
                break
        heapq.heapify(heads)
        while heads:
            _, index, items, blocks = heads[0]
            self.place(index, items)
            yield items
            following = next(blocks, None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following[0], index, following[1], blocks))

    def _task_until_now(self, index: int, *, page_bytes: int) -> Generator[tuple[int, Items]]:
        """A task's records, through its attempts, each with its time. What of them is kept is up to `_readers`."""
        progress = self.progress({index: self._readers[index].received}, follow=False)
        self.update(progress, [self._tasks[index]])
        while opened := progress.to_open():
            ((_, attempt, position),) = opened
            if position.attempt_id != self._readers[index].received.attempt_id:
                self._readers[index] = self._new_reader(index, position)
            reader = self._readers[index]
            end = None
            with closing(self._chunks_until_now(index, attempt, page_bytes)) as chunks:
                for chunk in chunks:
                    yield from reader.read(chunk.records)
                    end = chunk.end if chunk.HasField("end") else None
            if end is not None:
                self._skip_to(index, reader, end)
            if self._wanted.follow and (end is None or not end.complete):
                if end is not None:
                    self._caught_up.add(index)
                return  # there is more to come, in the second stage
            if end is not None:
                if self.gives_pieces or self.is_final(end):
                    yield from reader.flush(ended=self.is_final(end))
                self.ended(progress, index, end)
            else:
                self.attempt_ended(progress, index)

    def _chunks_until_now(self, index: int, attempt: cluster_pb2.TaskAttempt, page_bytes: int) -> Generator[Chunk]:
        trouble = Trouble(self._wanted, f"task {index}, attempt {attempt.attempt_id}")
        while True:
            request = self.request([to_message(index, self._readers[index].received)], follow=False)
            request.max_bytes = page_bytes
            worker = self.worker_of(index, attempt)
            if self._wanted.follow and attempt.worker_id in self._silent:
                return  # one task of its waits for it in the second stage already
            got_any = False
            try:
                with self._stream(request, worker) as messages:
                    for chunk in itertools.chain.from_iterable(map(trouble.chunks_of, messages)):
                        if chunk.error and worker is not None and not is_task_finished(attempt.state):
                            return  # its worker has not heard of it yet, so there are no lines
                        if chunk.error:
                            raise self.not_here(index, attempt, chunk.error, worker)
                        trouble.over()
                        got_any = True
                        yield chunk
                        if chunk.HasField("end"):
                            return
                if not got_any:
                    raise WorkerUnreachableError("the stream ended without an end")
            except (UnavailableError, DeadlineExceededError) as error:
                # A follow whose end has passed has no second stage.
                has_second_stage = self._wanted.follow and time.monotonic() < self._wanted.follow_until
                if has_second_stage or self.is_closed:
                    if not isinstance(error, NotYetError | TokenRenewedError):
                        self._silent.add(attempt.worker_id)
                    return  # the second stage tries again, and does not hold up the other tasks meanwhile
                if worker is not None and trouble.tries:
                    self._cluster.lost_worker(worker[1])
                if self.is_out_of_reach(attempt, trouble):
                    yield self.given_up(index, attempt, error)
                    return
                self._cluster.pause(trouble.pause(error))

    def _last(self, count: int) -> Iterator[Items]:
        """The last lines of all, by time, and then on from there."""
        per_task: list[list[LogEntry]] = []
        for index, task in self._tasks.items():
            lines: list[LogEntry] = []
            newest: LineReader | RawReader | None = None
            attempts = [a for a in task.attempts if self._wanted.attempt_id in (None, a.attempt_id)]
            for attempt in reversed(attempts):
                if len(lines) < count or newest is None:
                    found, reader = self._tail_of(index, attempt, count - len(lines))
                    lines = found + lines
                    newest = newest or reader
            if newest is not None:
                self._readers[index] = newest
            per_task.append(lines)
        # By time where several tasks are read; the order of each stays.
        merged = list(heapq.merge(*per_task, key=lambda line: line.timestamp_ms)) if len(per_task) > 1 else per_task[0]
        shown = merged[max(0, len(merged) - count) :] if count else []
        if self._places is not None:
            before = {line.task_index: line.position(before=True) for line in reversed(shown)}
            self._places = _Places(self._readers, before)
        for _, group in itertools.groupby(shown, key=lambda line: id(line.origin)):
            items = list(group)
            self.place(items[0].task_index, items)
            yield items

    def _tail_of(
        self, index: int, attempt: cluster_pb2.TaskAttempt, count: int
    ) -> tuple[list[LogEntry], LineReader | RawReader]:
        trouble = Trouble(self._wanted, f"task {index}, attempt {attempt.attempt_id}")
        while True:
            reader = self._new_reader(index, Position(attempt.attempt_id))
            request = self.request([to_message(index, reader.received)], follow=False)
            # What the server counts may be unfinished, once in each source.
            request.filter.tail = max(count, 1) if self.gives_pieces else count + len(SOURCES)
            worker = self.worker_of(index, attempt)
            lines: list[Any] = []
            try:
                with self._stream(request, worker) as messages:
                    for chunk in itertools.chain.from_iterable(map(trouble.chunks_of, messages)):
                        if chunk.error:
                            raise self.not_here(index, attempt, chunk.error, worker)
                        reader.jumps = True
                        lines += (line for _, items in reader.read(chunk.records) for line in items)
                        if chunk.HasField("end"):
                            if not chunk.end.complete:
                                self._caught_up.add(index)
                            else:
                                lines += (line for _, items in reader.flush(ended=True) for line in items)
                                self._note_end(index, attempt, chunk.end)
                                if attempt.attempt_id == len(self._tasks[index].attempts) - 1:
                                    self.ends[index] = chunk.end
                            reader.skip_to(chunk.end.offsets)
                            reader.jumps = not self._wanted.is_whole
                            return lines[len(lines) - count :] if count else [], reader
                raise WorkerUnreachableError("the stream ended without an end")
            except (UnavailableError, DeadlineExceededError) as error:
                if self.is_closed:
                    return [], reader
                if worker is not None and trouble.tries:
                    self._cluster.lost_worker(worker[1])
                if self.is_out_of_reach(attempt, trouble):
                    self.ends[index] = self.given_up(index, attempt, error).end
                    return [], reader
                self._cluster.pause(trouble.pause(error))

    @contextmanager
    def _stream(
        self, request: cluster_pb2.StreamTaskLogsRequest, worker: tuple[str, str] | None
    ) -> Iterator[Iterator[cluster_pb2.StreamTaskLogsResponse]]:
        """One stream, which `close` ends from any thread. Several may be open at once."""
        handle = StreamHandle()
        self._handles[handle] = None
        if self.is_closed:
            handle.abort()
        try:
            with closing(self._cluster.stream_task_logs(request, worker, handle)) as messages:
                yield messages
        finally:
            del self._handles[handle]

    # What both stages need.

    @property
    def cluster(self) -> RemoteClusterClient:
        """Where the job runs."""
        return self._cluster

    @property
    def job_id(self) -> str:
        """The job."""
        return self._job_id

    @property
    def wanted(self) -> Wanted:
        """What is wanted."""
        return self._wanted

    @property
    def tasks(self) -> Mapping[int, cluster_pb2.TaskStatus]:
        """The tasks, as they were at the start."""
        return self._tasks

    def reader(self, index: int, attempt_id: int) -> LineReader | RawReader:
        """Where a task is read; at the beginning of the attempt, unless it is the one that was read."""
        reader = self._readers[index]
        if reader.received.attempt_id != attempt_id:
            reader = self._readers[index] = self._new_reader(index, Position(attempt_id))
        return reader

    def positions(self) -> dict[int, Position]:
        """Up to where the bytes of each task have come."""
        return {index: reader.received for index, reader in self._readers.items()}

    def request(
        self, positions: list[cluster_pb2.LogPosition], *, follow: bool, since_now: bool = False
    ) -> cluster_pb2.StreamTaskLogsRequest:
        """The message that asks for attempts from where they were read to; `since_now`: see `is_since_now`."""
        request = cluster_pb2.StreamTaskLogsRequest(
            job_id=self._job_id, positions=positions, follow=follow, one_attempt=True, filter=self._wanted.filter
        )
        if since_now:
            request.filter.ClearField("start_ms")
        return request

    @staticmethod
    def is_final(end: cluster_pb2.LogEnd) -> bool:
        """Whether nothing more of an attempt will ever be read: its log was read to its end, or is given up."""
        return end.complete or bool(end.missing_reason)

    def is_since_now(self, index: int) -> bool:
        """Whether only what comes is still to be read of a task, and nothing but its time counts. Then it is looked at
        here: a filter of the server gives whole lines only, and a prompt is to be seen."""
        wanted = self._wanted.filter
        return index in self._caught_up and wanted.start_ms > 0 and not wanted.end_ms and not wanted.regex

    def catches_up(self, index: int) -> bool:
        """Notes that all was read of a task that there was until now; whether it is to be read anew for that."""
        is_news = index not in self._caught_up
        self._caught_up.add(index)
        return is_news and self.is_since_now(index)

    def is_too_early(self, index: int, timestamp_ms: int) -> bool:
        """Whether what comes is from before the time that is wanted, since a clock went back."""
        return timestamp_ms <= self._wanted.filter.start_ms and self.is_since_now(index)

    def worker_of(self, index: int, attempt: cluster_pb2.TaskAttempt) -> tuple[str, str] | None:
        """The worker that is to be asked for an attempt's log; None: the controller."""
        route, worker = self._wanted.route, (attempt.worker_id, attempt.worker_address)
        if route == "worker":
            return worker
        if route == "controller" or (index, attempt.attempt_id) in self._elsewhere:
            return None
        return worker if self._cluster.reaches_worker(*worker) else None

    def not_here(
        self, index: int, attempt: cluster_pb2.TaskAttempt, text: str, worker: tuple[str, str] | None
    ) -> IrisError:
        """A server says that it does not have the log of an attempt."""
        if worker is None:
            return RefusedError(text)
        if is_task_finished(attempt.state):
            self.leave_worker(index, attempt.attempt_id)  # it was made anew, or lost its disk
        return NotYetError(text)

    def leave_worker(self, index: int, attempt_id: int) -> None:
        """An attempt's log is not to be had from its worker any more: the controller is asked."""
        self._elsewhere.add((index, attempt_id))

    def place(self, index: int, items: Items) -> None:
        """These are given out next: their cursors say where the other tasks are now."""
        if self._places is not None and self.reads_lines and items:
            self._places.give(index, items[-1])

    def ended(self, progress: Progress, index: int, end: cluster_pb2.LogEnd) -> None:
        """The attempt of a task that was being read was read to an end: notes it, and says what cannot be seen in the
        lines."""
        attempt = progress.attempt(index)
        if attempt is not None:
            self._note_end(index, attempt, end)
        self.ends[index] = end
        self.attempt_ended(progress, index)

    def _note_end(self, index: int, attempt: cluster_pb2.TaskAttempt, end: cluster_pb2.LogEnd) -> None:
        if end.complete:
            complete_end(end, attempt)
        if end.missing_reason:
            self._wanted.on_notice(f"task {index}: the end of this log is missing: {end.missing_reason}")

    def _skip_to(self, index: int, reader: LineReader | RawReader, end: cluster_pb2.LogEnd) -> None:
        """What lies before the end of what there was, and did not come, was left out by a filter."""
        if end.offsets and not self._wanted.is_whole:
            reader.skip_to(end.offsets)
            if self._places is not None:
                self._places.moved(index, reader.delivered)

    def is_out_of_reach(self, attempt: cluster_pb2.TaskAttempt, trouble: Trouble) -> bool:
        """Whether nobody who may be asked will ever have the log of an attempt: it has ended, only its worker may be
        asked, that has not answered for a while, and the controller does not hear of it either."""
        if self._wanted.route != "worker" or not trouble.lasts(DEAD_WORKER_PATIENCE_S, attempt):
            return False
        try:
            workers = self._cluster.list_workers()
        except (UnavailableError, DeadlineExceededError, PermissionDeniedError):  # a task may not ask who is there
            return False
        place = (attempt.worker_id, attempt.worker_address)
        return not any(worker.healthy and (worker.worker_id, worker.address) == place for worker in workers)

    def given_up(self, index: int, attempt: cluster_pb2.TaskAttempt, error: Exception) -> Chunk:
        """What stands for the rest of an attempt whose worker is gone, where nobody else may be asked."""
        self._wanted.on_notice(f"the rest of attempt {attempt.attempt_id} of task {index} cannot be read: {error}")
        chunk = Chunk(task_index=index, attempt_id=attempt.attempt_id)
        chunk.end.state = attempt.state
        chunk.end.missing_reason = str(error)
        return chunk

    def update(self, progress: Progress, tasks: Iterable[cluster_pb2.TaskStatus]) -> None:
        """Enters news of tasks into the books."""
        self._tell(progress, progress.update(tasks))

    def attempt_ended(self, progress: Progress, index: int) -> None:
        """Enters into the books that the attempt that was being read was read to its end."""
        self._tell(progress, progress.attempt_ended(index))

    def _tell(self, progress: Progress, retried: Retried) -> None:
        for task in progress.without_attempt():
            if is_task_finished(task.state) or not self._wanted.follow:  # else it is still to have its attempt
                self.ends.setdefault(task.task_index, end_without_attempt(task))
        for index, attempt in retried:
            self.ends.pop(index, None)  # that was not its last attempt
            if not self._wanted.follow:
                continue
            self._wanted.on_notice(
                f"attempt {attempt.attempt_id} of task {index} ended: {attempt.error or 'stopped'};"
                f" attempt {attempt.attempt_id + 1} follows"
            )


class _Places:
    """Where the tasks of a stream of several are, for the cursors of its lines; these are made when they are asked for.

    A line keeps what it needs for that: a table of all places that was made some lines before, and the changes since.
    """

    _CHANGES = 256  # after so many the table is made anew

    def __init__(
        self, readers: Mapping[int, LineReader | RawReader], starts: Mapping[int, Position] | None = None
    ) -> None:
        self._table = {index: reader.delivered for index, reader in readers.items()} | dict(starts or {})
        self._changes: list[tuple[int, Position]] = []

    def give(self, index: int, last: LogEntry) -> None:
        """These lines of a task come next; `last` is the last of them."""
        table, changes, count = self._table, self._changes, len(self._changes)
        last.set_other_positions(lambda: table | dict(changes[:count]))
        self.moved(index, last.position())

    def moved(self, index: int, position: Position) -> None:
        """A task is here now."""
        table, changes = self._table, self._changes
        changes.append((index, position))
        if len(changes) >= self._CHANGES:
            self._table = table | dict(changes)
            self._changes = []
