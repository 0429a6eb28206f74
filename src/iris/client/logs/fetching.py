"""Decides how `IrisClient.fetch_task_logs` reads the existing lines of one attempt."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from iris.arguments import MAX_INT32, check_job_id, check_task_index, check_whole_number
from iris.client.logs.read_options import ReadOptions, check_attempt_id
from iris.cluster.client.operations.jobs import get_task_status
from iris.cluster.client.operations.logs import find_attempt
from iris.cluster.client.operations.steps import Operation
from iris.cluster.logs.entries.line_reader import join_parts
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.rpc import cluster_pb2

_PATIENCE_S = 5.0  # If a worker does not answer, `fetch_task_logs` tries again for this many seconds.


@dataclass(frozen=True, slots=True)
class Fetch:
    """The checked arguments of `IrisClient.fetch_task_logs`, which documents the attributes."""

    job_id: str
    task_index: int
    start_ms: int
    max_lines: int
    attempt_id: int | None

    @classmethod
    def checked(cls, job_id: object, task_index: int, start_ms: int, max_lines: int, attempt_id: int | None) -> Self:
        """Return the checked arguments.

        Raises:
            InvalidArgumentError: An argument is invalid.
        """
        return cls(
            check_job_id(job_id),
            check_task_index(task_index),
            check_whole_number("start_ms", start_ms),
            check_whole_number("max_lines", max_lines, most=MAX_INT32),
            check_attempt_id(attempt_id),
        )

    def find_attempt(self) -> Operation[int | None]:
        """Return the id of the attempt to read. Return None if no attempt has started.

        Raises:
            NotFoundError: There is no such job, task or attempt.
        """
        task = yield from get_task_status(self.job_id, self.task_index)
        if not task.attempts and self.attempt_id is None:
            return None
        return find_attempt(task, self.attempt_id).attempt_id

    def options(self, attempt_id: int) -> ReadOptions:
        """Return the options with which the log of an attempt is read."""
        return ReadOptions.checked(
            follow=False,
            attempt_id=attempt_id,
            start_ms=self.start_ms,
            max_lines=self.max_lines,
            patience_s=_PATIENCE_S,
        )

    def lines(self, entries: Iterable[LogEntry], ends: Mapping[int, cluster_pb2.LogEnd]) -> list[LogEntry]:
        """Return the lines of a log, each joined from its parts, and the gaps between the lines.

        Args:
            entries: The log entries of the attempt.
            ends: The end of each task's log, by task index. If `complete` is not set in an end, the task may still be
                writing.
        """
        lines = list(itertools.islice(join_parts(entries), self.max_lines or None))
        end = ends.get(self.task_index)
        if end is not None and not end.complete:
            # Partial lines are left out, because the task may still be writing them.
            return [line for line in lines if not line.partial or line.missing_bytes]
        return lines
