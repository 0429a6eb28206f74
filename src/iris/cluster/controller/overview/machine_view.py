"""Makes messages about machines, their allocations, and queued gangs from the scheduler's state."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from iris.cluster.controller.jobs.gang import Gang
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.scheduling.queue import Allocation, QueuedGang
from iris.cluster.controller.scheduling.waiting.reason_text import default_core_text, queue_text
from iris.cluster.controller.usage.series import CPU, GPU, GPU_MEMORY, MEMORY, TASKS
from iris.cluster.engine.base import Machine, Placement, Resources
from iris.cores import MILLICORES
from iris.reasons import PendingCode
from iris.rpc import cluster_pb2
from iris.rpc.pages import Page, cut_named_page
from iris.rpc.serving.steps import Steps
from iris.system.clock import now_ms

MOST_WAITING = 1000  # The largest number of queued gangs in one answer.
_GANGS_OF_A_STEP = 1000  # Comparing this number of gangs takes about 0.2 ms.
_PLACEMENTS = {
    Placement.ANY: cluster_pb2.PLACEMENT_UNSPECIFIED,
    Placement.SPREAD: cluster_pb2.PLACEMENT_SPREAD,
    Placement.TOGETHER: cluster_pb2.PLACEMENT_TOGETHER,
}
Amounts = cluster_pb2.Controller.Amounts


class Uses(Protocol):
    """An object that knows how much CPU, memory and GPUs the tasks on workers use."""

    def worker_now(self, worker_id: str) -> Sequence[int] | None:
        """Return the CPU, memory and GPUs that the tasks on a worker use together now, with one value for each column
        of `SUM_COLUMNS`. Return None if the worker has not reported.
        """


def machine_page(
    machines: Iterable[Machine],
    held: Iterable[tuple[str, Allocation]],
    workers: Mapping[str, str],
    uses: Uses,
    *,
    page_size: int,
    page_token: str,
) -> Steps[Page[cluster_pb2.Controller.Machine]]:
    """Make a page of the machines, in the order of their names, each with the jobs and tasks that have slots on it.

    Args:
        machines: The machines that the engine has reported.
        held: Each granted allocation, with the id of its job.
        workers: The machine of each worker, by worker id.
        uses: The object that knows how much CPU, memory and GPUs the tasks on workers use.
        page_size: The largest number of items in the page (see `cut_named_page`).
        page_token: The token of the previous page; empty for the first page.

    Raises:
        InvalidArgumentError: The page size or the page token is invalid.
    """
    # For each machine and job, the indices of the job's tasks on the machine.
    holders: dict[str, dict[str, set[int]]] = {}
    for job_id, entry in held:
        for position, name in enumerate(entry.machines):
            # The list of task indices may be empty, because after a restart the controller does not know which tasks of
            # an ended job were in which gang.
            indices = entry.task_indices[position : position + 1]
            holders.setdefault(name, {}).setdefault(job_id, set()).update(indices)
            if not position % 50:
                yield
    by_name = {machine.name: machine for machine in machines}
    worker_ids: dict[str, list[str]] = {}
    for worker_id, name in workers.items():
        worker_ids.setdefault(name, []).append(worker_id)

    def message(name: str) -> cluster_pb2.Controller.Machine:
        machine = by_name[name]
        ids = sorted(worker_ids.get(name, ()))
        return cluster_pb2.Controller.Machine(
            name=name,
            labels=dict(machine.labels),
            total=_amounts(machine.total),
            free=_amounts(machine.free),
            alive=machine.alive,
            why_avoided=machine.why_avoided.text,
            shortage_reason=machine.why_avoided.code,  # type: ignore[arg-type]  # Both enums have the same numbers.
            holdings=[
                cluster_pb2.Controller.Machine.Holding(job_id=job_id, task_indices=sorted(indices))
                for job_id, indices in sorted(holders.get(name, {}).items())
            ],
            used=_use(ids, uses),
            worker_ids=ids,
        )

    return (yield from cut_named_page("machines", sorted(by_name), message, page_size=page_size, page_token=page_token))


def longest_waiting(waiting: Sequence[QueuedGang], most: int) -> Steps[list[QueuedGang]]:
    """Return the gangs that have waited longest, in the order of their arrival.

    Args:
        waiting: The gangs that wait, in any order.
        most: The number of gangs to return at most.
    """
    found: list[QueuedGang] = []
    for begin in range(0, len(waiting), _GANGS_OF_A_STEP):
        some = waiting[begin : begin + _GANGS_OF_A_STEP]
        found = heapq.nsmallest(most, itertools.chain(found, some), key=lambda entry: entry.since_s)
        yield
    return found


def waiting_messages(
    waiting: Sequence[tuple[JobRecord, QueuedGang]], reserved_for: str
) -> Steps[list[cluster_pb2.Controller.WaitingGang]]:
    """Make messages about queued gangs.

    Args:
        waiting: The queued gangs with their jobs. The messages have the same order.
        reserved_for: The id of the gang with a reservation; empty if no gang has one.
    """
    began_ms = now_ms() - time.monotonic() * 1000
    messages = []
    for record, entry in waiting:
        yield
        gang = record.job.gangs.get(entry.gang.gang_id)
        if gang is not None:
            messages.append(
                cluster_pb2.Controller.WaitingGang(
                    job_id=record.job.job_id,
                    slots=entry.gang.slots,
                    need=_amounts(entry.gang.need, round_up=True),
                    placement=_PLACEMENTS[entry.gang.placement],
                    labels=dict(entry.gang.labels),
                    since_ms=round(began_ms + entry.since_s * 1000),
                    reason=""
                    if gang.reason is None
                    else queue_text(gang.reason) + default_core_text(record.job.counts_a_core, gang.reason),
                    pending_reason=_code(gang),  # type: ignore[arg-type]  # the numbers are the same
                    has_reservation=entry.gang.gang_id == reserved_for,
                )
            )
    return messages


def _use(worker_ids: Iterable[str], uses: Uses) -> cluster_pb2.Controller.MachineUse | None:
    """Return what the tasks on some workers use together; None if no worker has reported."""
    known = [now for now in map(uses.worker_now, worker_ids) if now is not None]
    if not known:
        return None
    return cluster_pb2.Controller.MachineUse(
        cpu_millicores=sum(now[CPU] for now in known),
        memory_bytes=sum(now[MEMORY] for now in known) * 2**20,
        gpu_percent=sum(now[GPU] for now in known),
        gpu_memory_bytes=sum(now[GPU_MEMORY] for now in known) * 2**20,
        num_tasks=sum(now[TASKS] for now in known),
    )


def _code(gang: Gang) -> int:
    return PendingCode.QUEUED if gang.reason is None else gang.reason.code


def _amounts(resources: Resources, *, round_up: bool = False) -> Amounts:
    # An engine may allocate more than a machine's capacity. Without `max`, the free amount would then be negative.
    millicores, memory_bytes, gpu = (max(0, amount) for amount in resources.amounts())
    cores = -(-millicores // MILLICORES) if round_up else millicores // MILLICORES
    return Amounts(cpu=cores, memory_bytes=memory_bytes, gpu=gpu, cpu_millicores=millicores)
