"""Keeps the state of one log reader. The reader first reads existing lines and then follows future lines. Both stages
use this state."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from iris.client.logs.read_options import ReadOptions
from iris.client.logs.routes import Routes
from iris.client.logs.start import find_tasks, first_positions
from iris.cluster.client.operations.logs import ReachableWorkers
from iris.cluster.client.operations.steps import Operation
from iris.cluster.logs.cursor import Position
from iris.cluster.logs.entries.line_cursor import TaskPositions
from iris.cluster.logs.entries.line_reader import LineReader, RawReader
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.cluster.logs.progress import NextAttempt, NoAttempt, Outcome, Progress, complete_end, end_without_attempt
from iris.cluster.types import is_task_finished
from iris.rpc import cluster_pb2

Chunk = cluster_pb2.StreamTaskLogsResponse.Chunk
# The items that a log reader returns to the user: log entries, or pieces of bytes for `LogStream.raw`.
Items = Sequence[Any]


class ReadState:
    """The state of one reader. Only the iterating thread may use this object, except for `is_closed`.

    Args:
        job_id: The id of the job.
        tasks: The tasks by index, as the controller described them when the reader started.
        routes: The object that chooses the server for each attempt.
        options: The options of the log reader.

    Attributes:
        ends: The end of the log of each task's last attempt, by task index.
        reads_lines: Whether the reader returns entries. Otherwise the reader returns bytes.
        partial: Whether partial lines are returned while the task writes them.
        is_closed: Whether the user has closed the stream.

    Raises:
        NotFoundError: There is no such attempt.
        InvalidArgumentError: The cursor belongs to another job, task or attempt.
    """

    def __init__(
        self, job_id: str, tasks: Mapping[int, cluster_pb2.TaskStatus], routes: Routes, options: ReadOptions
    ) -> None:
        self.job_id = job_id
        self.options = options
        self.tasks = tasks
        self.routes = routes
        self.ends: dict[int, cluster_pb2.LogEnd] = {}
        self.reads_lines = True
        self.partial = options.partial
        self.is_closed = False
        positions = first_positions(job_id, self.tasks, options)
        self._readers = {index: self.new_reader(index, position) for index, position in positions.items()}
        self._task_positions: TaskPositions | None = None
        self.start_task_positions()
        self._has_existing: set[int] = set()  # The indices of the tasks whose existing lines were read.
        # The subjects of the notices that the user has got. A reader that follows logs reads the end of an attempt
        # twice, but the user must get each notice only once.
        self._notified: set[tuple[object, ...]] = set()

    @classmethod
    def start(
        cls, reachable: ReachableWorkers, job_id: str, task_indices: Sequence[int] | None, options: ReadOptions
    ) -> Operation[Self]:
        """Return the state of a new reader.

        Args:
            reachable: The object that finds out which workers this machine can call directly.
            job_id: The id of the job.
            task_indices: The tasks to read. None: all tasks of the job.
            options: The options of the log reader.

        Raises:
            NotFoundError: There is no such job, task or attempt.
            InvalidArgumentError: The cursor belongs to another job, task or attempt.
            ControllerUnreachableError: The controller has not answered for `options.patience_s`.
        """
        tasks = yield from find_tasks(job_id, task_indices, options)
        routes = Routes(reachable, options.route)
        if len(tasks) > 1:
            yield from routes.find(tasks.values())
        return cls(job_id, tasks, routes, options)

    # The line readers.

    def new_reader(self, task_index: int, position: Position) -> LineReader | RawReader:
        """Return an object that turns the records of one attempt into entries or bytes, from the given position on."""
        if self.reads_lines:
            whole = self.options.has_no_filter
            return LineReader(self.job_id, task_index, position, whole=whole, parts=self.partial)
        return RawReader(position, lambda text: self.options.on_notice(f"task {task_index}: {text}"))

    def reader(self, task_index: int, attempt_id: int) -> LineReader | RawReader:
        """Return the reader of an attempt. If the task's reader still reads another attempt, a new reader takes its
        place."""
        reader = self._readers[task_index]
        if reader.received.attempt_id != attempt_id:
            reader = self._readers[task_index] = self.new_reader(task_index, Position(attempt_id))
        return reader

    def set_reader(self, task_index: int, reader: LineReader | RawReader) -> None:
        """Replace the reader of a task."""
        self._readers[task_index] = reader

    def renew_readers(self) -> None:
        """Replace the readers of all tasks. Callers use this method after they have changed `reads_lines` or
        `partial`."""
        self._readers = {index: self.new_reader(index, reader.received) for index, reader in self._readers.items()}

    def requested_partial_lines(self) -> Iterator[Items]:
        """Yield the partial lines that have arrived. The rest of each line becomes another entry later."""
        for index, reader in self._readers.items():
            for _, partial in reader.flush():
                self.deliver(index, partial)
                yield partial

    def positions(self) -> dict[int, Position]:
        """Return the position up to which the bytes of each task have arrived."""
        return {index: reader.received for index, reader in self._readers.items()}

    def progress(self, positions: Mapping[int, Position]) -> Progress:
        """Return a new `Progress`, which says which attempt is read next. It starts at the given positions, and does
        not wait for future attempts."""
        return Progress(positions, follow=False, one_attempt=self.options.attempt_id is not None)

    def bytes_of(self, entry: LogEntry) -> bytes | None:
        """Return the bytes of an entry. For a gap, notify the user and return None."""
        if entry.missing_bytes:
            self.options.on_notice(f"task {entry.task_index}: {entry.message}")
            return None
        return entry.data if entry.partial else entry.data + b"\n"

    # Requests.

    def request(
        self, positions: Sequence[cluster_pb2.LogPosition], *, follow: bool, without_start_time: bool = False
    ) -> cluster_pb2.StreamTaskLogsRequest:
        """Return a request for the logs of attempts, starting at the given positions.

        Args:
            positions: The position in the log of each attempt at which the server begins to send.
            follow: Whether the server waits for future lines.
            without_start_time: Whether the client, instead of the server, checks `start_ms`. See `filters_start_here`.
        """
        request = cluster_pb2.StreamTaskLogsRequest(
            job_id=self.job_id, positions=positions, follow=follow, one_attempt=True, filter=self.options.filter
        )
        if without_start_time:
            request.filter.ClearField("start_ms")
        return request

    def filters_start_here(self, task_index: int) -> bool:
        """Return whether the client, instead of the server, checks `start_ms` for the future lines of a task.

        A server that applies a filter sends only whole lines, so the user would not see a prompt. Therefore, if
        `start_ms` is the only filter, the client requests future lines without a filter and checks `start_ms` itself.
        """
        wanted = self.options.filter
        return task_index in self._has_existing and wanted.start_ms > 0 and not wanted.end_ms and not wanted.regex

    def existing_was_read(self, task_index: int) -> bool:
        """Record that the existing lines of a task were read. Return True if the client checks `start_ms` from now on,
        so that requests for the future lines of this task need a different filter."""
        is_new = task_index not in self._has_existing
        self._has_existing.add(task_index)
        return is_new and self.filters_start_here(task_index)

    def is_before_start(self, task_index: int, timestamp_ms: int) -> bool:
        """Return whether the client must drop a record because its timestamp is not later than `start_ms`. Even a
        record that arrives only now can have such a timestamp, for example if the clock of its machine was set back.
        """
        return timestamp_ms <= self.options.filter.start_ms and self.filters_start_here(task_index)

    # Cursors.

    def start_task_positions(self, starts: Mapping[int, Position] | None = None) -> None:
        """Start to keep the positions of all tasks, if the reader reads several tasks. The cursor of each entry then
        contains these positions.

        Args:
            starts: The positions of some tasks, by task index. They are used instead of the positions up to which these
                tasks were read.
        """
        if len(self.tasks) > 1:
            delivered = {index: reader.delivered for index, reader in self._readers.items()}
            self._task_positions = TaskPositions(delivered | dict(starts or {}))

    def deliver(self, task_index: int, items: Items) -> None:
        """Record that the reader returns the given entries of a task next. A follower that continues at the cursor of a
        later entry does not get them again."""
        if self._task_positions is not None and self.reads_lines and items:
            last = items[-1]
            last.set_other_positions(self._task_positions.snapshot())
            self._task_positions.move(task_index, last.position())

    def skip_filtered(self, task_index: int, reader: LineReader | RawReader, end: cluster_pb2.LogEnd) -> None:
        """Move a reader to the end of the existing log. The server's filter excluded all lines between the last
        returned line and this end."""
        if end.offsets and not self.options.has_no_filter:
            reader.skip_to(end.offsets)
            if self._task_positions is not None:
                self._task_positions.move(task_index, reader.delivered)

    # Ends of attempts.

    def note_end(self, task_index: int, attempt: cluster_pb2.TaskAttempt | None, end: cluster_pb2.LogEnd) -> None:
        """Add the state and exit code of the attempt to the description of its log's end. Notify the user if the last
        bytes of the log are missing."""
        if attempt is None:
            return
        if end.complete:
            complete_end(end, attempt)
        if end.missing_reason:
            self._notify_once(
                f"task {task_index}, attempt {attempt.attempt_id}: the end of the log is missing: {end.missing_reason}",
                *_missing_end(task_index, attempt, end.missing_reason),
            )

    def attempt_ended(self, task_index: int, attempt: cluster_pb2.TaskAttempt | None, end: cluster_pb2.LogEnd) -> None:
        """Store the description of the end of an attempt's log in `ends`, because the log was read to its end."""
        self.note_end(task_index, attempt, end)
        self.ends[task_index] = end

    def apply(self, outcomes: Iterable[Outcome]) -> None:
        """Record which tasks continue with another attempt, and which tasks have ended. Notify the user of each
        retry."""
        for outcome in outcomes:
            match outcome:
                case NoAttempt(task):
                    if is_task_finished(task.state) or not self.options.follow:
                        self.ends.setdefault(task.task_index, end_without_attempt(task))
                case NextAttempt(index, ended):
                    # A task with a further attempt has no end yet, so its end is removed from `ends`.
                    self.ends.pop(index, None)
                    if self.options.follow:
                        self._notify_once(
                            f"attempt {ended.attempt_id} of task {index} ended: {ended.error or 'stopped'};"
                            f" attempt {ended.attempt_id + 1} follows",
                            "next attempt",
                            index,
                            ended.attempt_id,
                        )

    def give_up_attempt(self, task_index: int, attempt: cluster_pb2.TaskAttempt, error: Exception) -> Chunk:
        """Notify the user that the rest of an attempt's log cannot be read. Return the last chunk of the log. This
        chunk contains no lines, only the description of the log's end.
        """
        self._notify_once(
            f"the rest of attempt {attempt.attempt_id} of task {task_index} cannot be read: {error}",
            *_missing_end(task_index, attempt, str(error)),
        )
        chunk = Chunk(task_index=task_index, attempt_id=attempt.attempt_id)
        chunk.end.state = attempt.state
        chunk.end.missing_reason = str(error)
        return chunk

    def _notify_once(self, text: str, *subject: object) -> None:
        """Notify the user, unless the user has already got a notice with the same subject."""
        if subject not in self._notified:
            self._notified.add(subject)
            self.options.on_notice(text)


class LineLimit:
    """Counts the lines that a reader returns, and says when the reader has to end.

    Args:
        options: The options of the log reader.
    """

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._left = options.max_lines or math.inf

    def cut(self, items: Items) -> Items:
        """Count the lines of a batch. Return the lines of the batch that the reader may still return without exceeding
        `max_lines`.
        """
        # A long line arrives in several parts, which count as one line. The line is counted when its last part arrives.
        if self._options.max_lines and items and (not items[0].partial or items[0].origin.ended):
            shown = items[: int(self._left)]
            self._left -= len(items)
            return shown
        return items

    @property
    def is_reached(self) -> bool:
        """Whether the reader must end, because it has returned `max_lines` lines or its time limit is over."""
        return self._left <= 0 or time.monotonic() >= self._options.until


def _missing_end(task_index: int, attempt: cluster_pb2.TaskAttempt, reason: str) -> tuple[object, ...]:
    """Return the subject of a notice about the missing end of an attempt's log."""
    return "missing end", task_index, attempt.attempt_id, reason


def is_final(end: cluster_pb2.LogEnd) -> bool:
    """Return whether an end of a log is final: the log is complete, or its rest is missing forever."""
    return end.complete or bool(end.missing_reason)
