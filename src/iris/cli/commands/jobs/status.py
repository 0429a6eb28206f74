"""`iris status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import known_job_or_task
from iris.cli.options import address_option, json_option
from iris.cli.output.documents import job_document, task_document
from iris.cli.output.printer import Output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.rpc import cluster_pb2

_HELP = """\
Show a job and its tasks: the state of each task, its worker, exit code and usage, and why it waits or has failed. A
task with several attempts also shows its attempts, and why each attempt ended.

The job's "age" is the time since its submission. The job's "time" begins when its first task starts, and includes
retries and pauses. The TIME of a task is the time of its newest attempt.

\b
  iris status train-1a2b3c4d
  iris status train-1a2b3c4d/task-2                     this task only
  iris status train-1a2b3c4d --json | jq '.tasks[0].ports'
"""


@click.command(help=_HELP, short_help="Show a job and its tasks.")
@json_option()
@address_option
@click.argument("job")
def status(*, job: str, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        found, task_index = known_job_or_task(connection.client, job)
    if task_index is None:
        output.answer(job_document(found), lambda: _view(found, None))
    else:
        output.answer(task_document(found.tasks[task_index]), lambda: _view(found, task_index))


def _view(job: cluster_pb2.JobStatus, task_index: int | None) -> RenderableType:
    from iris.cli.output.tables import job_view

    return job_view(job, task_index)
