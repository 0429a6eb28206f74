"""What a job of Slurm's says of the gang that it is for. Pure."""

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
    """Whether Slurm has done with a job, and its room is free."""
    return state not in _PENDING | _REQUEUED | _RUNNING | {_ENDING}


def is_waiting(state: str) -> bool:
    """Whether a job holds no room."""
    return state in _PENDING | _REQUEUED


def waiting(reason: str) -> GangStatus:
    """A gang that waits, for a reason in Slurm's word."""
    return GangStatus(GangState.WAITING, reason=in_words(reason))


def worker_id(cluster: str, gang_id: str, rank: int) -> str:
    """The worker of a slot. Derived, not kept: it is the same for whoever knows the gang."""
    return f"slurm-{hashlib.sha256(f'{cluster} {gang_id}'.encode()).hexdigest()[:16]}-{rank}"


def status_of(
    row: Row, before: GangStatus | None, worker_of: Callable[[int], str], nodes: Iterable[NodeInfo]
) -> GangStatus | None:
    """What a job's row means.

    Args:
        row: The job.
        before: What was known of the gang.
        worker_of: The worker of a slot.
        nodes: The machines, as they are now.

    Returns:
        None where nothing is known, nor has to be. WAITING for a job that has ended: it never began.
    """
    comment = Comment.read(row.comment) or Comment()
    slots = () if before is None else before.slots
    if comment.counts and not slots:
        slots = tuple(Slot(worker_of(rank), name) for rank, name in enumerate(comment.machines(row.nodes)))
    lost = comment.lost.intersection(range(len(slots))) | (frozenset() if before is None else before.lost)
    if is_waiting(row.state) and slots:
        # It ran: it was requeued, or slurmctld was killed, has forgotten that, and what ran goes on.
        return GangStatus(GangState.BROKEN, slots, lost, f"Slurm wants to start its job {row.job_id} again")
    if is_waiting(row.state):
        return waiting(row.reason)
    if row.state in _RUNNING and not slots:
        return GangStatus(GangState.WAITING, reason="there is room, and its workers are being started")
    if row.state in _RUNNING and not lost:
        return GangStatus(GangState.HELD, slots)
    if row.state in _RUNNING:
        why = f"its worker process ended, and said last: {comment.why}"
        return GangStatus(GangState.BROKEN, slots, lost, why)
    why = f"Slurm has ended its job {row.job_id}: {_in_words(row, comment)}"
    if not slots:
        return None if before is None else GangStatus(GangState.WAITING, reason=why)
    if row.state != _ENDING:
        lost |= _certainly_dead(slots, row.state, before, nodes)
    return GangStatus(GangState.BROKEN, slots, lost, why)


def _certainly_dead(
    slots: Sequence[Slot], state: str, before: GangStatus | None, nodes: Iterable[NodeInfo]
) -> frozenset[int]:
    """Of a job that has ended: each machine has told Slurm that nothing of the job is left there, except those that do
    not answer, which may be cut off, and go on. Of a job that lost a machine, the one that it lost may answer again by
    now: where nobody looked meanwhile, or where all of its machines do, nothing is certain."""
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
