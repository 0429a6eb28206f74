"""`iris events`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup
from iris.cli.commands.events.event_lines import EventLines
from iris.cli.completion import JobName
from iris.cli.options import EVENT_KINDS, MOMENT, POSITIVE_COUNT, address_option, json_option, refused_options
from iris.cli.output.printer import Output
from iris.errors import UnavailableError
from iris.rpc.event_documents import event_document
from iris.terminal.outlet import Outlet

if TYPE_CHECKING:
    from iris.rpc import cluster_pb2

_SHOWN = 100
_HELP = f"""\
Show what has happened in the cluster: the newest {_SHOWN} events, the oldest of them first. Events are the changes of \
the states of jobs and tasks, registered and lost workers, and more.

\b
  iris events
  iris events -f                                   show each new event, until Ctrl-C
  iris events train-1a2b3c4d                       the job and its child jobs
  iris events --kind job.failed,worker.lost --since 1d
  iris events -f --json | jq -r 'select(.kind == "task.retried") | .job_id'
  iris events --cursor 3f9c01ab-1042 --json        continue after an event, by its id

A KIND is for example job.failed, or a group such as 'worker.*'. docs/reference/events.md lists the kinds. The events
are numbered and stored, so that --cursor continues without a loss, also after a restart of the controller. An event of
the kind events.gap says that older events are missing at this point, because they were removed already.
"""


@click.command(help=_HELP, short_help="Show what has happened: jobs, tasks and workers.")
@click.option("--follow", "-f", is_flag=True, help="Keep printing new events until Ctrl-C.")
@click.option(
    "--job",
    "name",
    type=JobName(),
    metavar="JOB",
    help="Show only events of this job. The argument JOB means the same.",
)
@click.option(
    "--kind",
    "kinds",
    type=EVENT_KINDS,
    multiple=True,
    help="Show only events of these kinds, separated by commas, such as 'job.failed,worker.*'. May be given several"
    " times.",
)
@click.option(
    "--since",
    type=MOMENT,
    help="Show only events after this time: a time such as 2026-07-01T12:00, or an age such as 1h or 2d.",
)
@click.option("--cursor", metavar="ID", help="Show all events after the event with this id, which --json prints.")
@click.option("--tail", "-n", type=POSITIVE_COUNT, help=f"Show only the newest N stored events. Default: {_SHOWN}.")
@click.option("--all", "-a", "show_all", is_flag=True, help="Show all stored events.")
@json_option("Print one JSON document on one line for each event, with its id.")
@address_option
@click.argument("job", metavar="[JOB]", type=JobName(), required=False)
def events(
    *,
    job: str | None,
    follow: bool,
    name: str | None,
    kinds: tuple[tuple[str, ...], ...],
    since: int | None,
    cursor: str | None,
    tail: int | None,
    show_all: bool,
    as_json: bool,
    address: str | None,
) -> None:
    """See `_HELP`."""
    if show_all and tail:
        raise click.UsageError("--all and --tail are mutually exclusive")
    if job and name:
        raise click.UsageError(f"expected one job, got the argument {job!r} and --job {name!r}")
    job = job or name
    output = Output(as_json=as_json)
    with connect(address) as connection:
        client = connection.client
        job_id = Lookup(client, with_tasks=False).job(job).job_id if job else None
        with refused_options():
            found = client.events(
                job_id,
                kinds=[kind for given in kinds for kind in given],
                since_ms=since or 0,
                cursor=cursor,
                tail=tail or (0 if show_all or since or cursor else _SHOWN),
                follow=follow,
                on_silence=lambda error: _note_silence(output, error),
            )
            _show(found, output)


def _show(found: Iterator[cluster_pb2.Controller.Event], output: Output) -> None:
    lines = EventLines(Outlet(sys.stdout))
    is_empty = True
    for event in found:
        is_empty = False
        if output.as_json:
            output.event(event_document(event))
        else:
            lines.write(event)
    if is_empty:
        output.note("no such events")


def _note_silence(output: Output, error: UnavailableError) -> None:
    output.note(f"{error}; the events continue when the controller answers again")
