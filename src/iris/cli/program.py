"""Assembles the commands of `iris`, and turns an error into a message on stderr and an exit code.

The exit codes of `iris` are:
0      success
1      an error, which a message on stderr explains
2      an invalid command line
128+n  ended by signal n: 130 after Ctrl-C, 141 if the reader of the output has closed the pipe
`exit_codes.py` defines the other codes of the commands that exit with the code of a job.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click

from iris.cli.completion import COMPLETION_VARIABLE
from iris.cli.exit_codes import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OUTPUT_CLOSED
from iris.cli.hints.hint_texts import hint_for_command, hint_for_option
from iris.cli.lazy_group import LazyGroup, given_words
from iris.cli.options import ADDRESS, ADDRESS_HELP, CONTEXT, context_option
from iris.cli.output.printer import report_error
from iris.errors import IrisError, NotFoundError
from iris.terminal.encoding import ReplacingStream
from iris.terminal.outlet import OutputClosedError

_HELP = """\
Run jobs of many tasks that belong together, and see what each task does.

\b
  iris run -- python train.py                    run a job of one task on this machine
  iris run --replicas 4 -- python train.py       run four tasks, and show their lines with labels
  iris up                                        start a cluster that outlives this terminal
  iris run --detach -- python train.py           run a job there without waiting for it
  iris logs -f JOB                               follow the lines of the job

Each command has examples, for example 'iris run --help'.
"""
_EPILOG = """\
JOB is the id of a job, the beginning of an id, a pattern in quotes such as 'sweep-*', or '@' for your latest job.
JOB/task-2 is a task. A TIME is a number of seconds, or 90s, 10m, 1h30m, 2d. A SIZE is a number of bytes, or 512MB
(10^6), 2GiB (2^30).

Every command that prints an answer takes --json. On a terminal, tables cut long reasons to one line, but never ids. In
a pipe or a file, nothing is cut.

Commands exit with 0 after success, 1 after an error, and 2 if the command line is invalid. The commands that run a job
or wait for one exit with the code of the job: see 'iris run --help'.
"""


class _Interrupted(Exception):
    """The user has pressed Ctrl-C."""


# Help lists the commands in this order. `LazyGroup` imports the module of a command when the command is used.
_COMMANDS = {
    "run": "iris.cli.commands.submission.run",
    "retry": "iris.cli.commands.submission.retry",
    "ps": "iris.cli.commands.jobs.ps",
    "status": "iris.cli.commands.jobs.status",
    "top": "iris.cli.commands.measurements.top",
    "usage": "iris.cli.commands.measurements.usage",
    "describe": "iris.cli.commands.jobs.describe",
    "logs": "iris.cli.commands.jobs.logs",
    "events": "iris.cli.commands.events.events",
    "attach": "iris.cli.commands.jobs.attach",
    "wait": "iris.cli.commands.jobs.wait",
    "stack": "iris.cli.commands.inspect.stack",
    "profile": "iris.cli.commands.inspect.profile",
    "cp": "iris.cli.commands.jobs.cp",
    "outputs": "iris.cli.commands.jobs.outputs",
    "kill": "iris.cli.commands.jobs.kill",
    "rm": "iris.cli.commands.jobs.rm",
    "endpoints": "iris.cli.commands.ports.endpoints",
    "forward": "iris.cli.commands.ports.forward",
    "exec": "iris.cli.commands.exec.exec",
    "shell": "iris.cli.commands.exec.shell",
    "machines": "iris.cli.commands.administration.machines",
    "webhooks": "iris.cli.commands.events.webhooks",
    "web": "iris.cli.commands.administration.web",
    "up": "iris.cli.commands.administration.up",
    "down": "iris.cli.commands.administration.down",
    "login": "iris.cli.commands.contexts.login",
    "logout": "iris.cli.commands.contexts.login",
    "context": "iris.cli.commands.contexts.context",
    "token": "iris.cli.commands.administration.token",
    "completion": "iris.cli.commands.completion",
    "proto": "iris.cli.commands.proto",
    "doctor": "iris.cli.commands.administration.doctor",
    "debug": "iris.cli.commands.administration.debug",
}
_ALIASES = {"rerun": "retry", "copy": "cp", "list": "ps", "ls": "ps", "log": "logs", "stop": "kill", "cancel": "kill"}


class _Program(LazyGroup):
    """The program `iris`. If a command or option of another tool causes an error, such as `kubectl get pods`, the error
    gets a hint. `iris help run` is the same as `iris run --help`.

    After Ctrl-C, the program prints nothing. By default, click prints an empty line.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the command, as `click.Group` does."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, as `click.Group` does."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error
        except click.NoSuchOption as error:
            command = error.ctx.command.name or "" if error.ctx is not None else ""
            if hint := hint_for_option(command, error.option_name, given_words(ctx)):
                raise click.UsageError(f"no such option {error.option_name!r}: {hint}", error.ctx) from None
            raise
        except click.UsageError as error:
            raise _with_hint(ctx, error) from None
        except NotFoundError as error:
            if hint := hint_for_command(given_words(ctx)):
                raise NotFoundError(f"{error}; {hint}", reason=error.reason) from error
            raise


def _with_hint(context: click.Context, error: click.UsageError) -> click.UsageError:
    """Return an error about a command line such as `describe pod x`, with a hint if the words are of another tool."""
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option):
        # The value of an option is wrong, and not the command. Therefore the error gets no hint about another command.
        return error
    hint = hint_for_command(given_words(context))
    if not hint or hint in error.message:
        return error
    return click.UsageError(f"{error.format_message().rstrip('.')}: {hint}", error.ctx)


@click.group(
    cls=_Program,
    modules=_COMMANDS,
    aliases=_ALIASES,
    hint=hint_for_command,
    context_settings=CONTEXT,
    help=_HELP,
    epilog=_EPILOG,
)
@click.option("--address", type=ADDRESS, help=ADDRESS_HELP)
@context_option
@click.version_option(package_name="iris-cluster", prog_name="iris", message="%(prog)s %(version)s")
@click.pass_context
def program(context: click.Context, address: str | None) -> None:
    """See `_HELP`."""
    context.obj = address


def run_program() -> int:
    """Run the command in `sys.argv`, and return the exit code."""
    # Completions need no replacement of characters, because click writes them as bytes.
    if COMPLETION_VARIABLE not in os.environ:
        _replace_characters()
    code = _run()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return EXIT_OUTPUT_CLOSED
    except IrisError as error:
        _drop_output()
        if code == 0:  # If the exit code is above 0, an error was already reported.
            report_error(str(error))
            return EXIT_ERROR
    return code


def _replace_characters() -> None:
    """Make stdout and stderr replace characters that their encodings lack, because click prints help and errors to
    them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = ReplacingStream(sys.stdout)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = ReplacingStream(sys.stderr)


def _drop_output() -> None:
    """Discard the text in stdout's buffer. The text cannot be written, and Python would print an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run() -> int:
    try:
        code = program.main(prog_name="iris", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (_Interrupted, click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (OutputClosedError, BrokenPipeError):
        return EXIT_OUTPUT_CLOSED
    except SystemExit:
        # click raises SystemExit when it has printed completions, and when the reader of a pipe has ended.
        return 0 if COMPLETION_VARIABLE in os.environ else EXIT_OUTPUT_CLOSED
    except IrisError as error:
        report_error(str(error))
        return EXIT_ERROR
    return code if isinstance(code, int) else 0
