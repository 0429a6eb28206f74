"""Finds the first position of a reader in the log of each task."""

from __future__ import annotations

from collections.abc import Mapping

from iris.cluster.logs.cursor import Position, decode_cursor
from iris.cluster.types import is_task_finished
from iris.errors import InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2


def first_positions(
    job_id: str,
    tasks: Mapping[int, cluster_pb2.TaskStatus],
    *,
    cursor: str | None,
    attempt_id: int | None,
    follow: bool,
) -> dict[int, Position]:
    """Return the position at which a reader starts in the log of each task.

    Args:
        job_id: The id of the job.
        tasks: The tasks to read, by task index.
        cursor: The place at which the reader starts. None: the beginning.
        attempt_id: The only attempt to read. None: all attempts.
        follow: Whether the reader waits for future attempts.

    Raises:
        InvalidArgumentError: The cursor belongs to another job, task or attempt.
        NotFoundError: A task does not have the requested attempt. Either the task has ended, or the reader does not
            wait for future attempts.
    """
    if cursor is not None:
        return _positions_of_cursor(job_id, tasks, cursor, attempt_id)
    if attempt_id is None:
        return dict.fromkeys(tasks, Position())
    for task in tasks.values():
        if attempt_id >= len(task.attempts) and (is_task_finished(task.state) or not follow):
            raise NotFoundError(
                f"task {task.task_id!r} has no attempt {attempt_id} (it has had {len(task.attempts)}, counted from 0)"
            )
    return dict.fromkeys(tasks, Position(attempt_id))


def _positions_of_cursor(
    job_id: str, tasks: Mapping[int, cluster_pb2.TaskStatus], cursor: str, attempt_id: int | None
) -> dict[int, Position]:
    known = decode_cursor(job_id, cursor)
    if len(tasks) == 1 and not known.keys() & tasks.keys():
        (index,) = tasks
        other = min(known, default=0)
        raise InvalidArgumentError(f"cursor={cursor!r} is a position in the log of task {other}, not of task {index}")
    positions = {index: known.get(index, Position(attempt_id or 0)) for index in tasks}
    for index, position in positions.items():
        if attempt_id not in (None, position.attempt_id):
            raise InvalidArgumentError(
                f"cursor={cursor!r} is a position in attempt {position.attempt_id} of task {index},"
                f" not in attempt {attempt_id}"
            )
    return positions
