"""Follows the log of a task, page by page, through its attempts, to its end.

Each line is read once, by its number in the attempt's log, never by its time. A follow ends only when the task is
final and the log of its last attempt was read to the end after that was known.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from iris.client.job import LogEntry, to_log_entries
from iris.cluster.client.remote_client import RemoteClusterClient, find_attempt
from iris.cluster.types import is_task_finished, make_task_id
from iris.errors import NotFoundError, UnavailableError
from iris.rpc import cluster_pb2

_SHORTEST_PAUSE_S = 0.02
# How long a lost worker may take to come back before the rest of an attempt's log is given up.
_WORKER_PATIENCE_S = 15.0

Notice = Callable[[str], None]


class TaskFollower:
    """Reads on in the log of one task.

    Args:
        cluster: Where the job runs.
        job_id: The job.
        task_index: The task.
        on_notice: Told, in words, of a retry and of lines that cannot be had.
        last_lines: Of what there is at the start, only the last N lines; None for all.
    """

    def __init__(
        self,
        cluster: RemoteClusterClient,
        job_id: str,
        task_index: int,
        on_notice: Notice,
        last_lines: int | None = None,
    ) -> None:
        self._cluster = cluster
        self._job_id = job_id
        self._task_index = task_index
        self._on_notice = on_notice
        self._attempt_id = 0
        self._next_line = 0 if last_lines is None else -last_lines
        self._pending: dict[str, bytes] = {}  # pieces of long lines, by source
        self._task: cluster_pb2.TaskStatus | None = None
        self._unreachable_since: float | None = None
        self.ended = False

    def read(self) -> list[LogEntry]:
        """What has come since the last call, at most a page; `ended` tells whether more can come.

        1. Until the task has had the attempt that is read, ask for it; a task that is final without it has no more.
        2. Read a page. More may be there: the next call goes on.
        3. After the last page of an attempt the task is asked again: it has another attempt, will have one, or ends.

        Raises:
            NotFoundError: There is no such job or task.
            ControllerUnreachableError: The controller does not answer.
        """
        if self._task is None or len(self._task.attempts) <= self._attempt_id:
            self._task = self._cluster.get_task_status(self._job_id, self._task_index)
            if len(self._task.attempts) <= self._attempt_id:
                self.ended = is_task_finished(self._task.state)
                return []
        attempt = find_attempt(self._task, self._attempt_id)
        wanted = cluster_pb2.Worker.FetchLogsFilter(start_line=self._next_line)
        try:
            page = self._cluster.fetch_log_page(make_task_id(self._job_id, self._task_index), attempt, wanted)
        except (UnavailableError, NotFoundError) as error:
            self._out_of_reach(error)
            return []
        self._unreachable_since = None
        self._next_line = page.next_line
        entries = to_log_entries(page.logs, self._pending, self._task_index, self._attempt_id, complete=page.complete)
        if page.complete:
            self._attempt_ended()
        return entries

    def _attempt_ended(self) -> None:
        self._task = self._cluster.get_task_status(self._job_id, self._task_index)
        ended = find_attempt(self._task, self._attempt_id)
        if not is_task_finished(ended.state):
            return  # the worker knows of the end before the controller does: ask again
        self._attempt_id += 1
        self._next_line = 0
        if len(self._task.attempts) > self._attempt_id or not is_task_finished(self._task.state):
            self._on_notice(
                f"attempt {ended.attempt_id} of task {self._task_index} ended: {ended.error or 'stopped'};"
                f" attempt {self._attempt_id} follows"
            )
        else:
            self.ended = True

    def _out_of_reach(self, error: Exception) -> None:
        """The worker does not answer. It may come back, also under another address; an attempt that has ended
        with it will not, and what it had not shown by then is missing."""
        now = time.monotonic()
        self._unreachable_since = self._unreachable_since or now
        self._task = self._cluster.get_task_status(self._job_id, self._task_index)
        attempt = find_attempt(self._task, self._attempt_id)
        if not is_task_finished(attempt.state) or now - self._unreachable_since < _WORKER_PATIENCE_S:
            return
        self._on_notice(
            f"the rest of attempt {attempt.attempt_id} of task {self._task_index} cannot be read"
            f" (from line {self._next_line} on): {error}"
        )
        self._unreachable_since = None
        self._pending.clear()
        self._attempt_ended()


def follow(followers: list[TaskFollower], poll_interval: float, *, until: float | None = None) -> Iterator[LogEntry]:
    """The lines of one or several tasks as they come, each task's in order, until all tasks have ended.

    Who has written lately is asked often, who is silent at most every `poll_interval` seconds.

    Args:
        followers: One for each task.
        poll_interval: Seconds.
        until: On the monotonic clock: ends the iterator then, wherever it is.
    """
    pauses = dict.fromkeys(range(len(followers)), _SHORTEST_PAUSE_S)
    due = dict.fromkeys(range(len(followers)), 0.0)
    while due:
        index = min(due, key=lambda i: due[i])
        wait_s = due[index] - time.monotonic()
        if until is not None and time.monotonic() + max(wait_s, 0.0) >= until:
            time.sleep(max(0.0, until - time.monotonic()))
            return
        if wait_s > 0:
            time.sleep(wait_s)
        follower = followers[index]
        entries = follower.read()
        yield from entries
        if follower.ended:
            del due[index]
            continue
        pauses[index] = (
            _SHORTEST_PAUSE_S if entries else min(pauses[index] * 1.5, max(poll_interval, _SHORTEST_PAUSE_S))
        )
        due[index] = time.monotonic() + (0.0 if entries else pauses[index] * random.uniform(0.8, 1.2))
