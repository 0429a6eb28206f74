"""`iris kill`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iris.cli.clusters import connect
from iris.cli.documents import job_document
from iris.cli.lookup import known_job
from iris.cli.options import address_option, json_option
from iris.cli.output import Output
from iris.cluster.types import is_job_finished, state_name
from iris.errors import NotFoundError

if TYPE_CHECKING:
    from iris.rpc import cluster_pb2

_HELP = """\
Ask jobs to end, with their child jobs: their tasks get SIGTERM, and SIGKILL 10 s later. One that has ended stays
as it is.

\b
  iris kill train-1a2b3c4d
  iris kill --wait train-1a2b3c4d eval-5e6f7a8b
"""


@click.command(help=_HELP, short_help="End jobs.")
@click.option("--wait", is_flag=True, help="Return when they have ended.")
@json_option()
@address_option
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
def kill(*, jobs: tuple[str, ...], wait: bool, as_json: bool, address: str | None) -> int:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    asked: list[tuple[cluster_pb2.JobStatus, bool]] = []  # with whether it had ended before
    unknown = False
    with connect(address) as connection:
        client = connection.client
        for job_id in dict.fromkeys(jobs):
            try:
                before = known_job(client, job_id)
            except NotFoundError as error:
                output.error(str(error))  # the others are ended all the same
                unknown = True
                continue
            client.terminate(job_id)
            asked.append((before, is_job_finished(before.state)))
        now = [client.wait(job.job_id) if wait else client.status(job.job_id) for job, _ in asked]
    if asked:
        told = "\n".join(_tell(job, had_ended) for job, (_, had_ended) in zip(now, asked, strict=True))
        output.answer({"jobs": [job_document(job) for job in now]}, lambda: told)
    return 1 if unknown else 0


def _tell(job: cluster_pb2.JobStatus, had_ended: bool) -> str:
    if had_ended:
        return f"{job.job_id} had ended: {state_name(job.state)}"
    if is_job_finished(job.state):
        return f"{job.job_id} ended: {state_name(job.state)}"
    return f"{job.job_id} was asked to end"
