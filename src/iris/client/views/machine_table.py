"""Makes tables of machines and of waiting gangs from messages."""

from __future__ import annotations

from iris.client.views.job_tables import MOST_ROWS, count_of
from iris.cluster.amounts import cores_in
from iris.counts import counted
from iris.display.table import Table
from iris.durations import words_of_seconds
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

_GIB = 2**30
_COLOURS = {"alive": "#15803d", "full": "#b7791f", "dead": "#c0392b"}


def machines_tables(answer: cluster_pb2.Controller.ListMachinesResponse) -> list[Table]:
    """Return a table of the machines, and a table of the waiting gangs if there are any."""
    rows = [
        (
            machine.name,
            "full" if machine.why_avoided else "alive" if machine.alive else "dead",
            f"{cores_in(machine.free)} of {cores_in(machine.total)}",
            f"{machine.free.memory_bytes / _GIB:.1f} of {machine.total.memory_bytes / _GIB:.1f} GiB",
            f"{machine.free.gpu} of {machine.total.gpu}" if machine.total.gpu else "",
            " ".join(f"{key}={value}" for key, value in sorted(machine.labels.items())),
            ", ".join(f"{holding.job_id} ({count_of(holding.task_indices, 'task')})" for holding in machine.holdings),
        )
        for machine in answer.machines[:MOST_ROWS]
    ]
    columns = ("machine", "state", "cpu free", "memory free", "gpu free", "labels", "held by")
    title = f"{answer.engine}: {count_of(answer.machines, 'machine')}, {answer.num_waiting} waiting"
    if answer.problem:
        title += f"; the engine does not answer: {answer.problem}"
    tables = [Table(title, columns, rows, _left_out(len(answer.machines), "machine"), _COLOURS)]
    if answer.waiting:
        now = now_ms()
        waiting = [
            (gang.job_id, str(gang.slots), words_of_seconds((now - gang.since_ms) / 1000), gang.reason)
            for gang in answer.waiting[:MOST_ROWS]
        ]
        note = _left_out(answer.num_waiting, "waiting gang")
        tables.append(Table("", ("waiting", "tasks", "since", "why"), waiting, note))
    return tables


def _left_out(count: int, what: str) -> str:
    return f"… and {counted(count - MOST_ROWS, f'more {what}')}" if count > MOST_ROWS else ""
