"""Jobs and tasks as people read them: tables, ages, counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from iris.clock import now_ms
from iris.cluster.types import is_job_finished, state_name

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from iris.rpc import cluster_pb2

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
    """One row for each job."""
    table = table_of("JOB", "STATE", "TASKS", "AGE", "TIME", "")
    now = now_ms()
    for job in jobs:
        table.add_row(
            plain(job.job_id),
            _state(job.state),
            count_tasks(job),
            words_of_time(now - job.submitted_at_ms) if job.submitted_at_ms else "",
            _time_taken(job.started_at_ms, job.finished_at_ms, now),
            plain(_first_line(job.status_message or job.error)),
        )
    return table


def job_view(job: cluster_pb2.JobStatus) -> RenderableType:
    """A job, and a row for each of its tasks."""
    from rich.console import Group
    from rich.table import Table

    now = now_ms()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")

    def fact(name: str, text: str) -> None:
        if text:
            facts.add_row(name, plain(text))

    fact("job", job.job_id)
    facts.add_row("state", _state(job.state))
    fact("tasks", count_tasks(job))
    fact("why", job.status_message or job.error)
    if is_job_finished(job.state) and job.HasField("exit_code"):
        fact("exit code", str(job.exit_code))
    fact("parent", job.parent_job_id)
    fact("owner", job.owner)
    fact("age", words_of_time(now - job.submitted_at_ms) if job.submitted_at_ms else "")
    fact("time", _time_taken(job.started_at_ms, job.finished_at_ms, now))
    fact("failures", _failures(job))
    return Group(facts, "", _tasks_table(job.tasks, now))


def tokens_table(tokens: Iterable[cluster_pb2.Controller.Token]) -> RenderableType:
    """One row for each token."""
    table = table_of("ID", "NAME", "ROLE", "AGE", "")
    now = now_ms()
    for token in tokens:
        left_ms = token.expires_at_ms - now
        state = "revoked" if token.revoked_at_ms else f"for {words_of_time(left_ms)}" if left_ms > 0 else "expired"
        table.add_row(
            token.token_id, plain(token.name), token.role, words_of_time(now - token.created_at_ms), plain(state)
        )
    return table


def count_tasks(job: cluster_pb2.JobStatus) -> str:
    """How many tasks are how: `3/4 running`, `1/4 failed`."""
    state = state_name(job.state)
    count, word = {
        "PENDING": (job.tasks_pending, "waiting"),
        "SUCCEEDED": (job.tasks_succeeded, "succeeded"),
        "FAILED": (job.tasks_failed, "failed"),
        "WORKER_FAILED": (job.tasks_failed, "failed"),
        "KILLED": (job.tasks_killed, "killed"),
        "UNSCHEDULABLE": (job.tasks_killed, "not placed"),
    }.get(state, (job.tasks_running, "running"))
    text = f"{count}/{job.num_tasks} {word}"
    return f"{text}, {job.tasks_failed} failed" if job.tasks_failed and word != "failed" else text


def words_of_time(milliseconds: int) -> str:
    """A span of time in two units at most: `3.2s`, `48s`, `5m 10s`, `2h 3m`, `4d 1h`."""
    seconds = max(0, milliseconds) / 1000
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // smaller}{smaller_unit}"
    return f"{whole}s"


def _tasks_table(tasks: Sequence[cluster_pb2.TaskStatus], now_ms: int) -> Table:
    columns = ["TASK", "STATE", "ATTEMPT", "WORKER", "TIME", "EXIT", "CPU", "MEMORY"]
    with_ports = any(task.ports for task in tasks)
    table = table_of(*columns, *(["PORTS"] if with_ports else []), "")
    for task in tasks:
        usage = task.resource_usage
        ports = " ".join(f"{name}={port}" for name, port in sorted(task.ports.items()))
        table.add_row(
            str(task.task_index),
            _state(task.state),
            str(task.current_attempt_id) if task.HasField("current_attempt_id") else "",
            plain(task.worker_id),
            _time_taken(task.started_at_ms, task.finished_at_ms, now_ms),
            str(task.exit_code) if task.HasField("exit_code") else "",
            f"{usage.cpu_millicores / 1000:.1f}" if task.attempts else "",
            f"{usage.memory_peak_mb} MB" if task.attempts else "",
            *([ports] if with_ports else []),
            plain(_first_line(task.status_message or task.error)),
        )
    return table


def table_of(*columns: str) -> Table:
    """Columns of words that stay on one line; the last one takes what room is left, and may go over several."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    table.add_column(columns[-1], overflow="fold")
    return table


def _state(state: int) -> Text:
    from rich.text import Text

    name = state_name(state)
    return Text(name, style=_STATE_STYLES.get(name, ""))


def plain(text: str, style: str = "") -> Text:
    """Text from elsewhere: nothing in it is markup, and no control character reaches the terminal."""
    from rich.text import Text

    return Text("".join(character if character.isprintable() else "?" for character in text), style=style)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _time_taken(started_at_ms: int, finished_at_ms: int, now_ms: int) -> str:
    return words_of_time((finished_at_ms or now_ms) - started_at_ms) if started_at_ms else ""


def _failures(job: cluster_pb2.JobStatus) -> str:
    counts = ((job.failure_count, "failed"), (job.preemption_count, "lost with their worker"))
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    return f"attempts: {said}" if said else ""
