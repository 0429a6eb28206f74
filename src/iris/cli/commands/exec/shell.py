"""`iris shell`."""

from __future__ import annotations

import os

import click

from iris.cli.commands.exec.exec import run_in_task
from iris.cli.completion import JobName
from iris.cli.exit_codes import JobCodeCommand
from iris.cli.options import VARIABLE, address_option

_HELP = """\
Open a shell in a running task, beside the task's program.

JOB is an id, the beginning of an id, or '@' for your latest job; without /task-N it is the job's first task. 'iris
shell' starts the shell that the variable SHELL names in the task's environment, otherwise bash or sh. The shell has the
directory, the environment, the limits and the user of the task, and ends with the attempt of the task.

\b
  iris shell @                        your latest job
  iris shell train-1a2b3c4d/task-2    the third task of a job
  iris shell @ < commands.sh          without a terminal, the shell reads its commands from standard input

'iris shell' waits for a task that does not run yet. The shell continues after a lost connection. While the cluster does
not answer, Ctrl-C ends 'iris shell'. Only the job's owner and admins may open a shell. 'iris exec JOB -- COMMAND' runs
a single command.

The exit code is the exit code of the shell, or 125 if Iris itself failed or the end of the shell is unknown.
"""


@click.command(cls=JobCodeCommand, help=_HELP, short_help="Open a shell in a running task.")
@click.option(
    "--env",
    "-e",
    type=VARIABLE,
    multiple=True,
    help="An environment variable for the shell. NAME alone passes the value of this shell. May be given several"
    " times.",
)
@address_option
@click.argument("job", type=JobName(with_tasks=True), metavar="JOB[/task-N]")
def shell(*, job: str, env: tuple[tuple[str, str], ...], address: str | None) -> int:
    """See `_HELP`."""
    return run_in_task(job, (), address=address, with_input=True, tty=os.isatty(0), env=dict(env))
