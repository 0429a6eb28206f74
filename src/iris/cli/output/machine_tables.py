"""Tables of machines and of waiting gangs for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from iris.cli.output.columns import Columns
from iris.cli.output.tables import plain, words_of_time
from iris.cluster.amounts import cores_in, millicores_in
from iris.counts import counted
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

if TYPE_CHECKING:
    from rich.console import RenderableType

    Amounts = cluster_pb2.Controller.Amounts
    Machine = cluster_pb2.Controller.Machine

_SHOWN_HOLDERS = 3
_GIB = 2**30
_PLACES = {cluster_pb2.PLACEMENT_SPREAD: ", spread", cluster_pb2.PLACEMENT_TOGETHER: ", together"}


def machines_view(
    answer: cluster_pb2.Controller.ListMachinesResponse,
    shown: Sequence[Machine],
    waiting: Sequence[cluster_pb2.Controller.WaitingGang],
) -> RenderableType:
    """Return a summary of all machines, a table of machines, and a table of waiting gangs.

    Args:
        answer: The controller's answer, which contains the totals of the summary.
        shown: The machines to list in the table of machines.
        waiting: The gangs to list in the table of waiting gangs.
    """
    from rich.console import Group

    parts: list[RenderableType] = [plain(_summary(answer))]
    if shown:
        parts += ["", _machines_table(shown)]
    if waiting:
        parts += ["", _waiting_table(waiting)]
    return Group(*parts)


def _summary(answer: cluster_pb2.Controller.ListMachinesResponse) -> str:
    alive = [machine for machine in answer.machines if machine.alive]
    avoided = [machine for machine in answer.machines if machine.why_avoided]
    dead = len(answer.machines) - len(alive) - len(avoided)
    count = counted(len(alive), "machine")
    away = f" and {dead:,} not alive" if dead else ""
    away += f" and {len(avoided):,} with a shortage" if avoided else ""
    free = _sum(machine.free for machine in alive)
    total = _sum(machine.total for machine in alive)
    sums = [f"{_cpu(free, total)} cpu", f"{_memory(free, total)} memory"]
    if total.gpu:
        sums.append(f"{_gpu(free, total)} gpu")
    waits = f"{answer.num_waiting:,} wait" if answer.num_waiting else "nothing waits"
    return f"{answer.engine}: {count}{away}; free: {', '.join(sums)}; {waits}"


def _machines_table(machines: Sequence[Machine]) -> RenderableType:
    with_gpu = any(machine.total.gpu for machine in machines)
    with_labels = any(machine.labels for machine in machines)
    columns = ["MACHINE", "STATE", "CPU FREE", "MEMORY FREE", *["GPU FREE"] * with_gpu, *["LABELS"] * with_labels]
    table = Columns(*columns, "HELD BY", last="wrap")
    for machine in machines:
        free, total = machine.free, machine.total
        labels = " ".join(f"{key}={value}" for key, value in sorted(machine.labels.items()))
        table.add_row(
            plain(machine.name),
            plain(_state(machine), "" if machine.alive else "red"),
            _cpu(free, total),
            _memory(free, total),
            *[_gpu(free, total) if total.gpu else ""] * with_gpu,
            *[plain(labels)] * with_labels,
            plain(_holders(machine)),
        )
    return table


def _state(machine: Machine) -> str:
    if machine.why_avoided:
        # The state does not say what the machine lacks, because the table of waiting gangs shows which resource is
        # missing.
        return "full"
    return "alive" if machine.alive else "dead"


def _waiting_table(waiting: Sequence[cluster_pb2.Controller.WaitingGang]) -> RenderableType:
    table = Columns("WAITING", "NEEDS", "SINCE", "WHY")
    now = now_ms()
    for gang in waiting:
        table.add_row(
            plain(gang.job_id + " *" * gang.has_reservation),
            plain(_needs(gang)),
            words_of_time(now - gang.since_ms),
            plain(gang.reason),
        )
    return table


def _needs(gang: cluster_pb2.Controller.WaitingGang) -> str:
    need = gang.need
    memory = f"{need.memory_bytes / _GIB:.1f} GiB" if need.memory_bytes else ""
    each = [f"{cores_in(need)} cpu" if need.cpu else "", memory, f"{need.gpu} gpu" if need.gpu else ""]
    amount = " ".join(filter(None, each)) or "nothing"
    labels = "".join(f", {key}={value}" for key, value in sorted(gang.labels.items()))
    count = f"{gang.slots} x " if gang.slots > 1 else ""
    return f"{count}{amount}{_PLACES.get(gang.placement, '')}{labels}"


def _holders(machine: Machine) -> str:
    """Return the jobs on a machine, largest first, for example `train (16 tasks), sweep (task 3) and 2 more jobs`."""
    by_size = sorted(machine.holdings, key=lambda holding: (-len(holding.task_indices), holding.job_id))
    shown = []
    for holding in by_size[:_SHOWN_HOLDERS]:
        count = len(holding.task_indices)
        shown.append(f"{holding.job_id} ({f'{count} tasks' if count > 1 else f'task {holding.task_indices[0]}'})")
    more = len(by_size) - len(shown)
    return ", ".join(shown) + (f" and {counted(more, 'more job')}" if more else "")


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    millicores = memory_bytes = gpu = 0
    for one in amounts:
        millicores, memory_bytes, gpu = millicores + millicores_in(one), memory_bytes + one.memory_bytes, gpu + one.gpu
    return cluster_pb2.Controller.Amounts(cpu_millicores=millicores, memory_bytes=memory_bytes, gpu=gpu)


def _cpu(free: Amounts, total: Amounts) -> str:
    return f"{cores_in(free)} of {cores_in(total)}"


def _memory(free: Amounts, total: Amounts) -> str:
    return f"{free.memory_bytes / _GIB:.1f} of {total.memory_bytes / _GIB:.1f} GiB"


def _gpu(free: Amounts, total: Amounts) -> str:
    return f"{free.gpu} of {total.gpu}"
