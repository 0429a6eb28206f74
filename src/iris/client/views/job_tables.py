"""Makes tables of jobs, tasks and attempts from messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from iris.cluster.types import FINAL_STATES, JobState, TaskState, is_job_finished, state_name
from iris.counts import counted
from iris.display.progress import Progress
from iris.display.table import Table
from iris.durations import words_of_seconds
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

MOST_ROWS = 50  # A table shows at most this many tasks, jobs or attempts.
COLOURS = {
    "PENDING": "#b7791f",
    "BUILDING": "#0e7490",
    "RUNNING": "#0e7490",
    "SUCCEEDED": "#15803d",
    "FAILED": "#c0392b",
    "WORKER_FAILED": "#c0392b",
    "UNSCHEDULABLE": "#c0392b",
    "KILLED": "#86198f",
}
# The order in which a table of a job shows its tasks: first the tasks that failed, last the tasks that succeeded.
_ORDER = (
    TaskState.FAILED,
    TaskState.WORKER_FAILED,
    TaskState.UNSCHEDULABLE,
    TaskState.RUNNING,
    TaskState.BUILDING,
    TaskState.PENDING,
    TaskState.KILLED,
    TaskState.SUCCEEDED,
)
_RANKS = {state.number: rank for rank, state in enumerate(_ORDER)}


def count_tasks(job: cluster_pb2.JobStatus) -> str:
    """Return the number of tasks in the job's state, and of the tasks that have succeeded or failed, for example
    `4/60 running, 25 succeeded` or `1/4 failed`."""
    count, word = {
        JobState.PENDING.number: (job.tasks_pending, "waiting"),
        JobState.SUCCEEDED.number: (job.tasks_succeeded, "succeeded"),
        JobState.FAILED.number: (job.tasks_failed, "failed"),
        JobState.WORKER_FAILED.number: (job.tasks_failed, "failed"),
        JobState.KILLED.number: (job.tasks_killed, "killed"),
        JobState.UNSCHEDULABLE.number: (job.tasks_killed, "not placed"),
    }.get(job.state, (job.tasks_running, "running"))
    ended = ((job.tasks_succeeded, "succeeded"), (job.tasks_failed, "failed"))
    others = [f"{number} {state}" for number, state in ended if number and state != word]
    return ", ".join([f"{count}/{job.num_tasks} {word}", *others])


def job_progress(job: cluster_pb2.JobStatus) -> Progress:
    """Return the numbers of all, ended, failed and running tasks of a job, for a progress display."""
    return Progress(
        title=f"job {job.job_id}",
        total=job.num_tasks,
        done=job.tasks_succeeded + job.tasks_failed + job.tasks_killed,
        failed=job.tasks_failed,
        running=job.tasks_running,
        state=state_name(job.state),
        note=job.status_message,
    )


def job_summary(job: cluster_pb2.JobStatus) -> str:
    """Return one sentence about a job, for example `job train: SUCCEEDED, 4/4 succeeded, in 12s`."""
    parts = [state_name(job.state), count_tasks(job)]
    taken = time_taken(job.started_at_ms, job.finished_at_ms)
    if taken:
        parts.append(f"in {taken}" if is_job_finished(job.state) else f"for {taken}")
    why = job.status_message or job.error
    return f"job {job.job_id}: {', '.join(parts)}" + (f": {why}" if why else "")


def job_table(job: cluster_pb2.JobStatus) -> Table:
    """Return a table of a job's tasks with a title about the job. Tasks that failed come first."""
    tasks = sorted(job.tasks, key=lambda task: (_RANKS.get(task.state, len(_ORDER)), task.task_index))
    return tasks_table(tasks, job_summary(job))


def tasks_table(tasks: Sequence[cluster_pb2.TaskStatus], title: str) -> Table:
    """Return a table with one row for each task, in the given order."""
    rows = []
    for task in tasks[:MOST_ROWS]:
        newest = task.attempts[-1] if task.attempts else None
        rows.append(
            (
                str(task.task_index),
                state_name(task.state),
                str(task.current_attempt_id) if task.HasField("current_attempt_id") else "",
                task.worker_id,
                time_taken(newest.started_at_ms, newest.finished_at_ms) if newest is not None else "",
                str(task.exit_code) if task.HasField("exit_code") else "",
                f"{task.resource_usage.memory_peak_mb} MB" if task.attempts else "",
                task.status_message or task.error or task.output_warning or task.log_warning,
            )
        )
    columns = ("task", "state", "attempt", "worker", "time", "exit", "memory", "why")
    return Table(title, columns, rows, _left_out(len(tasks), "task"), COLOURS)


def task_tables(task: cluster_pb2.TaskStatus) -> list[Table]:
    """Return a table of a task, and a table of its attempts if there are several."""
    tables = [tasks_table([task], f"task {task.task_id}")]
    if len(task.attempts) > 1:
        rows = [
            (
                str(attempt.attempt_id),
                state_name(attempt.state),
                attempt.worker_id,
                time_taken(attempt.started_at_ms, attempt.finished_at_ms),
                str(attempt.exit_code) if attempt.HasField("exit_code") else "",
                attempt.error,
            )
            for attempt in task.attempts[-MOST_ROWS:]
        ]
        columns = ("attempt", "state", "worker", "time", "exit", "why")
        tables.append(Table("", columns, rows, _left_out(len(task.attempts), "earlier attempt"), COLOURS))
    return tables


def jobs_table(jobs: Sequence[cluster_pb2.JobStatus]) -> Table:
    """Return a table with one row for each job, the newest first. `jobs` begins with the oldest job."""
    now = now_ms()
    rows = [
        (
            job.job_id,
            state_name(job.state),
            count_tasks(job),
            words_of_seconds((now - job.submitted_at_ms) / 1000) if job.submitted_at_ms else "",
            time_taken(job.started_at_ms, job.finished_at_ms),
            job.status_message or job.error,
        )
        for job in list(reversed(jobs))[:MOST_ROWS]
    ]
    columns = ("job", "state", "tasks", "age", "time", "why")
    return Table(count_of(jobs, "job"), columns, rows, _left_out(len(jobs), "earlier job"), COLOURS)


def count_of(items: Iterable[object], what: str) -> str:
    """Return the number of items in words, for example `2 jobs`."""
    count = len(list(items))
    return counted(count, what)


def time_taken(started_at_ms: int, finished_at_ms: int) -> str:
    """Return the time between a start and an end as text. An end of 0 stands for now. Return an empty string if the
    start is 0.
    """
    if not started_at_ms:
        return ""
    return words_of_seconds(((finished_at_ms or now_ms()) - started_at_ms) / 1000)


def has_ended(status: cluster_pb2.JobStatus | cluster_pb2.TaskStatus) -> bool:
    """Return whether the state of a job or of a task is final."""
    return status.state in FINAL_STATES


def exit_code_of(status: cluster_pb2.JobStatus | cluster_pb2.TaskStatus) -> int | None:
    """Return the exit code of a job or task that has ended. Return None if it has not ended or has no exit code."""
    return status.exit_code if has_ended(status) and status.HasField("exit_code") else None


def _left_out(count: int, what: str) -> str:
    return f"… and {counted(count - MOST_ROWS, f'more {what}')}" if count > MOST_ROWS else ""
