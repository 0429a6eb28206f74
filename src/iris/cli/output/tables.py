"""Tables of jobs, tasks, attempts, and tokens for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from iris.cli.output.columns import Columns, facts
from iris.client.views.job_tables import count_tasks
from iris.cluster.types import is_job_finished, state_name
from iris.durations import words_of_seconds
from iris.system.clock import now_ms

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from iris.rpc import cluster_pb2

_SHOWN_ATTEMPTS = 20
_STATE_STYLES = {
    "PENDING": "yellow",
    "BUILDING": "cyan",
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "FAILED": "red",
    "WORKER_FAILED": "red",
    "UNSCHEDULABLE": "red",
    "KILLED": "magenta",
}


def jobs_table(jobs: Iterable[cluster_pb2.JobStatus]) -> RenderableType:
    """Return a table with one row for each job. AGE counts from the submission, TIME from the first task's start."""
    table = Columns("JOB", "STATE", "TASKS", "AGE", "TIME", "")
    now = now_ms()
    for job in jobs:
        table.add_row(
            plain(job.job_id),
            state_text(job.state),
            count_tasks(job),
            words_of_time(now - job.submitted_at_ms) if job.submitted_at_ms else "",
            time_taken(job.started_at_ms, job.finished_at_ms, now),
            plain(one_line(job.status_message or job.error)),
        )
    return table


def job_view(job: cluster_pb2.JobStatus, task_index: int | None = None) -> RenderableType:
    """Return a view of a job: its facts, its tasks, and the attempts of tasks with more than one attempt.

    Args:
        job: The status of the job.
        task_index: The only task to show, with all its attempts. None shows all tasks.
    """
    from rich.console import Group

    now = now_ms()
    tasks = job.tasks if task_index is None else [job.tasks[task_index]]
    parts: list[RenderableType] = [facts(_facts_of(job, now)), "", tasks_table(tasks, now)]
    tried_again = [task for task in tasks if len(task.attempts) > 1 or task_index is not None]
    attempts = [(task, attempt) for task in tried_again for attempt in task.attempts]
    if attempts:
        shown = attempts if task_index is not None else attempts[-_SHOWN_ATTEMPTS:]
        parts += ["", attempts_table(shown, now)]
        if len(shown) < len(attempts):
            hidden = len(attempts) - len(shown)
            a_task = shlex.quote(f"{job.job_id}/task-N")
            parts.append(plain(f"… and {hidden} before them: iris status {a_task}, or --json"))
    return Group(*parts)


def _facts_of(job: cluster_pb2.JobStatus, now: int) -> list[tuple[str, str | Text]]:
    taken = time_taken(job.started_at_ms, job.finished_at_ms, now)
    found: list[tuple[str, str | Text]] = [
        ("job", plain(job.job_id)),
        ("state", state_text(job.state)),
        ("tasks", count_tasks(job)),
        ("why", plain(one_line(job.status_message or job.error))),
        ("exit code", str(job.exit_code) if is_job_finished(job.state) and job.HasField("exit_code") else ""),
        ("parent", plain(job.parent_job_id)),
        ("owner", plain(job.owner)),
        ("age", f"{words_of_time(now - job.submitted_at_ms)} since it was submitted" if job.submitted_at_ms else ""),
        ("time", f"{taken} from its first start on, with all attempts and pauses" if taken else ""),
        ("failures", _failures(job)),
    ]
    return [(name, value) for name, value in found if value]


def usage_table(used: Iterable[tuple[cluster_pb2.TaskStatus, int]]) -> RenderableType:
    """Return a table of tasks that run, each with the number of GPUs that are reserved for it."""
    table = Columns("TASK", "CPU", "MEMORY", "PEAK", "GPU", "PROCESSES", "TIME", "WORKER")
    now = now_ms()
    for task, gpus in used:
        usage = task.resource_usage
        table.add_row(
            plain(task.task_id),
            f"{usage.cpu_millicores / 1000:.1f}",
            f"{usage.memory_mb} MB",
            f"{usage.memory_peak_mb} MB",
            str(gpus or ""),
            str(usage.process_count or ""),
            time_taken(task.started_at_ms, 0, now),
            plain(task.worker_id),
        )
    return table


def tokens_table(tokens: Iterable[cluster_pb2.Controller.Token]) -> RenderableType:
    """Return a table with one row for each token."""
    table = Columns("ID", "NAME", "ROLE", "AGE", "")
    now = now_ms()
    for token in tokens:
        left_ms = token.expires_at_ms - now
        state = "revoked" if token.revoked_at_ms else f"for {words_of_time(left_ms)}" if left_ms > 0 else "expired"
        table.add_row(
            token.token_id, plain(token.name), token.role, words_of_time(now - token.created_at_ms), plain(state)
        )
    return table


def words_of_time(milliseconds: int) -> str:
    """Return a duration in at most two units, for example `3.2s`, `48s`, `5m 10s`, `2h 3m`, or `4d 1h`."""
    return words_of_seconds(milliseconds / 1000)


def tasks_table(tasks: Sequence[cluster_pb2.TaskStatus], now: int) -> Columns:
    """Return a table with one row for each task. TIME is the duration of the newest attempt."""
    columns = ["TASK", "STATE", "ATTEMPT", "WORKER", "TIME", "EXIT", "CPU", "MEMORY"]
    with_ports = any(task.ports for task in tasks)
    table = Columns(*columns, *(["PORTS"] if with_ports else []), "")
    for task in tasks:
        usage = task.resource_usage
        newest = task.attempts[-1] if task.attempts else None
        ports = " ".join(f"{name}={port}" for name, port in sorted(task.ports.items()))
        table.add_row(
            str(task.task_index),
            state_text(task.state),
            str(task.current_attempt_id) if task.HasField("current_attempt_id") else "",
            plain(task.worker_id),
            time_taken(newest.started_at_ms, newest.finished_at_ms, now) if newest is not None else "",
            str(task.exit_code) if task.HasField("exit_code") else "",
            f"{usage.cpu_millicores / 1000:.1f}" if task.attempts else "",
            f"{usage.memory_peak_mb} MB" if task.attempts else "",
            *([ports] if with_ports else []),
            plain(one_line(task.status_message or task.error or task.output_warning or task.log_warning)),
        )
    return table


def attempts_table(attempts: Sequence[tuple[cluster_pb2.TaskStatus, cluster_pb2.TaskAttempt]], now: int) -> Columns:
    """Return a table with one row for each attempt and the reason for which it ended."""
    table = Columns("ATTEMPT", "STATE", "WORKER", "TIME", "EXIT", "WHY", last="wrap")
    for task, attempt in attempts:
        table.add_row(
            f"task {task.task_index}, {attempt.attempt_id}",
            state_text(attempt.state),
            plain(attempt.worker_id),
            time_taken(attempt.started_at_ms, attempt.finished_at_ms, now),
            str(attempt.exit_code) if attempt.HasField("exit_code") else "",
            plain(one_line(attempt.error)),
        )
    return table


def state_text(state: int) -> Text:
    """Return the name of a state, in the colour of the state."""
    from rich.text import Text

    name = state_name(state)
    return Text(name, style=_STATE_STYLES.get(name, ""))


def plain(text: str, style: str = "") -> Text:
    """Return untrusted text as a cell of a table, without markup and with `?` for control characters."""
    from rich.text import Text

    return Text("".join(character if character.isprintable() else "?" for character in text), style=style)


def one_line(text: str) -> str:
    """Return the text with spaces instead of newlines, so that each row is one line and `grep` finds whole rows."""
    return " ".join(text.split())


def time_taken(started_at_ms: int, finished_at_ms: int, now_ms: int) -> str:
    """Return the time between a start and an end as text. An end of 0 stands for now. Return an empty string if the
    start is 0.
    """
    return words_of_time((finished_at_ms or now_ms) - started_at_ms) if started_at_ms else ""


def _failures(job: cluster_pb2.JobStatus) -> str:
    counts = ((job.failure_count, "failed"), (job.preemption_count, "lost with their worker"))
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    return f"attempts: {said}" if said else ""
