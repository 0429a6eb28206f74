"""Finds the start of a reader: the tasks to read, and the first position in the log of each task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from iris.client.logs.read_options import ReadOptions
from iris.client.logs.read_outage import ReadOutage
from iris.cluster.client.operations.jobs import get_task_status, list_tasks
from iris.cluster.client.operations.steps import Operation, Pause
from iris.cluster.logs.cursor import Position
from iris.cluster.logs.entries import start
from iris.errors import DeadlineExceededError, NotFoundError, UnavailableError
from iris.rpc import cluster_pb2

_SHORTEST_CALL_S = 0.001


def find_tasks(
    job_id: str, task_indices: Sequence[int] | None, options: ReadOptions
) -> Operation[dict[int, cluster_pb2.TaskStatus]]:
    """Return the tasks to read, by task index.

    Args:
        job_id: The id of the job.
        task_indices: The tasks to read. None: all tasks of the job.
        options: The options of the log reader.

    Raises:
        NotFoundError: There is no such job or task.
        ControllerUnreachableError: The controller has not answered for `options.patience_s`.
    """
    outage = ReadOutage(options, "")
    while True:
        left_s = max(_SHORTEST_CALL_S, options.until - time.monotonic())
        try:
            if task_indices is not None and len(task_indices) == 1:
                tasks = [(yield from get_task_status(job_id, task_indices[0], timeout_s=left_s))]
            else:
                tasks = yield from list_tasks(job_id, timeout_s=left_s)
            break
        except (UnavailableError, DeadlineExceededError) as error:
            pause_s = outage.pause_s(error)
        yield Pause(pause_s)
    known = {task.task_index: task for task in tasks}
    for index in task_indices or ():
        if index not in known:
            raise NotFoundError(f"job {job_id!r} has no task {index}: its tasks are 0 to {len(known) - 1}")
    return known if task_indices is None else {index: known[index] for index in task_indices}


def first_positions(
    job_id: str, tasks: Mapping[int, cluster_pb2.TaskStatus], options: ReadOptions
) -> dict[int, Position]:
    """Return, for each task, the position in its log at which a reader starts. The position follows from the options of
    the reader.

    Raises:
        InvalidArgumentError: The cursor belongs to another job, task or attempt.
        NotFoundError: A task does not have the requested attempt, and will never have it.
    """
    return start.first_positions(
        job_id, tasks, cursor=options.cursor, attempt_id=options.attempt_id, follow=options.follow
    )
