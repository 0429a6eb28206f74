"""Finds the start of a reader: the tasks to read, and the first position in the log of each task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from iris.client.logs.read_options import ReadOptions
from iris.client.logs.read_outage import ReadOutage
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.logs.cursor import Position, decode_cursor
from iris.cluster.types import is_task_finished
from iris.errors import DeadlineExceededError, InvalidArgumentError, NotFoundError, UnavailableError
from iris.rpc import cluster_pb2

_SHORTEST_CALL_S = 0.001


def find_tasks(
    cluster: RemoteClusterClient, job_id: str, task_indices: Sequence[int] | None, options: ReadOptions
) -> dict[int, cluster_pb2.TaskStatus]:
    """Return the tasks to read, by task index.

    Args:
        cluster: The client of the cluster.
        job_id: The job.
        task_indices: The tasks to read. None: all tasks of the job.
        options: The options of the reader.

    Raises:
        NotFoundError: There is no such job or task.
        ControllerUnreachableError: The controller has not answered for `options.patience_s`.
    """
    outage = ReadOutage(options, "")
    while True:
        left_s = max(_SHORTEST_CALL_S, options.until - time.monotonic())
        try:
            if task_indices is not None and len(task_indices) == 1:
                tasks = [cluster.get_task_status(job_id, task_indices[0], timeout_s=left_s)]
            else:
                tasks = cluster.list_tasks(job_id, timeout_s=left_s)
            break
        except (UnavailableError, DeadlineExceededError) as error:
            cluster.pause(outage.pause_s(error))
    known = {task.task_index: task for task in tasks}
    for index in task_indices or ():
        if index not in known:
            raise NotFoundError(f"job {job_id!r} has no task {index}: its tasks are 0 to {len(known) - 1}")
    return known if task_indices is None else {index: known[index] for index in task_indices}


def first_positions(
    job_id: str, tasks: Mapping[int, cluster_pb2.TaskStatus], options: ReadOptions
) -> dict[int, Position]:
    """Return the position at which the reader starts in the log of each task.

    Raises:
        InvalidArgumentError: The cursor belongs to another job, task or attempt.
        NotFoundError: A task does not have the requested attempt, and will never have it.
    """
    if options.cursor is not None:
        return _positions_of_cursor(job_id, tasks, options.cursor, options.attempt_id)
    if options.attempt_id is None:
        return dict.fromkeys(tasks, Position())
    for task in tasks.values():
        if options.attempt_id >= len(task.attempts) and (is_task_finished(task.state) or not options.follow):
            raise NotFoundError(
                f"task {task.task_id!r} has no attempt {options.attempt_id}"
                f" (it has had {len(task.attempts)}, counted from 0)"
            )
    return dict.fromkeys(tasks, Position(options.attempt_id))


def _positions_of_cursor(
    job_id: str, tasks: Mapping[int, cluster_pb2.TaskStatus], cursor: str, attempt_id: int | None
) -> dict[int, Position]:
    known = decode_cursor(job_id, cursor)
    if len(tasks) == 1 and not known.keys() & tasks.keys():
        (index,) = tasks
        other = min(known, default=0)
        raise InvalidArgumentError(f"cursor={cursor!r} is a place in the log of task {other}, not of task {index}")
    positions = {index: known.get(index, Position(attempt_id or 0)) for index in tasks}
    for index, position in positions.items():
        if attempt_id not in (None, position.attempt_id):
            raise InvalidArgumentError(
                f"cursor={cursor!r} is a place in attempt {position.attempt_id} of task {index},"
                f" not in attempt {attempt_id}"
            )
    return positions
