"""Waits for the ends of several jobs and tasks. Yields the final status of each job or task as soon as its end is
known.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from iris.cli.cluster.lookup import Target
from iris.cluster.types import is_job_finished, is_task_finished
from iris.errors import InvalidArgumentError, IrisError
from iris.rpc import cluster_pb2
from iris.rpc.http.client.stream_handle import StreamHandle

if TYPE_CHECKING:
    from iris.client import IrisClient

Status = cluster_pb2.JobStatus | cluster_pb2.TaskStatus

# Each job that has not ended needs a stream, and a user may have 2,000 streams by default.
MOST_WATCHED = 500
_END_OF_WATCH_S = 2.0


def wait_for_ends(
    client: IrisClient, targets: Sequence[Target], timeout: float | None
) -> Iterator[tuple[Target, Status]]:
    """Yield each job or task with its final status as soon as the job or task has ended. Jobs and tasks that had
    already ended come first.

    Args:
        client: The client of the cluster.
        targets: The jobs and tasks to wait for. The status of each job must contain the tasks of the job.
        timeout: The seconds after which the iterator ends, even if some jobs or tasks have not ended. None: no limit.

    Raises:
        InvalidArgumentError: More than `MOST_WATCHED` of the jobs and tasks have not ended.
    """
    end = math.inf if timeout is None else time.monotonic() + timeout
    live = []
    for target in targets:
        status = target.job if target.task_index is None else target.job.tasks[target.task_index]
        # `is_job_finished` also accepts the states of tasks, because tasks and jobs have the same final states.
        if is_job_finished(status.state):
            yield target, status
        else:
            live.append(target)
    if len(live) > MOST_WATCHED:
        raise InvalidArgumentError(
            f"expected at most {MOST_WATCHED} jobs that have not ended, got {len(live)}: wait for fewer jobs at a time"
        )
    watches = [_Watch(client, target) for target in live]
    ends: queue.SimpleQueue[tuple[Target, Status | IrisError]] = queue.SimpleQueue()
    for watch in watches:
        watch.start(ends)
    try:
        for _ in live:
            left_s = end - time.monotonic()
            try:
                target, found = ends.get(timeout=None if left_s == math.inf else max(0.0, left_s))
            except queue.Empty:
                return
            if isinstance(found, IrisError):
                raise found
            yield target, found
    finally:
        for watch in watches:
            watch.abort()
        for watch in watches:
            watch.join()


class _Watch:
    """A thread that watches a job until the job, or one of its tasks, has ended."""

    def __init__(self, client: IrisClient, target: Target) -> None:
        self._client = client
        self._target = target
        self._handle = StreamHandle()
        self._thread: threading.Thread | None = None

    def start(self, ends: queue.SimpleQueue[tuple[Target, Status | IrisError]]) -> None:
        """Start the thread. The thread adds the final status of the job or task to the queue `ends`. If the job cannot
        be watched, the thread adds the error instead.
        """

        def watch() -> None:
            try:
                found: Status | IrisError = self._end()
            except IrisError as error:
                found = error
            if not self._handle.aborted:
                ends.put((self._target, found))

        self._thread = threading.Thread(target=watch, name="iris-wait", daemon=True)
        self._thread.start()

    def abort(self) -> None:
        """End the watch."""
        self._handle.abort()

    def join(self) -> None:
        """Wait for the end of the thread, because a thread that runs at the exit of Python could abort the process."""
        if self._thread is not None:
            self._thread.join(_END_OF_WATCH_S)

    def _end(self) -> Status:
        job_id, index = self._target.job.job_id, self._target.task_index
        watch = self._client.cluster.watch_job(
            job_id, patience_s=None, include_tasks=index is not None, handle=self._handle
        )
        for job in watch:
            if any(task.task_index == index and is_task_finished(task.state) for task in job.tasks):
                break
        return self._client.status(job_id) if index is None else self._client.task_status(job_id, index)
