"""`iris ps`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iris.cli.cluster.connect import connect
from iris.cli.options import address_option, json_option
from iris.cli.output.documents import job_document
from iris.cli.output.printer import Output
from iris.cluster.types import is_job_finished

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.rpc import cluster_pb2

_SHOWN_FINISHED = 10
_SHOWN = 50
_HELP = f"""\
Show the jobs, the newest first: the jobs that run or wait, then the last {_SHOWN_FINISHED} jobs that have ended, and \
at most {_SHOWN} jobs in all. --json prints all jobs.

\b
  iris ps
  iris ps --limit 5
  iris ps --all
  iris ps --json | jq -r '.jobs[] | select(.state == "RUNNING") | .job_id'
"""


@click.command(help=_HELP, short_help="Show the jobs.")
@click.option("--all", "-a", "show_all", is_flag=True, help="Show all jobs.")
@click.option("--limit", "-n", metavar="N", type=click.IntRange(min=1), help="Show at most N jobs.")
@json_option()
@address_option
def ps(*, show_all: bool, limit: int | None, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        jobs = connection.client.list_jobs()[::-1]  # the newest first
    live = [job for job in jobs if not is_job_finished(job.state)]
    ended = [job for job in jobs if is_job_finished(job.state)]
    everything = show_all or as_json
    shown = live + (ended if everything else ended[:_SHOWN_FINISHED])
    shown = shown[: limit or (None if everything else _SHOWN)]
    output.answer({"jobs": [job_document(job) for job in shown]}, lambda: _table(shown))
    hidden_live = max(0, len(live) - len(shown))
    hidden = {"run or wait": hidden_live, "have ended": len(jobs) - len(shown) - hidden_live}
    if any(hidden.values()):
        output.note(", ".join(f"{count} more {what}" for what, count in hidden.items() if count) + ": iris ps --all")


def _table(jobs: list[cluster_pb2.JobStatus]) -> str | RenderableType:
    from iris.cli.output.tables import jobs_table

    return jobs_table(jobs) if jobs else "no jobs yet"
