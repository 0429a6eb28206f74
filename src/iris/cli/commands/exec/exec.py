"""`iris exec`."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup
from iris.cli.completion import JobName
from iris.cli.exit_codes import JobCodeCommand
from iris.cli.options import VARIABLE, address_option
from iris.cli.output.printer import Output
from iris.cluster.types import is_job_finished, make_task_id, state_name
from iris.errors import FailedPreconditionError

if TYPE_CHECKING:
    from iris.rpc import cluster_pb2

_MOST_DIGITS = 10  # The largest number of digits of a task index.

_HELP = """\
Run a command in a running task, beside the task's program, and exit with the command's exit code.

JOB is an id, the beginning of an id, or '@' for your latest job; without /task-N it is the job's first task. The
command has the directory, the environment, the limits and the user of the task, and ends with the task's attempt.

\b
  iris exec @ -- nvidia-smi                         what the task's GPUs do
  iris exec train-1a2b3c4d/task-2 -- ls -l out      in the second task's directory
  iris exec -it @ -- python                         an interactive program
  tar c data | iris exec -i @ -- tar x              standard input
  iris exec @ -- sh -c 'ps aux | grep python'       a command line of the shell

'iris exec' waits for a task that does not run yet. A lost connection delays the output of COMMAND, but loses none of
it. Ctrl-C goes to COMMAND. Only the job's owner and admins may run commands. 'iris shell JOB' opens a shell.

The exit code is the exit code of the command, or 128+n if signal n ended the command. It is 127 if the command was not
found, 126 if it is not executable, and 125 if Iris itself failed or the end of the command is unknown.
"""


class _ExecCommand(JobCodeCommand):
    """The command `iris exec`. Its options may stand before and after the job, and end at the first word of the command
    that runs in the task.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of the command line, as `click.Command` does."""
        if not ctx.resilient_parsing:
            rest = self._words_of(ctx, args)[1:]
            if rest and rest[0].startswith("-"):
                before, job = args[: len(args) - len(rest) - 1], args[-len(rest) - 1]
                command = self._words_of(ctx, rest)
                options = [word for word in rest[: len(rest) - len(command)] if word != "--"]
                args = [*before, *options, job, *command]
        return super().parse_args(ctx, args)

    def _words_of(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Skip the options with which a command line begins, and return the remaining words."""
        given = self.make_parser(ctx).parse_args(list(args))[0]
        job, command = given.get("job"), given.get("command")
        if not isinstance(job, str):
            return []
        return [job, *command] if isinstance(command, tuple) else [job]


@click.command(
    cls=_ExecCommand,
    help=_HELP,
    short_help="Run a command in a running task.",
    # The options of iris end at the first word of the command, so that the command may have options.
    context_settings={"allow_interspersed_args": False},
)
@click.option("--stdin", "-i", "with_input", is_flag=True, help="Send standard input to the command.")
@click.option(
    "--tty",
    "-t",
    is_flag=True,
    help="Run the command in a terminal of its own. With -i, this option has no effect if standard input is not a"
    " terminal.",
)
@click.option(
    "--env",
    "-e",
    type=VARIABLE,
    multiple=True,
    help="An environment variable for the command. NAME alone passes the value of this shell. May be given several"
    " times.",
)
@address_option
@click.argument("job", type=JobName(with_tasks=True), metavar="JOB[/task-N]")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGS]...")
def exec(
    *,
    job: str,
    command: tuple[str, ...],
    with_input: bool,
    tty: bool,
    env: tuple[tuple[str, str], ...],
    address: str | None,
) -> int:
    """See `_HELP`."""
    return run_in_task(job, command, address=address, with_input=with_input, tty=tty, env=dict(env))


def run_in_task(
    job: str, words: tuple[str, ...], *, address: str | None, with_input: bool, tty: bool, env: dict[str, str]
) -> int:
    """Run a command in a task, and return the exit code.

    Args:
        job: The job or the task, as the user has given it.
        words: The words of the command that runs in the task. Without any word, a shell runs.
        address: The address of the cluster.
        with_input: Whether standard input goes to the command.
        tty: Whether the command runs in a terminal.
        env: Environment variables for the command.
    """
    if sys.platform == "win32":
        raise FailedPreconditionError("iris exec does not run on Windows: use WSL, or client.exec of the Python API")
    from iris.cli.exec.run_command import run_command
    from iris.rpc.cluster_pb2 import ExecCommand

    output = Output()
    if tty and with_input and not os.isatty(0):
        # Standard input comes from a pipe or a file. Without a terminal, the command notices the end of this input. A
        # terminal would hide the end from programs that read single keys.
        output.note("standard input is not a terminal, therefore the command runs without one, as if -t were missing")
        tty = False
    if not with_input and _is_pipe(0):
        output.note("the command does not get standard input, which is a pipe: add -i to send it")
    with connect(address) as connection:
        target = Lookup(connection.client, with_tasks=False).one(job)
        if is_job_finished(target.job.state):
            raise FailedPreconditionError(
                f"job {target.job.job_id!r} has ended ({state_name(target.job.state)}): commands run only in running"
                " tasks"
            )
        if tty:
            env = {"TERM": os.environ.get("TERM") or "xterm"} | env
        message = ExecCommand(command=words, terminal=tty, input=with_input, env_vars=env)
        task = target.job.job_id, target.task_index or 0
        if target.task_index is None and target.job.num_tasks > 1:
            output.note(f"runs in {make_task_id(*task)}, the first of {target.job.num_tasks} tasks")
        advice = _advice(words[0], target.job) if words and target.task_index is None else ""
        return run_command(connection.client.cluster.connection, task, message, output, advice=advice)


def _advice(word: str, job: cluster_pb2.JobStatus) -> str:
    """Return advice if the first word of the command is the number of one of the job's tasks, because the user may have
    meant this task. Otherwise return an empty string.
    """
    is_number = word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS
    return f" (did you mean {make_task_id(job.job_id, int(word))}?)" if is_number and int(word) < job.num_tasks else ""


def _is_pipe(descriptor: int) -> bool:
    """Return whether a descriptor is open and is a pipe."""
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False
