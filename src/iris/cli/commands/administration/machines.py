"""`iris machines`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iris.cli.cluster.connect import connect
from iris.cli.options import address_option, json_option
from iris.cli.output.documents import machines_document
from iris.cli.output.printer import Output
from iris.cluster.amounts import millicores_in
from iris.counts import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.rpc import cluster_pb2

_SHOWN_MACHINES = 50
_SHOWN_WAITING = 20
_HELP = f"""\
Show the machines: the free part of each machine, its labels, and the jobs that use the rest. Then show the queued \
gangs, the oldest first, and why each gang waits. '*' marks the gang for which machines are reserved. At most \
{_SHOWN_MACHINES} machines are shown, dead machines and the machines with the most free capacity first, and at most \
{_SHOWN_WAITING} gangs. --json prints all machines, and up to 1,000 gangs.

\b
  iris machines
  iris machines --all
  iris machines --json | jq '[.machines[] | select(.alive) | .free.gpu] | add'
  iris machines --json | jq -r '.waiting[] | [.job_id, .reason] | @tsv'
"""


@click.command(help=_HELP, short_help="Show the machines, and the queued gangs.")
@click.option("--all", "-a", "show_all", is_flag=True, help="Show all machines, ordered by name.")
@json_option()
@address_option
def machines(*, show_all: bool, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        answer = connection.client.cluster.list_machines()
    shown, waiting = list(answer.machines), list(answer.waiting)
    if not show_all and len(shown) > _SHOWN_MACHINES:
        shown = sorted(shown, key=_display_order)[:_SHOWN_MACHINES]
    if not show_all:
        waiting = waiting[:_SHOWN_WAITING]
    output.answer(machines_document(answer), lambda: _view(answer, shown, waiting))
    if answer.problem:
        output.note(f"the engine cannot be reached, and this is its last known state: {answer.problem}")
    if as_json:
        return
    hidden = {"machine": len(answer.machines) - len(shown), "queued gang": len(answer.waiting) - len(waiting)}
    if any(hidden.values()):
        output.note(
            ", ".join(counted(count, f"more {what}") for what, count in hidden.items() if count)
            + ": iris machines --all"
        )
    if answer.num_waiting > len(answer.waiting):
        output.note(f"{answer.num_waiting:,} gangs are queued; the list has the first {len(answer.waiting):,}")


def _display_order(machine: cluster_pb2.Controller.Machine) -> tuple[bool, int, int, int, str]:
    free = machine.free
    return machine.alive, -free.gpu, -millicores_in(free), -free.memory_bytes, machine.name


def _view(
    answer: cluster_pb2.Controller.ListMachinesResponse,
    shown: list[cluster_pb2.Controller.Machine],
    waiting: list[cluster_pb2.Controller.WaitingGang],
) -> str | RenderableType:
    from iris.cli.output.machine_tables import machines_view

    return machines_view(answer, shown, waiting)
