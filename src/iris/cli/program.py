"""The tree of commands, and what becomes of errors: one sentence on stderr and an exit code.

0      done; of `iris run` and `iris kill --wait`: the job's exit code
1      an error, told in a sentence
2      the command line cannot be meant
128+n  ended by signal n: 130 after Ctrl-C, 141 when the reader of our output has left
"""

from __future__ import annotations

import os
import sys

import click

from iris.cli.commands.down import down
from iris.cli.commands.kill import kill
from iris.cli.commands.logs import logs
from iris.cli.commands.ps import ps
from iris.cli.commands.run import run
from iris.cli.commands.status import status
from iris.cli.commands.up import up
from iris.cli.options import ADDRESS_HELP, CONTEXT
from iris.cli.output import OutputClosedError, report_error
from iris.errors import IrisError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
EXIT_OUTPUT_CLOSED = 141

_HELP = """\
Run jobs of many tasks that belong together, and see what each of them does.

\b
  iris run -- python train.py                    a job of one task, on this machine
  iris run --replicas 4 -- python train.py       four tasks, their lines live and labelled
  iris up                                        a cluster that stays, for jobs that go on without you
  iris run --detach -- python train.py           … such as this one
  iris logs -f JOB                               … and what it says

Each command has examples: iris run --help
"""


@click.group(context_settings=CONTEXT, help=_HELP)
@click.option("--address", metavar="HOST:PORT", help=ADDRESS_HELP)
@click.version_option(package_name="iris-cluster", prog_name="iris", message="%(prog)s %(version)s")
@click.pass_context
def program(context: click.Context, address: str | None) -> None:
    """See `_HELP`."""
    context.obj = address


for command in (run, ps, status, logs, kill, up, down):
    program.add_command(command)


def run_program() -> int:
    """Runs `sys.argv`, and answers with the exit code."""
    try:
        code = program.main(prog_name="iris", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (OutputClosedError, BrokenPipeError):  # ours, and click's own text: `iris --help | head -1`
        _drop_output()
        return EXIT_OUTPUT_CLOSED
    except IrisError as error:
        report_error(str(error))
        return EXIT_ERROR
    return code if isinstance(code, int) else 0


def _drop_output() -> None:
    """What Python would still flush at exit goes nowhere, instead of into a complaint about the closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # AttributeError: a stream that was closed from the start is None
            if stream is not None:
                os.dup2(nowhere, stream.fileno())
