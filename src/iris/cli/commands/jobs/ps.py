"""`iris ps`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iris.cli.cluster.connect import connect
from iris.cli.options import address_option, json_option
from iris.cli.output.documents import job_document
from iris.cli.output.printer import Output
from iris.cluster.types import FINAL_STATES, STATE_NAMES, is_job_finished

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.rpc import cluster_pb2

_SHOWN_FINISHED = 10
_SHOWN = 50
_UNFINISHED = [name for number, name in STATE_NAMES.items() if number and number not in FINAL_STATES]
_ENDED = [STATE_NAMES[number] for number in sorted(FINAL_STATES)]
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
    everything = show_all or as_json
    most = limit or (None if everything else _SHOWN)
    with connect(address) as connection:
        client = connection.client
        live = client.list_jobs(states=_UNFINISHED, newest_first=True, limit=most)
        ended = client.list_jobs(states=_ENDED, newest_first=True, limit=most if everything else _SHOWN_FINISHED)
        counts = client.count_jobs()
    # A job that ends between the two calls is in both lists.
    has_ended = {job.job_id for job in ended}
    shown = [*(job for job in live if job.job_id not in has_ended), *ended][:most]
    output.answer({"jobs": [job_document(job) for job in shown]}, lambda: _table(shown))
    shown_live = sum(not is_job_finished(job.state) for job in shown)
    hidden = {"run or wait": counts[0] - shown_live, "have ended": counts[1] - (len(shown) - shown_live)}
    more = [f"{count} more {what}" for what, count in hidden.items() if count > 0]
    if more:
        output.note(f"{', '.join(more)}: iris ps --all")


def _table(jobs: list[cluster_pb2.JobStatus]) -> str | RenderableType:
    from iris.cli.output.tables import jobs_table

    return jobs_table(jobs) if jobs else "no jobs yet"
