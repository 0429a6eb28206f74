"""`iris attach`."""

from __future__ import annotations

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import LATEST, Lookup
from iris.cli.completion import JobName
from iris.cli.exit_codes import JobCodeCommand
from iris.cli.options import COUNT, address_option, json_option
from iris.cli.output.printer import Output

_HELP = """\
Show the lines of a job until it ends, and exit with the job's exit code, as 'iris run' does. Ctrl-C leaves the job
running.

JOB is an id, the beginning of an id, or '@' for your latest job. Default: your latest job.

\b
  iris attach                              your latest job
  iris attach train-1a2b3c4d --tail 20     the last 20 lines, then every new line

'iris logs -f' can also follow single tasks and several jobs, and filter lines. 'iris shell JOB' opens a shell in a
running task.

The exit codes are those of 'iris run'. Ctrl-C gives 130.
"""


@click.command(cls=JobCodeCommand, help=_HELP, short_help="Show the lines of a job, and exit with its exit code.")
@click.option("--tail", metavar="N", type=COUNT, help="Begin with the last N lines of all tasks. Default: all lines.")
@json_option(
    "Print JSON lines on stdout: the tasks' lines as in 'iris logs --json', and objects with an \"event\", which is"
    " notice or ended."
)
@address_option
@click.argument("job", type=JobName(), metavar="[JOB]", default=LATEST)
def attach(*, job: str, tail: int | None, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    from iris.cli.attach import attach as attach_to

    output = Output(as_json=as_json, stderr_apart=True)
    with connect(address) as connection:
        status = Lookup(connection.client).job(job)
        if status.job_id != job:
            output.note(f"job {status.job_id}")
        return attach_to(connection, connection.client.job(status.job_id), status.num_tasks, output, tail=tail)
