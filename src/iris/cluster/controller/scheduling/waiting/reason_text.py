"""Converts the reasons in `reasons.py` to texts for statuses and errors. No code parses these texts."""

from __future__ import annotations

from iris.cluster.controller.scheduling.capacity import GangKind, Labels
from iris.cluster.controller.scheduling.waiting.reasons import (
    Cause,
    EnginePending,
    InsufficientCapacity,
    InsufficientFree,
    Loss,
    LossKind,
    MachineAmounts,
    MachineSummary,
    NoMachine,
    NoMatchingMachine,
    PendingReason,
    RequestDelayed,
    Reserved,
    Shortage,
    TooFewMachines,
    UnavailableMachines,
    WorkersMissing,
)
from iris.cluster.controller.workers.unavailability import MissingKind, MissingWorker
from iris.cluster.engine.base import Placement, Resources
from iris.cluster.lease_terms import format_span
from iris.cores import cores_of
from iris.counts import counted
from iris.reasons import PendingCode

_RESOURCE_NAMES = ("cpu", "memory", "gpu")  # The names of the resources in texts, in the order of `Resources.amounts`.
_PLACEMENT_TEXT = {
    Placement.ANY: "",
    Placement.SPREAD: ", each on a machine of its own",
    Placement.TOGETHER: ", all on one machine",
}


def pending_text(reason: PendingReason) -> str:
    """Return the status message of a gang that waits."""
    return _with_additions("waiting" if reason.cause is None else f"waiting: {cause_text(reason.cause)}", reason)


def queue_text(reason: PendingReason) -> str:
    """Return the reason why a gang waits, as a text for a list of queued gangs. The text does not mention that the gang
    waits.
    """
    if reason.cause is None:
        return _with_additions("no scheduling pass has considered the gang yet", reason)
    return _with_additions(cause_text(reason.cause), reason)


_ABOUT_ROOM = (
    PendingCode.INSUFFICIENT_FREE,
    PendingCode.INSUFFICIENT_CAPACITY,
    PendingCode.RESERVED,
    PendingCode.ENGINE_QUEUE,
)
DEFAULT_CORE = (
    "; an independent task without resources counts as 1 cpu: submit with cpu=0 (iris run --cpu 0) to reserve none"
)


def default_core_text(counts_a_core: bool, reason: PendingReason) -> str:
    """Return text to add to the reason why a gang waits. The text states that each task of the job counts as one core
    because the submission asks for no resources. The text is empty for other jobs and other reasons.
    """
    return DEFAULT_CORE if counts_a_core and reason.code in _ABOUT_ROOM else ""


def _with_additions(text: str, reason: PendingReason) -> str:
    if reason.earlier_loss is not None:
        text += f" (before: {loss_text(reason.earlier_loss)})"
    if reason.engine_problem:
        text += f"; the engine cannot be reached: {reason.engine_problem}"
    return text


def cause_text(cause: Cause) -> str:
    """Return why a gang waits, as text. The text does not mention an earlier loss or a problem with the engine."""
    match cause:
        case Reserved(job_id, kind):
            return f"enough is free, but reserved for job {job_id!r}, which has waited longer and {needs_text(kind)}"
        case EnginePending(kind, shortage, engine, engine_reason):
            fit = f"{needs_text(kind)}; enough seems to be free" if shortage is None else _shortage_text(shortage)
            return f"{fit}; {engine} says: {engine_reason}" if engine_reason else f"{fit}; {engine} states no reason"
        case WorkersMissing(missing):
            more = f" ({counted(len(missing) - 1, 'more worker')} missing)" if len(missing) > 1 else ""
            return f"{_missing_text(cause.most_telling)}{more}"
        case RequestDelayed(loss):
            return f"the next allocation is requested after a pause, because the last one was lost: {loss_text(loss)}"
        case _:
            return _shortage_text(cause)


def _shortage_text(shortage: Shortage) -> str:
    match shortage:
        case InsufficientFree(kind, machines, others):
            held = _amounts_text(others, [index for index in machines.scarce if others.amounts()[index] > 0])
            suffix = f"; users outside this cluster hold {held}" if held else ""
            return f"{needs_text(kind)}; free now: {_summary_text(machines)}{suffix}"
        case InsufficientCapacity(kind, machines, unavailable):
            return f"{needs_text(kind)}; there are only {_summary_text(machines)}{_unavailable_text(unavailable)}"
        case NoMachine(kind, unavailable):
            what = "no machine accepts new attempts" if unavailable.avoided else "there is no machine"
            return f"{needs_text(kind)}; {what}{_unavailable_text(unavailable)}"
        case NoMatchingMachine(kind):
            others_text = f"{_other_labels_text(shortage)}{_unavailable_text(shortage.unavailable)}"
            return f"needs machines with {_labels_text(kind.labels)}; there are only {others_text}"
        case TooFewMachines(kind, count, unavailable):
            what = "of them" if kind.labels else "machines" if count > 1 else "machine"
            verb = "are" if count > 1 else "is"
            return f"{needs_text(kind)}; there {verb} only {count} {what}{_unavailable_text(unavailable)}"


def loss_text(loss: Loss) -> str:
    """Return a text about the loss of an allocation, or of a request to the engine."""
    match loss.kind:
        case LossKind.FORGOTTEN:
            return LossKind.FORGOTTEN.value
        case LossKind.BROKEN:
            return f"the allocation was lost: {loss.detail}"
        case LossKind.REFUSED:
            return loss.detail
        case LossKind.UNREGISTERED:
            where = ", ".join(loss.machines)
            return f"workers on {where} did not register within {format_span(loss.limit_s)}"


def needs_text(kind: GangKind) -> str:
    """Return a text about the resources that a gang needs, for example `needs 4 x (2 cpu), each on a machine of its
    own`.
    """
    asked = [index for index, amount in enumerate(kind.need.amounts()) if amount]
    each = _amounts_text(kind.need, asked)
    if not each:
        amount = f"{kind.slots} slots" if kind.slots > 1 else "a slot"
    else:
        amount = f"{kind.slots} x ({each})" if kind.slots > 1 else each
    where = _PLACEMENT_TEXT[kind.placement] if kind.slots > 1 else ""
    labels = f", on machines with {_labels_text(kind.labels)}" if kind.labels else ""
    return f"needs {amount}{where}{labels}"


def _missing_text(worker: MissingWorker) -> str:
    match worker.kind:
        case MissingKind.STARTING:
            return f"worker {worker.worker_id} is still starting"
        case MissingKind.UNREACHABLE:
            return f"worker {worker.worker_id} does not answer"
        case MissingKind.REFUSED:
            return worker.refusal


def _summary_text(machines: MachineSummary) -> str:
    shown = [_machine_text(machine, machines.scarce, with_name=machines.count > 1) for machine in machines.shown]
    text = "; ".join(shown) or "no machine"
    if machines.sums is None:
        return text
    sums = _machine_text(machines.sums, machines.scarce, with_name=False)
    return f"{text} and {counted(machines.count - len(machines.shown), 'more machine')}; {sums} in all"


def _machine_text(machine: MachineAmounts, scarce: tuple[int, ...], *, with_name: bool) -> str:
    free, total = machine.free.amounts(), machine.total.amounts()
    amounts = ", ".join(_free_of_total(index, free[index], total[index]) for index in scarce)
    return f"{amounts} on {machine.name}" if with_name else amounts


def _unavailable_text(machines: UnavailableMachines) -> str:
    words = []
    if machines.dead:
        words.append(f"{counted(machines.dead, 'machine is', 'machines are')} not alive")
    if machines.example is not None:
        name, why = machines.example
        words.append(f"{name} accepts no new attempts: {why}")
    if machines.avoided > 1:
        words.append(f"{counted(machines.avoided - 1, 'more machine accepts', 'more machines accept')} none either")
    return f" ({'; '.join(words)})" if words else ""


def _other_labels_text(cause: NoMatchingMachine) -> str:
    if not cause.label:
        return "machines with some of these labels, none with all"
    if not cause.values:
        return f"machines without {cause.label}"
    more = f" and {cause.more_values} more" if cause.more_values else ""
    return f"machines with {', '.join(f'{cause.label}={value}' for value in cause.values)}{more}"


def _labels_text(labels: Labels) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels)


def _amounts_text(resources: Resources, indices: list[int]) -> str:
    amounts = resources.amounts()
    return ", ".join(_quantity(index, amounts[index]) for index in indices)


def _free_of_total(index: int, free: int, total: int) -> str:
    if free == total:
        return _quantity(index, total)
    return f"{_quantity(index, max(free, 0)).removesuffix(f' {_RESOURCE_NAMES[index]}')} of {_quantity(index, total)}"


def _quantity(index: int, value: int) -> str:
    name = _RESOURCE_NAMES[index]
    if name == "cpu":
        return f"{cores_of(value)} cpu"
    if name == "gpu":
        return f"{value} gpu"
    if value >= 2**30:
        return f"{value / 2**30:.1f} GiB memory"
    return f"{value / 2**20:.0f} MiB memory"
