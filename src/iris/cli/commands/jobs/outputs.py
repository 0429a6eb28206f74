"""`iris outputs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import LATEST, Lookup
from iris.cli.completion import JobName
from iris.cli.exit_codes import EXIT_ERROR
from iris.cli.options import address_option, json_option
from iris.cli.output.columns import Columns
from iris.cli.output.printer import Output

if TYPE_CHECKING:
    from iris.client.files.outputs import Outputs

_HELP = """\
Show the files that the tasks of a job have left as outputs.

JOB is an id, the beginning of an id, or '@' for your latest job. Default: your latest job. JOB/task-N shows one task.
Outputs are the files in the directories of 'iris run --output DIR'. Outputs are stored after the end of each attempt
that has succeeded or failed. They are removed with 'iris rm', or when they are as old as logs may become ('iris up
--keep-logs').

\b
  iris run --output out -- sh -c 'echo 0.5 > out/loss'
  iris outputs                              of your latest job
  iris cp @:out/loss -                      print a stored file
  iris cp sweep-9c0d1e2f: ./here            all outputs, in a folder for each task

The command exits with 1 if outputs of an attempt are missing, and says why.
"""


@click.command(help=_HELP, short_help="Show the stored outputs of a job.")
@click.option("--all-attempts", is_flag=True, help="Show all attempts, not only the newest one of each task.")
@json_option()
@address_option
@click.argument("job", type=JobName(with_tasks=True), metavar="[JOB]", default=LATEST)
def outputs(*, job: str, all_attempts: bool, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        target = Lookup(connection.client, with_tasks=False).one(job)
        found = connection.client.outputs(target.job.job_id, target.task_index, all_attempts=all_attempts)
    output.answer(_document(target.job.job_id, found), lambda: _table(found) if found else "no output files")
    for missing in found.missing:
        output.error(f"{missing.task_id}, attempt {missing.attempt_id}: the outputs are not stored: {missing.text}")
    return EXIT_ERROR if found.missing else 0


def _document(job_id: str, found: Outputs) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "outputs": [
            {
                "task_id": file.task_id,
                "attempt_id": file.attempt_id,
                "path": file.path,
                "size": file.size,
                "modified_ms": file.modified_ns // 1_000_000,
            }
            for file in found
        ],
        "missing": [
            {
                "task_id": missing.task_id,
                "attempt_id": missing.attempt_id,
                "reason": missing.reason,
                "text": missing.text,
            }
            for missing in found.missing
        ],
    }


def _table(found: Outputs) -> Columns:
    table = Columns("TASK", "ATTEMPT", "BYTES", "PATH")
    for file in found:
        table.add_row(file.task_id, str(file.attempt_id), f"{file.size:,}", file.path)
    return table
