"""Shows what a job does while its tasks write nothing: why the job waits, or how much of it runs and for how long."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iris.cli.output.printer import Output
from iris.client.views.job_tables import count_tasks, time_taken
from iris.cluster.types import is_job_finished, state_name
from iris.durations import words_of_seconds
from iris.errors import IrisError
from iris.rpc import cluster_pb2
from iris.rpc.http.client.stream_handle import StreamHandle

if TYPE_CHECKING:
    from iris.client import IrisClient

_SHOW_WAITING_AFTER_S = 1.0
_SHOW_RUNNING_AFTER_S = 2.0  # The status line shows that tasks run after this many seconds without output of any task.
_TICK_S = 1.0
# The longest time to wait for the end of the thread that watches the job's status.
_END_OF_WATCH_S = 2.0


@dataclass(frozen=True, slots=True)
class Activity:
    """What a job does at the moment.

    Attributes:
        who: The job, or the task that waits, as the subject of a sentence.
        waits: Why the job or task waits, for example "waiting for 4 cores". Empty if it does not wait.
        runs: How much of the job runs and for how long, for example "RUNNING, 3/4 running, for 5m 10s". Empty if the
            job does not run.
    """

    who: str = ""
    waits: str = ""
    runs: str = ""


def activity_of(job: cluster_pb2.JobStatus, tasks: Collection[cluster_pb2.TaskStatus] = ()) -> Activity:
    """Return what a job does.

    Args:
        job: The status of the job.
        tasks: The tasks that the user follows. If all of them wait, the first of them is the subject. If no tasks are
            given, the user follows all tasks.
    """
    waiting = [task for task in tasks if task.state == cluster_pb2.TASK_STATE_PENDING]
    if tasks and len(waiting) == len(tasks):
        return Activity(f"task {waiting[0].task_id}", waits=waiting[0].status_message or "waiting for a worker")
    who = f"job {job.job_id}"
    if job.state == cluster_pb2.JOB_STATE_PENDING:
        return Activity(who, waits=job.status_message or "waiting for a worker")
    if is_job_finished(job.state):
        return Activity(who)
    taken = time_taken(job.started_at_ms, 0)
    return Activity(who, runs=f"{state_name(job.state)}, {count_tasks(job)}" + (f", for {taken}" if taken else ""))


def words_of_no_start(job: cluster_pb2.JobStatus, tasks: Collection[cluster_pb2.TaskStatus] = ()) -> str:
    """Return why no task of a job has started.

    Args:
        job: The status of the job.
        tasks: The tasks that the user has chosen. If no tasks are given, all tasks are meant.
    """
    if is_job_finished(job.state):
        error = job.error or next((task.error for task in tasks if task.error), "") or "no reason was given"
        return f"job {job.job_id} ended as {state_name(job.state)} before it started: {error}"
    activity = activity_of(job, tasks)
    return f"{activity.who} has not started: {activity.waits or 'it is being prepared'}"


class JobWatch:
    """A context manager that shows what a job does, while another part of the program shows the lines of the job's
    tasks.

    On a terminal, a status line shows the activity of the job. Other outputs get one line for each reason for which the
    job waits, and nothing while the job runs.

    Args:
        client: The client of the cluster.
        job_id: The id of the job.
        output: The output, which several threads may use.
        tasks: The indices of the tasks that the user follows. None if the user follows the whole job.
        has_line: Whether this job may use the status line. Only one job at a time may use it.
    """

    def __init__(
        self,
        client: IrisClient,
        job_id: str,
        output: Output,
        *,
        tasks: Collection[int] | None = None,
        has_line: bool = True,
    ) -> None:
        self._client = client
        self._job_id = job_id
        self._output = output
        self._indices = tasks
        self._has_line = has_line and output.has_status_line
        self._changed = threading.Condition()
        self._activity = Activity()
        self._job = cluster_pb2.JobStatus()
        self._tasks: dict[int, cluster_pb2.TaskStatus] = {}
        self._over = False
        self._handle = StreamHandle()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._watch, self._show)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._set(Activity(), over=True)
        self._handle.abort()
        for thread in self._threads:
            # The thread is joined, because a thread that still runs while the interpreter shuts down would abort the
            # process.
            thread.join(_END_OF_WATCH_S)

    def _set(self, activity: Activity, *, over: bool = False) -> None:
        with self._changed:
            self._activity = activity
            self._over = self._over or over
            self._changed.notify_all()

    def _watch(self) -> None:
        with_tasks = self._indices is not None
        try:
            for job in self._client.cluster.watch_job(self._job_id, include_tasks=with_tasks, handle=self._handle):
                self._tasks.update({task.task_index: task for task in job.tasks if task.task_index in self._followed})
                self._job = job
                self._set(activity_of(job, self._tasks.values()))
                if self._over:
                    return
        except IrisError:
            # The thread of the status line ignores the error, because the main thread reads from the same cluster and
            # reports it.
            pass
        self._set(Activity())

    @property
    def _followed(self) -> Collection[int]:
        return () if self._indices is None else self._indices

    def _show(self) -> None:
        shown = ""
        with self._changed:
            while not self._over:
                if self._activity.waits:
                    shown = self._show_waiting(shown)
                elif self._activity.runs and self._has_line:
                    self._show_running()
                else:
                    self._clear()
                    self._changed.wait()
        self._clear()

    def _show_waiting(self, shown: str) -> str:
        """Show why the job waits, and wait for the next change. Return the shown reason.

        Args:
            shown: The reason that was shown last. An empty string if no reason was shown yet. In this case, a short
                wait is not shown.
        """
        if not shown and self._changed.wait_for(lambda: self._over or not self._activity.waits, _SHOW_WAITING_AFTER_S):
            return shown
        activity = self._activity
        if self._has_line:
            self._output.set_status(activity.waits)
        elif activity.waits != shown:
            self._output.note(f"{activity.who} is {activity.waits}")
        self._changed.wait()
        return activity.waits

    def _show_running(self) -> None:
        """If the tasks have written nothing lately, show how much of the job runs. Then wait for a second, or for the
        next change of the job.
        """

        def text(quiet_s: float) -> str:
            # The status line is composed again for each call, because it says for how long no task has written output.
            return f"{activity_of(self._job, self._tasks.values()).runs}; no output for {words_of_seconds(quiet_s)}"

        self._output.set_status_when_quiet(text, _SHOW_RUNNING_AFTER_S)
        self._changed.wait(_TICK_S)

    def _clear(self) -> None:
        if self._has_line:
            self._output.set_status("")
