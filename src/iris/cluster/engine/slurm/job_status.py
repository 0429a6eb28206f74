"""Derives the state of a gang from its Slurm job. The module is pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from iris.cluster.engine.base import GangState, GangStatus, Slot
from iris.cluster.engine.slurm.commands import NodeInfo, Row, in_words
from iris.cluster.engine.slurm.job_comment import Comment

_PENDING = {"PENDING", "CONFIGURING", "RESV_DEL_HOLD"}
_REQUEUED = {"REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
_ENDING = "COMPLETING"


def is_final(state: str) -> bool:
    """Return whether a Slurm job has ended and its resources are free."""
    return state not in _PENDING | _REQUEUED | _RUNNING | {_ENDING}


def is_waiting(state: str) -> bool:
    """Return whether a job waits in the queue, so that it holds no resources."""
    return state in _PENDING | _REQUEUED


def waiting(reason: str) -> GangStatus:
    """Return the status of a waiting gang. `reason` is Slurm's word for why the gang's job waits."""
    return GangStatus(GangState.WAITING, reason=in_words(reason))


def worker_id(cluster: str, gang_id: str, rank: int) -> str:
    """Return the id of a slot's worker, which is derived from the cluster's name and the gang's id."""
    return f"slurm-{hashlib.sha256(f'{cluster} {gang_id}'.encode()).hexdigest()[:16]}-{rank}"


def status_of(
    row: Row, before: GangStatus | None, worker_of: Callable[[int], str], nodes: Iterable[NodeInfo]
) -> GangStatus | None:
    """Return the status of a gang, derived from its Slurm job.

    Args:
        row: The values that `squeue` shows for the job.
        before: The gang's last known status.
        worker_of: A function that returns the worker id of a slot, given its position.
        nodes: The present states of all machines.

    Returns:
        The status of the gang. None if the gang is unknown and its job has ended without starting a worker. A WAITING
        gang whose job has ended has never started a worker.
    """
    comment = Comment.read(row.comment) or Comment()
    slots = () if before is None else before.slots
    if comment.counts and not slots:
        slots = tuple(Slot(worker_of(rank), name) for rank, name in enumerate(comment.machines(row.nodes)))
    lost = comment.lost.intersection(range(len(slots))) | (frozenset() if before is None else before.lost)
    if is_waiting(row.state) and slots:
        # The job waits although it has run before. There are two possible causes. Slurm may have requeued the job, or
        # slurmctld was killed and has forgotten that the job runs. In the second case, the job's processes may still be
        # running.
        return GangStatus(GangState.BROKEN, slots, lost, f"Slurm has queued the gang's job {row.job_id} again")
    if is_waiting(row.state):
        return waiting(row.reason)
    if row.state in _RUNNING and not slots:
        return GangStatus(GangState.WAITING, reason="Slurm has allocated the slots, and the workers are starting")
    if row.state in _RUNNING and not lost:
        return GangStatus(GangState.HELD, slots)
    if row.state in _RUNNING:
        why = f"a worker process ended with the last message: {comment.why}"
        return GangStatus(GangState.BROKEN, slots, lost, why)
    why = f"the gang's Slurm job {row.job_id} has ended: {_in_words(row, comment)}"
    if not slots:
        return None if before is None else GangStatus(GangState.WAITING, reason=why)
    if row.state != _ENDING:
        lost |= _certainly_dead(slots, row.state, before, nodes)
    return GangStatus(GangState.BROKEN, slots, lost, why)


def _certainly_dead(
    slots: Sequence[Slot], state: str, before: GangStatus | None, nodes: Iterable[NodeInfo]
) -> frozenset[int]:
    """Return the slots of an ended Slurm job whose processes have certainly ended, because their machines still answer
    Slurm.

    Slurm ends a job once every machine that answers has reported that no process of the job is left. An unreachable
    machine may still be running tasks. If the job's state is NODE_FAIL, Slurm lost a machine, which may answer again by
    now. Therefore, for a job in this state, the result is empty if every machine of the gang answers, because one of
    them may be the lost machine. The result is also empty if the gang's earlier status is unknown.
    """
    answering = {node.machine.name for node in nodes if node.answers}
    dead = frozenset(rank for rank, slot in enumerate(slots) if slot.machine in answering)
    if state == "NODE_FAIL" and (before is None or len(dead) == len(slots)):
        return frozenset()
    return dead


def _in_words(row: Row, comment: Comment) -> str:
    words = row.state.lower().replace("_", " ")
    if row.reason not in ("None", ""):
        words += f" ({row.reason})"
    return f"{words}; {comment.why}" if comment.why else words
