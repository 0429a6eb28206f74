"""`iris retry`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from iris.cli.cluster.connect import Connection, connect
from iris.cli.cluster.lookup import Lookup
from iris.cli.completion import JobName
from iris.cli.exit_codes import JobCodeCommand
from iris.cli.options import JOB_NAME, address_option, json_option
from iris.cli.output.printer import Output

if TYPE_CHECKING:
    from iris.client import Job

_HELP = """\
Submit a job again under a new name, show the lines of the new job, and exit with its exit code, as 'iris run' does. The
new job has the same command or function, workspace, environment, resources and policies. The earlier job and its logs
stay.

JOB is an id, the beginning of an id, or '@' for your latest job.

\b
  iris retry train-1a2b3c4d
  iris retry @ -d                        print the id of the new job, and exit
  iris retry sweep-9c0d1e2f --failed     only the tasks that have not succeeded
  iris retry train-1a2b3c4d --edit       change the submission in an editor first

With --failed, each task of the new job sees the same IRIS_TASK_INDEX and IRIS_NUM_TASKS as in the earlier job. The task
ids of the new job count from 0. A gang needs all of its tasks, so --failed runs all tasks of a gang again; only the
tasks of a job that was run with --independent can run again alone.

With --edit, $VISUAL or $EDITOR opens the submission as a job file: the command, the resources, the names of variables,
and the limits. The changed job is submitted when you save and close the editor. Nothing is submitted without a change.
After an error, the editor opens again with the message.

The controller has stored the command or callable, the workspace and the environment of the earlier job. Therefore you
need neither its code nor its secrets to retry it. Only the owner of a job and admins may retry the job. The new job
reads no standard input.
"""


@click.command(cls=JobCodeCommand, help=_HELP, short_help="Submit a job again.")
@click.option("--failed", is_flag=True, help="Run only the tasks of the earlier job that have not succeeded.")
@click.option("--edit", is_flag=True, help="Change the submission in $VISUAL or $EDITOR before it is submitted.")
@click.option(
    "--name",
    type=JOB_NAME,
    help="The name of the new job. Default: the name of the earlier job with a new random suffix.",
)
@click.option("--detach", "-d", is_flag=True, help="Print the id of the new job, and exit without waiting for it.")
@json_option("Print JSON lines on stdout, as 'iris run --json' does. With --detach, print one JSON document.")
@address_option
@click.argument("job", type=JobName())
def retry(
    *, job: str, failed: bool, edit: bool, name: str | None, detach: bool, as_json: bool, address: str | None
) -> int:
    """See `_HELP`."""
    from iris.cli.attach import attach

    output = Output(as_json=as_json, stderr_apart=True)
    if failed and edit:
        raise click.UsageError("--failed and --edit exclude each other: --failed runs the same tasks again")
    with connect(address) as connection:
        client = connection.client
        earlier = Lookup(client).job(job)
        new = _submit(connection, earlier.job_id, name, failed=failed, edit=edit)
        if new is None:
            output.note("nothing was changed, so no job was submitted")
            return 0
        submitted = {
            "job_id": new.job_id,
            "retry_of": earlier.job_id,
            "address": client.cluster.controller_address,
        }
        if detach:
            output.answer(submitted, lambda: new.job_id)
            output.note(f"to see its lines: iris logs -f{connection.options} {shlex.quote(new.job_id)}")
            return 0
        output.event({"event": "submitted", **submitted})
        output.note(f"job {new.job_id} repeats job {earlier.job_id}")
        return attach(connection, new, new.status().num_tasks, output)


def _submit(connection: Connection, job_id: str, name: str | None, *, failed: bool, edit: bool) -> Job | None:
    if not edit:
        return connection.client.retry(job_id, name=name, failed_only=failed)
    from iris.cli.commands.submission.edit import submit_edited

    return submit_edited(connection, job_id, name)
