"""`iris kill`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup, Target, no_such_task
from iris.cli.completion import JobName
from iris.cli.exit_codes import EXIT_ERROR
from iris.cli.options import COUNT, address_option, json_option
from iris.cli.output.documents import job_document, task_document
from iris.cli.output.printer import Output
from iris.cluster.types import is_job_finished, is_task_finished, state_name
from iris.errors import IrisError, NotFoundError, PermissionDeniedError
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from iris.client import IrisClient

_HELP = """\
Terminate jobs and their child jobs, or single tasks: the tasks get SIGTERM, and SIGKILL 10 s later. A job that has
ended keeps its state.

JOB is an id, the beginning of an id, a pattern in quotes, or '@' for your latest job. A pattern matches only jobs that
have not ended.

\b
  iris kill train-1a2b3c4d
  iris kill @                           your latest job
  iris kill 'sweep-*'                   all jobs with such an id that have not ended
  iris kill --wait train-1a2b3c4d eval-5e6f7a8b
  iris kill sweep-9c0d1e2f/task-3       only this task, which is not retried
  iris kill sweep-9c0d1e2f --task 3     the same

If one task is terminated, the whole job ends, because a gang needs all of its tasks. But the other tasks continue if
the job was run with --independent, or if --max-task-failures allows one more failed task. The job is then KILLED when
the other tasks have ended.
"""


@click.command(help=_HELP, short_help="Terminate jobs.")
@click.option(
    "--task",
    "task_index",
    metavar="N",
    type=COUNT,
    help="Terminate only the task with this index of one job. The first task has the index 0.",
)
@click.option("--wait", is_flag=True, help="Wait until the jobs have ended.")
@json_option()
@address_option
@click.argument("jobs", type=JobName(with_tasks=True), metavar="JOB...", nargs=-1)
def kill(*, jobs: tuple[str, ...], task_index: int | None, wait: bool, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    if not jobs:
        # Other commands show the latest job if no job is given. This command requires '@' instead, so that an
        # unfinished command line ends no job.
        raise click.UsageError("give the JOBs to terminate; '@' stands for your latest job")
    if task_index is not None and len(jobs) > 1:
        raise click.UsageError("--task needs exactly one JOB")
    failed = False

    def report(error: IrisError) -> None:
        nonlocal failed
        failed = True
        output.error(str(error))

    with connect(address) as connection:
        client = connection.client
        # An error about one of the given names is printed and not raised, so that the command also terminates the other
        # jobs.
        found = Lookup(client, live_only=True).several(jobs, on_error=report)
        if task_index is not None:
            found = [_task_of(target, task_index) for target in found]
        asked = []
        for target in found:
            try:
                client.terminate(target.job.job_id, target.task_index)
                asked.append(target)
            except (NotFoundError, PermissionDeniedError) as error:
                report(error)
        found = asked
        now = [_status(client, target, wait) for target in found]
    if found:
        told = "\n".join(_words(target, after.state) for target, after in zip(found, now, strict=True))
        output.answer(_document(now), lambda: told)
    return EXIT_ERROR if failed else 0


def _task_of(target: Target, task_index: int) -> Target:
    if target.task_index is not None:
        raise click.UsageError(f"{target.name} is the id of a task: --task needs the id of the job")
    if task_index >= target.job.num_tasks:
        raise no_such_task(target.job, task_index)
    return Target(target.job, task_index)


def _status(client: IrisClient, target: Target, wait: bool) -> cluster_pb2.JobStatus | cluster_pb2.TaskStatus:
    job_id, index = target.job.job_id, target.task_index
    if index is None:
        return client.wait(job_id, progress=False) if wait else client.status(job_id)
    if wait:
        for job in client.cluster.watch_job(job_id, include_tasks=True):
            if any(task.task_index == index and is_task_finished(task.state) for task in job.tasks):
                break
    return client.task_status(job_id, index)


def _document(now: list[cluster_pb2.JobStatus | cluster_pb2.TaskStatus]) -> dict[str, list[dict[str, Any]]]:
    document: dict[str, list[dict[str, Any]]] = {}
    for after in now:
        if isinstance(after, cluster_pb2.JobStatus):
            document.setdefault("jobs", []).append(job_document(after))
        else:
            document.setdefault("tasks", []).append(task_document(after))
    return document


def _words(target: Target, state: int) -> str:
    before = target.job.state if target.task_index is None else target.job.tasks[target.task_index].state
    # `is_job_finished` also accepts the states of tasks, because tasks and jobs have the same final states.
    if is_job_finished(before):
        return f"{target.name} had ended: {state_name(state)}"
    if is_job_finished(state):
        return f"{target.name} ended: {state_name(state)}"
    return f"{target.name} was asked to end"
