"""`iris kill`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import known_job, known_job_or_task
from iris.cli.options import COUNT, address_option, json_option
from iris.cli.output.documents import job_document, task_document
from iris.cli.output.printer import Output
from iris.cluster.types import is_job_finished, is_task_finished, state_name
from iris.errors import NotFoundError

if TYPE_CHECKING:
    from iris.client import IrisClient
    from iris.rpc import cluster_pb2

_HELP = """\
Terminate jobs and their child jobs: their tasks get SIGTERM, and SIGKILL 10 s later. A job that has ended keeps its
state.

\b
  iris kill train-1a2b3c4d
  iris kill --wait train-1a2b3c4d eval-5e6f7a8b
  iris kill sweep-9c0d1e2f --task 3     only this task, which is not retried

With --task, the other tasks continue if the job was run with --independent, or may have one more failed task
(--max-task-failures). The job is KILLED when the other tasks have ended. Otherwise the whole job ends, because a gang
needs all its tasks.
"""


@click.command(help=_HELP, short_help="Terminate jobs.")
@click.option(
    "--task", "task_index", metavar="N", type=COUNT, help="Terminate only the task with this index, from 0, of one job."
)
@click.option("--wait", is_flag=True, help="Wait until the jobs have ended.")
@json_option()
@address_option
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
def kill(*, jobs: tuple[str, ...], task_index: int | None, wait: bool, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    if task_index is not None:
        if len(jobs) > 1:
            raise click.UsageError("--task needs exactly one JOB")
        return _kill_task(jobs[0], task_index, wait, address, output)
    # Each pair is a job and whether the job had ended before this command.
    asked: list[tuple[cluster_pb2.JobStatus, bool]] = []
    unknown = False
    with connect(address) as connection:
        client = connection.client
        for job_id in dict.fromkeys(jobs):
            try:
                before, its_task = known_job_or_task(client, job_id)
                if its_task is not None:
                    raise NotFoundError(
                        f"{job_id!r} is a task of job {before.job_id!r}: to terminate only this task, run"
                        f" iris kill {shlex.quote(before.job_id)} --task {its_task}"
                    )
            except NotFoundError as error:
                # The error is printed and not raised, so that the command also terminates the other jobs.
                output.error(str(error))
                unknown = True
                continue
            client.terminate(job_id)
            asked.append((before, is_job_finished(before.state)))
        now = [client.wait(job.job_id) if wait else client.status(job.job_id) for job, _ in asked]
    if asked:
        told = "\n".join(
            _words(job.job_id, job.state, had_ended) for job, (_, had_ended) in zip(now, asked, strict=True)
        )
        output.answer({"jobs": [job_document(job) for job in now]}, lambda: told)
    return 1 if unknown else 0


def _kill_task(job_id: str, task_index: int, wait: bool, address: str | None, output: Output) -> int:
    with connect(address) as connection:
        client = connection.client
        known_job(client, job_id)
        before = client.task_status(job_id, task_index)
        client.terminate(job_id, task_index)
        now = _task_when_ended(client, job_id, task_index) if wait else client.task_status(job_id, task_index)
    output.answer(
        {"tasks": [task_document(now)]}, lambda: _words(now.task_id, now.state, is_task_finished(before.state))
    )
    return 0


def _task_when_ended(client: IrisClient, job_id: str, task_index: int) -> cluster_pb2.TaskStatus:
    for job in client.cluster.watch_job(job_id, include_tasks=True):
        if any(task.task_index == task_index and is_task_finished(task.state) for task in job.tasks):
            break
    return client.task_status(job_id, task_index)


def _words(name: str, state: int, had_ended: bool) -> str:
    if had_ended:
        return f"{name} had ended: {state_name(state)}"
    if is_job_finished(state):
        return f"{name} ended: {state_name(state)}"
    return f"{name} was asked to end"
