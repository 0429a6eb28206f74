"""`iris describe`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iris.cli.attach import last_lines
from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import LATEST, Lookup
from iris.cli.completion import JobName
from iris.cli.options import address_option, json_option
from iris.cli.output.description import by_urgency, description, next_commands
from iris.cli.output.documents import job_document
from iris.cli.output.printer import Output
from iris.cli.output.submission_facts import submission_document
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from iris.cli.cluster.lookup import Target

_HELP = """\
Show everything about a job that helps to find out what is wrong: the command, the resources, who submitted it and when,
the tasks with the failing ones first, their attempts with the reasons, the last lines of the first failed task, and the
next command to type. Environment variables are shown by their names, without values.

JOB is an id, the beginning of an id, or '@' for your latest job. Default: your latest job.

\b
  iris describe                                   your latest job
  iris describe train-1a2b3c4d
  iris describe train-1a2b3c4d/task-2             this task, with all its attempts and its last lines
  iris describe train-1a2b3c4d --json | jq .submission.command
"""
_FAILED = (cluster_pb2.TASK_STATE_FAILED, cluster_pb2.TASK_STATE_WORKER_FAILED)


@click.command(help=_HELP, short_help="Show what a job is, and what went wrong.")
@json_option(
    'Print one JSON document: {"job", "submission", "last_lines", "next"}. "job" is the document that "iris status"'
    " prints, with its tasks in the order of their indices."
)
@address_option
@click.argument("job", metavar="[JOB]", type=JobName(with_tasks=True), default=LATEST)
def describe(*, job: str, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        target = Lookup(connection.client).one(job)
        submission = connection.client.submission(target.job.job_id)
        task = _task_to_explain(target)
        lines = last_lines(connection, target.job.job_id, task.task_index) if task is not None else []
        # The lines about the preparation of a task matter only if the task has written nothing.
        lines = [line for line in lines if line.source != "build"] or lines
        launch = submission.submission
        commands = next_commands(
            target.job,
            task,
            connection.options,
            independent=launch.independent_tasks,
            profile_memory=launch.profile_memory,
        )
    document = {
        "job": job_document(target.job),
        "submission": submission_document(submission),
        "last_lines": {"task": task.task_index, "lines": [line.message for line in lines]} if task else None,
        "next": commands,
    }
    output.answer(document, lambda: description(target.job, submission, target.task_index, lines, commands))


def _task_to_explain(target: Target) -> cluster_pb2.TaskStatus | None:
    """Return the task whose last lines are shown: the task that the user named, or the first failed task."""
    if target.task_index is not None:
        return target.job.tasks[target.task_index]
    if target.job.HasField("first_failed_task_index"):
        return target.job.tasks[target.job.first_failed_task_index]
    failed = [task for task in by_urgency(target.job.tasks) if task.state in _FAILED or len(task.attempts) > 1]
    return failed[0] if failed else None
