"""`iris status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup, Target, is_pattern
from iris.cli.completion import JobName
from iris.cli.options import address_option, json_option
from iris.cli.output.documents import job_document, task_document
from iris.cli.output.live_view import Frame, polled, show_live
from iris.cli.output.printer import Output
from iris.cluster.types import is_job_finished

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.client import IrisClient

_HELP = """\
Show jobs and their tasks: the state of each task, its worker, exit code and usage, and why it waits or has failed. A
task with several attempts also shows its attempts, and why each attempt ended.

JOB is an id, the beginning of an id, a pattern in quotes, or '@' for your latest job. Default: your latest job.

The job's "age" is the time since its submission. The job's "time" begins when its first task starts, and includes
retries and pauses. The TIME of a task is the time of its newest attempt.

\b
  iris status                                           your latest job
  iris status train-1a2b3c4d
  iris status train-1a                                  the only job whose id begins like this
  iris status train-1a2b3c4d/task-2                     this task only
  iris status 'sweep-*' eval-5e6f7a8b                   several jobs
  iris status train-1a2b3c4d --watch                    show each change, until the job has ended
  iris status train-1a2b3c4d --json | jq '.tasks[0].ports'

With several JOBs, or with a pattern, --json prints {"jobs": […], "tasks": […]}.
"""


@click.command(help=_HELP, short_help="Show jobs and their tasks.")
@click.option(
    "--watch",
    "-w",
    is_flag=True,
    help="Show each change of the jobs until they end. With --json, print one line for each change.",
)
@json_option()
@address_option
@click.argument("jobs", type=JobName(with_tasks=True), metavar="[JOB]...", nargs=-1)
def status(*, jobs: tuple[str, ...], watch: bool, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        client = connection.client
        found = Lookup(client).several(jobs)
        is_single = len(found) == 1 and not any(map(is_pattern, jobs))
        if watch:
            # The names are resolved once, so that '@' does not move to a job that is submitted later.
            show_live(polled(lambda: _frame([_again(client, one) for one in found], is_single=is_single)), output)
            return
    frame = _frame(found, is_single=is_single)
    output.answer(frame.document, frame.view)


def _frame(found: Sequence[Target], *, is_single: bool) -> Frame:
    document = _document(found[0]) if is_single else _documents(found)
    return Frame(document, lambda: _views(found), is_last=all(_has_ended(target) for target in found))


def _again(client: IrisClient, target: Target) -> Target:
    """Return the given job or task with its current status."""
    return Target(client.status(target.job.job_id), target.task_index)


def _has_ended(target: Target) -> bool:
    state = target.job.state if target.task_index is None else target.job.tasks[target.task_index].state
    # `is_job_finished` also accepts the states of tasks, because tasks and jobs have the same final states.
    return is_job_finished(state)


def _document(target: Target) -> dict[str, Any]:
    return job_document(target.job) if target.task_index is None else task_document(target.job.tasks[target.task_index])


def _documents(found: Sequence[Target]) -> dict[str, Any]:
    return {
        "jobs": [_document(target) for target in found if target.task_index is None],
        "tasks": [_document(target) for target in found if target.task_index is not None],
    }


def _views(found: Sequence[Target]) -> RenderableType:
    from rich.console import Group

    from iris.cli.output.tables import job_view

    parts: list[RenderableType] = []
    for target in found:
        parts += [*([""] if parts else []), job_view(target.job, target.task_index)]
    return Group(*parts)
