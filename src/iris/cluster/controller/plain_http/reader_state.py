"""Keeps the state of one reader of the log route: how far each task was read, and how its log ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iris.cluster.controller.api import messages
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.sources import LogSources
from iris.cluster.controller.plain_http.items import Batch, Notice
from iris.cluster.controller.plain_http.query import LogQuery
from iris.cluster.logs.cursor import Position, encode_cursor
from iris.cluster.logs.entries.line_cursor import TaskPositions
from iris.cluster.logs.entries.line_reader import LineReader
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.cluster.logs.entries.start import first_positions
from iris.cluster.logs.progress import NextAttempt, NoAttempt, Outcome, complete_end, end_without_attempt
from iris.cluster.logs.records import MAX_PAYLOAD, SOURCES
from iris.cluster.types import is_task_finished
from iris.counts import counted
from iris.errors import NotFoundError
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import StreamTaskLogsRequest

# The memory for the partial lines of one reader. Each source of each task gets an equal share. A partial line that is
# longer than this share is returned in parts.
_PARTIAL_LINES_BYTES = 8 << 20
_LONGEST_PART_BYTES = 1 << 20
_SHORTEST_PART_BYTES = 4 << 10
# A reader splits its data into pieces, and makes the objects of one piece at a time. A piece has at most `_PIECE_BYTES`
# bytes and about `_PIECE_LINES` lines, a little less than fair_writing.py writes in one turn. Therefore one turn writes
# all objects of a piece. Objects that wait for later turns cause long pauses of the garbage collector.
_PIECE_BYTES = 16 << 10
_PIECE_LINES = 450


class ReaderState:
    """The state of one reader.

    Args:
        sources: The object that finds the worker or the kept log for each attempt.
        record: The record of the job.
        caller: The key under which limits count the caller (`Caller.key`).
        query: The parameters of the request, which select the lines.
        indices: The indices of the tasks to read.
        partial: Whether partial lines are returned while the task writes them.
        blocks: Whether whole lines that were captured together are returned as one entry.

    Attributes:
        tasks: The statuses of the tasks to read, by task index. `load` sets them.
        ends: The end of the log of each task's last attempt, by task index.
    """

    def __init__(
        self,
        sources: LogSources,
        record: JobRecord,
        caller: str,
        query: LogQuery,
        indices: Sequence[int],
        *,
        partial: bool,
        blocks: bool = False,
    ) -> None:
        self.sources = sources
        self.record = record
        self.caller = caller
        self.query = query
        self._indices = indices
        self.partial = partial
        self._blocks = blocks
        self.filter = query.filter
        self.tasks: Mapping[int, cluster_pb2.TaskStatus] = {}
        self.ends: dict[int, cluster_pb2.LogEnd] = {}
        self._readers: dict[int, LineReader] = {}
        # The attempts, as (task index, attempt id), with a notice about the missing end of their log. `FutureLines`
        # reads the end of an attempt again, although `ExistingLines` has already read the end.
        self._noticed_ends: set[tuple[int, int]] = set()
        # For the cursors of a stream of several tasks: the position of each task. None if the reader reads a single
        # task.
        self._positions: TaskPositions | None = None

    async def load(self) -> None:
        """Read the statuses of the tasks, and find the position at which each task starts.

        Raises:
            InvalidArgumentError: The cursor belongs to another job, task or attempt.
            NotFoundError: A task does not have the attempt, and will never have it.
        """
        while True:
            shown = self.sources.saved.shown(self.record)
            made = await self.sources.slices.run_for(self.caller, messages.some_tasks(shown, self._indices))
            if await self.sources.saved.settled():
                break
        self.tasks = {task.task_index: task for task in made}
        positions = first_positions(
            self.record.job_id,
            self.tasks,
            cursor=self.query.cursor,
            attempt_id=self.query.attempt_id,
            follow=self.query.follow,
        )
        for index, position in positions.items():
            self._readers[index] = self.new_reader(index, position)
        self.start_positions({})

    # The line readers.

    def new_reader(self, task_index: int, position: Position) -> LineReader:
        """Return a reader of the records of one attempt, from a position."""
        share = _PARTIAL_LINES_BYTES // (len(SOURCES) * max(1, len(self.tasks)))
        return LineReader(
            self.record.job_id,
            task_index,
            position,
            whole=not self.filter.ByteSize(),
            parts=self.partial,
            longest=max(_SHORTEST_PART_BYTES, min(_LONGEST_PART_BYTES, share)),
            piece_bytes=MAX_PAYLOAD if self._blocks else _PIECE_BYTES,
            piece_lines=0 if self._blocks else _PIECE_LINES,
            blocks=self._blocks,
        )

    def reader(self, task_index: int, attempt_id: int) -> LineReader:
        """Return the reader of an attempt. If the task's current reader reads another attempt, replace that reader by a
        new one.
        """
        reader = self._readers[task_index]
        if reader.received.attempt_id != attempt_id:
            reader = self._readers[task_index] = self.new_reader(task_index, Position(attempt_id))
        return reader

    def set_reader(self, task_index: int, reader: LineReader) -> None:
        """Replace the reader of a task."""
        self._readers[task_index] = reader

    def received(self) -> dict[int, Position]:
        """Return, for each task, the position in its logs up to which all bytes have arrived."""
        return {index: reader.received for index, reader in self._readers.items()}

    # Requests.

    def request(
        self, chosen: cluster_pb2.Worker.FetchLogsFilter, *, follow: bool, max_bytes: int = 0
    ) -> StreamTaskLogsRequest:
        """Return a request for the records of one or more attempts. A server sends only the records that pass the
        filter.
        """
        return StreamTaskLogsRequest(
            job_id=self.record.job_id, follow=follow, one_attempt=True, filter=chosen, max_bytes=max_bytes
        )

    @property
    def checks_start_itself(self) -> bool:
        """Whether this reader itself checks `start_ms` while it follows a log. A server of logs that checks `start_ms`
        sends only whole lines, and the user does not see an unfinished line such as a prompt.
        """
        return self.filter.start_ms > 0 and not self.filter.regex

    def start_positions(self, starts: Mapping[int, Position]) -> None:
        """Compute the positions of all tasks, for the cursors in a stream of several tasks.

        Args:
            starts: The positions of some tasks, by task index. A task that is missing here has the position of its
                reader.
        """
        if len(self.tasks) > 1:
            delivered = {index: reader.delivered for index, reader in self._readers.items()}
            self._positions = TaskPositions(delivered | dict(starts))

    def deliver(self, task_index: int, entries: Sequence[LogEntry]) -> Batch:
        """Record that a batch of entries was returned, and return the batch. The cursors of later entries include these
        entries.
        """
        if self._positions is not None:
            entries[-1].set_other_positions(self._positions.snapshot())
            self._positions.move(task_index, entries[-1].position())
        return Batch(entries)

    def cursor(self) -> str:
        """Return the cursor from which a reader can continue after the lines that were returned."""
        if self._positions is not None:
            return encode_cursor(self.record.job_id, self._positions.current())
        return encode_cursor(self.record.job_id, {index: r.delivered for index, r in self._readers.items()})

    def skip_filtered(self, task_index: int, end: cluster_pb2.LogEnd) -> None:
        """Move a reader to the end of the existing log. The filter has excluded all lines between the reader's position
        and the end.
        """
        if end.offsets and self.filter.ByteSize():
            reader = self._readers[task_index]
            reader.skip_to(end.offsets)
            if self._positions is not None:
                self._positions.move(task_index, reader.delivered)

    def attempt_ended(
        self, task_index: int, attempt: cluster_pb2.TaskAttempt | None, end: cluster_pb2.LogEnd
    ) -> list[Notice]:
        """Record that the log of an attempt was read to its end. Return the messages about this end, unless an earlier
        call has already returned them."""
        self.ends[task_index] = end
        if attempt is None:
            return []
        if end.complete:
            complete_end(end, attempt)
        if not end.missing_reason or (task_index, attempt.attempt_id) in self._noticed_ends:
            return []
        self._noticed_ends.add((task_index, attempt.attempt_id))
        name = f"task {task_index}, attempt {attempt.attempt_id}"
        return [Notice(f"{name}: the end of the log is missing: {end.missing_reason}")]

    def apply(self, outcome: Outcome) -> list[Notice]:
        """Record that a task continues with another attempt or is over, and return the messages about this change."""
        if isinstance(outcome, NoAttempt):
            task = outcome.task
            if is_task_finished(task.state) or not self.query.follow:
                self.ends.setdefault(task.task_index, end_without_attempt(task))
            return []
        assert isinstance(outcome, NextAttempt)
        index, ended = outcome
        self.ends.pop(index, None)  # A task with a further attempt has no end yet, so its end is removed from `ends`.
        self._readers[index] = self.new_reader(index, Position(ended.attempt_id + 1))
        if self._positions is not None:
            self._positions.move(index, Position(ended.attempt_id + 1))
        return [
            Notice(
                f"attempt {ended.attempt_id} of task {index} ended: {ended.error or 'stopped'};"
                f" attempt {ended.attempt_id + 1} follows",
                self.cursor(),
            )
        ]


def find_indices(record: JobRecord, query: LogQuery) -> Sequence[int]:
    """Return the indices of the tasks that a query selects.

    A query without tasks selects all tasks. If such a query names an attempt, it selects the tasks that have this
    attempt or may still get this attempt.

    Raises:
        NotFoundError: The job does not have one of the tasks, or no task has the attempt.
    """
    tasks, attempt_id = record.job.tasks, query.attempt_id
    for index in query.tasks:
        record.check_index(index)
    if query.tasks:
        return query.tasks
    if attempt_id is None or (query.follow and not record.job.is_finished):
        return range(len(tasks))
    found = [task.task_index for task in tasks if attempt_id < len(task.attempts)]
    if not found:
        most = max((len(task.attempts) for task in tasks), default=0)
        raise NotFoundError(
            f"no task of job {record.job_id!r} has an attempt {attempt_id}: no task has had more than"
            f" {counted(most, 'attempt')}, and attempts count from 0"
        )
    return found
