"""`iris status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iris.cli.clusters import connect
from iris.cli.documents import job_document
from iris.cli.lookup import known_job
from iris.cli.options import address_option, json_option
from iris.cli.output import Output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.rpc import cluster_pb2

_HELP = """\
Show a job, and each of its tasks: state, worker, exit code, what it uses, why it waits or failed.

\b
  iris status train-1a2b3c4d
  iris status train-1a2b3c4d --json | jq '.tasks[0].ports'
"""


@click.command(help=_HELP, short_help="Show a job and its tasks.")
@json_option()
@address_option
@click.argument("job")
def status(*, job: str, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        found = known_job(connection.client, job)
    output.answer(job_document(found), lambda: _view(found))


def _view(job: cluster_pb2.JobStatus) -> RenderableType:
    from iris.cli.tables import job_view

    return job_view(job)
