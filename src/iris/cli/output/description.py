"""The view of `iris describe`: a job, its submission, its tasks with the failing ones first, and the next commands."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from iris.cli.output.columns import facts
from iris.cli.output.submission_facts import submission_facts
from iris.cli.output.tables import attempts_table, one_line, plain, state_text, tasks_table, words_of_time
from iris.cluster.types import is_job_finished, make_task_id
from iris.counts import counted
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from iris.client import LogEntry

_SHOWN_TASKS = 20
_SHOWN_ATTEMPTS = 10
_MOST_NAMED = 5  # At most this many of the jobs for which a job waits are put into a suggested command.
_WITHOUT_PROFILE = (cluster_pb2.TASK_STATE_KILLED, cluster_pb2.TASK_STATE_WORKER_FAILED)
# Tasks are shown in the order of their states, because a reader looks for the tasks with a problem.
_ORDER = [
    cluster_pb2.TASK_STATE_FAILED,
    cluster_pb2.TASK_STATE_WORKER_FAILED,
    cluster_pb2.TASK_STATE_UNSCHEDULABLE,
    cluster_pb2.TASK_STATE_PENDING,
    cluster_pb2.TASK_STATE_BUILDING,
    cluster_pb2.TASK_STATE_RUNNING,
    cluster_pb2.TASK_STATE_KILLED,
    cluster_pb2.TASK_STATE_SUCCEEDED,
]


def by_urgency(tasks: Sequence[cluster_pb2.TaskStatus]) -> list[cluster_pb2.TaskStatus]:
    """Return the tasks, the failed ones first. Among the tasks in the same state, a task with more attempts comes
    first.
    """

    def rank(task: cluster_pb2.TaskStatus) -> tuple[int, int, int]:
        order = _ORDER.index(task.state) if task.state in _ORDER else len(_ORDER)
        return order, -len(task.attempts), task.task_index

    return sorted(tasks, key=rank)


def next_commands(
    job: cluster_pb2.JobStatus,
    shown: cluster_pb2.TaskStatus | None,
    options: str = "",
    *,
    independent: bool = False,
    profile_memory: bool = False,
) -> list[str]:
    """Return the commands that a person may want to type next, the most useful one first.

    Args:
        job: The status of the job.
        shown: The task that was described, or the first failed task. None if no task has failed.
        options: The options with which commands reach the cluster.
        independent: Whether single tasks of the job can be retried. A gang is retried as a whole.
        profile_memory: Whether the attempts of the job ran under the memory profiler.
    """
    name = shlex.quote(job.job_id)
    log = f"iris logs{options} {name}" + ("" if shown is None or job.num_tasks == 1 else f" --task {shown.task_index}")
    if not is_job_finished(job.state):
        look = f"iris logs -f{options} {name}"
        if job.waits_for:
            others = shlex.join(other.job_id for other in job.waits_for[:_MOST_NAMED])
            look = f"iris status{options} {others}"
        elif job.state == cluster_pb2.JOB_STATE_PENDING:
            look = f"iris machines{options}"
        return [look, f"iris kill{options} {name}"]
    # The command that shows a memory profile is left out if there is no profile. Terminated attempts and attempts of
    # lost workers leave none.
    lacks = job.state == cluster_pb2.JOB_STATE_KILLED if shown is None else shown.state in _WITHOUT_PROFILE
    memory = [show_memory_command(job.job_id, shown.task_index if shown else 0, options)]
    memory = memory if profile_memory and not lacks else []
    if job.state == cluster_pb2.JOB_STATE_SUCCEEDED and not job.tasks_failed:
        return [log, *memory]
    failed = " --failed" if independent and job.num_tasks > 1 else ""
    return [log, f"iris retry{options} {name}{failed}", *memory]


def show_memory_command(job_id: str, task_index: int, options: str = "") -> str:
    """Return the command that shows the memory profile of a task.

    Args:
        job_id: The id of the job.
        task_index: The index of the task in its job, from 0.
        options: The options with which commands reach the cluster.
    """
    return f"iris profile --memory{options} {shlex.quote(make_task_id(job_id, task_index))}"


def description(
    job: cluster_pb2.JobStatus,
    submission: cluster_pb2.Controller.GetSubmissionResponse,
    task_index: int | None,
    lines: Sequence[LogEntry],
    commands: Sequence[str],
) -> RenderableType:
    """Return the view of a job, or of one task if `task_index` is given.

    Args:
        job: The job, with its tasks.
        submission: The controller's answer about the submission of the job.
        task_index: The only task to show. If None, all tasks are shown.
        lines: The last lines of the described or first failed task.
        commands: The commands that the user may type next.
    """
    from rich.console import Group

    now = now_ms()
    tasks = by_urgency(job.tasks) if task_index is None else [job.tasks[task_index]]
    shown = tasks[:_SHOWN_TASKS]
    parts: list[RenderableType] = [facts(_facts(job, submission, now)), "", tasks_table(shown, now)]
    if len(shown) < len(tasks):
        parts.append(
            plain(f"… and {counted(len(tasks) - len(shown), 'more task')}: iris status {shlex.quote(job.job_id)}")
        )
    attempts = [
        (task, attempt)
        for task in shown
        if len(task.attempts) > 1 or task_index is not None
        for attempt in task.attempts[-_SHOWN_ATTEMPTS:]
    ]
    if attempts:
        parts += ["", attempts_table(attempts[:_SHOWN_TASKS], now)]
    if lines:
        parts += ["", plain(f"the last lines of task {lines[0].task_index}:", "dim")]
        parts += [plain(f"  {line.message.rstrip()}") for line in lines]
    return Group(*parts, "", *(plain(f"next: {command}") for command in commands))


def _facts(
    job: cluster_pb2.JobStatus, submission: cluster_pb2.Controller.GetSubmissionResponse, now: int
) -> list[tuple[str, str | Text]]:
    found: list[tuple[str, str | Text]] = [
        ("job", plain(job.job_id)),
        ("state", state_text(job.state)),
        ("why", plain(one_line(job.status_message or job.error))),
        *((name, plain(one_line(text))) for name, text in submission_facts(submission)),
        ("parent", plain(job.parent_job_id)),
        ("submitted", f"{_moment(job.submitted_at_ms)} by {job.owner or 'an unknown user'}"),
        ("started", _since(job.started_at_ms, job.submitted_at_ms, "after the submission")),
        ("ended", _end_text(job)),
    ]
    if job.started_at_ms and not job.finished_at_ms:
        found.append(("runs for", words_of_time(now - job.started_at_ms)))
    return [(name, value) for name, value in found if value]


def _moment(timestamp_ms: int) -> str:
    """Return a time in the local zone, for example `2026-11-24 10:00:00`."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(timestamp_ms / 1000)) if timestamp_ms else "?"


def _end_text(job: cluster_pb2.JobStatus) -> str:
    """Return when a job has ended, and how long it took: from its start, or from its submission if it never started."""
    if job.started_at_ms:
        return _since(job.finished_at_ms, job.started_at_ms, "after the start")
    return _since(job.finished_at_ms, job.submitted_at_ms, "after the submission; no task has started")


def _since(timestamp_ms: int, before_ms: int, what: str) -> str:
    if not timestamp_ms:
        return ""
    return f"{_moment(timestamp_ms)}, {words_of_time(timestamp_ms - before_ms)} {what}"
