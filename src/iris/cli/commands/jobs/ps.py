"""`iris ps`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import is_pattern, literal_beginning, matches
from iris.cli.commands.jobs.ps_watch import changes_of_jobs
from iris.cli.options import MOMENT, ChoiceList, address_option, joined_choices, json_option
from iris.cli.output.documents import job_document
from iris.cli.output.live_view import Frame, show_live
from iris.cli.output.printer import Output
from iris.cluster.types import FINAL_STATES, STATE_NAMES, is_job_finished
from iris.counts import counted
from iris.moments import write_moment

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.client import IrisClient
    from iris.cluster.client.operations.watches.list_watching import WatchedJobs
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
  iris ps --state FAILED --since 1d          jobs that were submitted since yesterday and have failed
  iris ps --state failed,killed,worker_failed
  iris ps --name 'sweep-*' --owner ann
  iris ps --watch                            show each change, until Ctrl-C
  iris ps --json | jq -r '.jobs[] | select(.state == "RUNNING") | .job_id'

With --state, --owner, --name or --since, the limit of {_SHOWN_FINISHED} ended jobs does not apply.
"""


@dataclass(frozen=True)
class _Filter:
    """The conditions for the jobs that `iris ps` shows. An empty condition is always met.

    Attributes:
        states: The names of the accepted states.
        owner: The name of the jobs' owner.
        name: A pattern for the ids of jobs, or the beginning of the ids.
        since_ms: The earliest time of submission, in milliseconds since the epoch.
    """

    states: tuple[str, ...]
    owner: str
    name: str
    since_ms: int

    @property
    def is_empty(self) -> bool:
        """Whether every job is accepted."""
        return not (self.states or self.owner or self.name or self.since_ms)

    def jobs(self, client: IrisClient, states: Sequence[str], most: int | None) -> list[cluster_pb2.JobStatus]:
        """Return the newest jobs that meet all conditions and are in one of the given states."""
        accepted = self.accepted(states)
        if not accepted:
            return []
        if not is_pattern(self.name):
            return client.list_jobs(states=accepted, newest_first=True, limit=most, **self.conditions())
        found = client.list_jobs(states=accepted, newest_first=True, **self.conditions())
        return [job for job in found if matches(job.job_id, self.name)][:most]

    def counts(self, client: IrisClient) -> tuple[int, int]:
        """Return how many unfinished and how many ended jobs meet all conditions."""
        if not is_pattern(self.name):
            return client.count_jobs(states=self.states, **self.conditions())
        return len(self.jobs(client, _UNFINISHED, None)), len(self.jobs(client, _ENDED, None))

    def accepted(self, states: Sequence[str]) -> list[str]:
        """Return the given states that the option `--state` accepts. Without the option, all states are accepted."""
        return [state for state in states if state in self.states or not self.states]

    def words(self) -> list[str]:
        """Return the conditions for jobs as options of the command line, for a command that is shown to the user."""
        words = [word for state in self.states for word in ("--state", state)]
        for option, value in (("--owner", self.owner), ("--name", self.name)):
            words += [option, value] if value else []
        return [*words, "--since", write_moment(self.since_ms)] if self.since_ms else words

    def jobs_in(self, watched: WatchedJobs | None, most: int | None) -> list[cluster_pb2.JobStatus] | None:
        """Return the jobs of a watched list that meet all conditions. Return None if the list has reached its size
        limit, because matching jobs may then be missing."""
        if watched is None:
            return []
        found = [job for job in watched.jobs if not is_pattern(self.name) or matches(job.job_id, self.name)][:most]
        return None if watched.has_more and len(found) != most else found

    def conditions(self) -> dict[str, Any]:
        """Return the conditions as arguments of the client's methods, except the states and the pattern."""
        begin = literal_beginning(self.name)
        return {"id_prefix": begin, "owner": self.owner, "since_ms": self.since_ms}


@click.command(help=_HELP, short_help="Show the jobs.")
@click.option("--all", "-a", "show_all", is_flag=True, help="Show all jobs.")
@click.option("--limit", "-n", metavar="N", type=click.IntRange(min=1), help="Show at most N jobs.")
@click.option(
    "--state",
    "states",
    type=ChoiceList(_UNFINISHED + _ENDED, case_sensitive=False),
    multiple=True,
    callback=joined_choices,
    help="Show only jobs in this state. May be given several times, and takes several states as in 'failed,killed'.",
)
@click.option("--owner", metavar="NAME", default="", help="Show only jobs of this owner.")
@click.option(
    "--name", metavar="NAME", default="", help="Show only jobs whose ids begin with this text or match this pattern."
)
@click.option(
    "--since",
    type=MOMENT,
    help="Show only jobs that were submitted later: an age such as 1h or 2d, or a time such as 2026-07-01T12:00.",
)
@click.option(
    "--watch",
    "-w",
    is_flag=True,
    help="Show each change of the jobs until Ctrl-C. With --json, print one line for each change.",
)
@json_option()
@address_option
def ps(
    *,
    show_all: bool,
    limit: int | None,
    states: tuple[str, ...],
    owner: str,
    name: str,
    since: int | None,
    watch: bool,
    as_json: bool,
    address: str | None,
) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    wanted = _Filter(states, owner, name, since or 0)
    most = limit or (None if show_all or as_json else _SHOWN)
    most_ended = None if show_all or as_json or not wanted.is_empty else _SHOWN_FINISHED
    with connect(address) as connection:
        client = connection.client
        if watch:
            show_live(_frames(client, wanted, most, most_ended), output)
            return
        shown = _listed(client, wanted, most, most_ended)
        counts = wanted.counts(client)
        options = shlex.split(connection.options)
    frame = _frame(shown, is_filtered=not wanted.is_empty)
    output.answer(frame.document, frame.view)
    shown_live = sum(not is_job_finished(job.state) for job in shown)
    live, ended = counts[0] - shown_live, counts[1] - (len(shown) - shown_live)
    more = [counted(live, "more runs or waits", "more run or wait")] if live > 0 else []
    more += [counted(ended, "more has ended", "more have ended")] if ended > 0 else []
    if more:
        output.note(f"{', '.join(more)}: {shlex.join(['iris', 'ps', '--all', *options, *wanted.words()])}")


def _listed(
    client: IrisClient, wanted: _Filter, most: int | None, most_ended: int | None
) -> list[cluster_pb2.JobStatus]:
    """Return the jobs to show: first the unfinished jobs, then the ended jobs. Both parts begin with the newest job."""
    return _joined(wanted.jobs(client, _UNFINISHED, most), wanted.jobs(client, _ENDED, most_ended or most), most)


def _frames(client: IrisClient, wanted: _Filter, most: int | None, most_ended: int | None) -> Iterator[Frame]:
    """After each change of the jobs, yield a new frame that shows the jobs."""
    states = (wanted.accepted(_UNFINISHED), wanted.accepted(_ENDED))
    for live_list, ended_list in changes_of_jobs(client, *states, wanted.conditions()):
        live, ended = wanted.jobs_in(live_list, most), wanted.jobs_in(ended_list, most_ended or most)
        # A watched list has at most 1,000 jobs. If more jobs must be shown, all of them are read after each change.
        is_known = live is not None and ended is not None
        shown = _joined(live or [], ended or [], most) if is_known else _listed(client, wanted, most, most_ended)
        yield _frame(shown, is_filtered=not wanted.is_empty)


def _joined(
    live: Sequence[cluster_pb2.JobStatus], ended: Sequence[cluster_pb2.JobStatus], most: int | None
) -> list[cluster_pb2.JobStatus]:
    # A job that ends between the reads of the two lists is in both lists. Such a job is shown only once, as ended.
    has_ended = {job.job_id for job in ended}
    return [*(job for job in live if job.job_id not in has_ended), *ended][:most]


def _frame(shown: Sequence[cluster_pb2.JobStatus], *, is_filtered: bool) -> Frame:
    return Frame({"jobs": [job_document(job) for job in shown]}, lambda: _table(shown, is_filtered))


def _table(jobs: Sequence[cluster_pb2.JobStatus], is_filtered: bool) -> str | RenderableType:
    from iris.cli.output.tables import jobs_table

    return jobs_table(jobs) if jobs else "no such jobs" if is_filtered else "no jobs yet"
