"""Continues the gangs of an earlier controller process from the engine's first snapshot after a restart. The functions
of this module change no state. The scheduler adds the returned gangs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from iris.cluster.controller.jobs.gang import job_id_of_gang
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.scheduling.deadlines import WaitTimes, place_by_s, tree_since_s
from iris.cluster.controller.scheduling.gang_states import GangRecord, Held, ReleaseDue, Requested
from iris.cluster.controller.scheduling.queue import Allocation
from iris.cluster.controller.scheduling.waiting.reasons import LossKind
from iris.cluster.controller.submission.request import gang_of
from iris.cluster.engine.base import GangRequest, GangState, GangStatus, Resources, Slot


def adopted_gangs(
    jobs: Mapping[str, JobRecord], snapshot: Mapping[str, GangStatus], wait_times: WaitTimes, now_s: float
) -> Iterator[tuple[GangRecord, GangStatus]]:
    """Yield the gangs of unfinished jobs that the engine still has, each with its status in the snapshot.

    Args:
        jobs: The records of the unfinished jobs, by job id.
        snapshot: The engine's first snapshot after the restart.
        wait_times: The object that computes when gangs began to wait.
        now_s: The present time on the monotonic clock.
    """
    for record in jobs.values():
        for gang_id, gang in record.job.gangs.items():
            status = snapshot.get(gang_id)
            if status is None:
                continue
            request = gang_of(record.launch, gang_id, len(gang.task_indices))
            state: Held | Requested
            if gang.placed:
                # The time at which the gang got its allocation is not stored. Therefore the gang counts as older than
                # all queued gangs.
                state = Held(Allocation(request, -math.inf, _machines(status.slots), gang.task_indices))
            else:
                not_before_ms = record.job.tasks[gang.task_indices[0]].not_before_ms
                since_s = wait_times.since_s(record, gang.task_indices, not_before_ms, now_s)
                state = Requested(since_s, place_by_s(record, since_s))
            tree_s = tree_since_s(record, jobs, now_s)
            yield GangRecord(request, record.job.job_id, gang.task_indices, state, tree_since_s=tree_s), status


def unwanted_gang(gang_id: str, slots: tuple[Slot, ...]) -> GangRecord:
    """Return the record of a gang that no job needs. The scheduler releases such a gang."""
    request = GangRequest(gang_id, len(slots), Resources())
    allocation = Allocation(request, -math.inf, _machines(slots)) if slots else None
    return GangRecord(request, job_id_of_gang(gang_id), (), ReleaseDue(allocation))


def forgotten_status(record: JobRecord, gang_id: str, slots: Mapping[int, Slot]) -> GangStatus:
    """Return the status of a running gang that the engine has forgotten. The function may be used only with engines
    that start a separate worker for each slot.

    The engine may have forgotten its gangs because its head was restarted. An unreachable machine may still run
    attempts of a forgotten gang. Therefore no slot of the gang counts as certainly lost.

    Args:
        record: The gang's job.
        gang_id: The id of the gang.
        slots: The known slots of the job, by task index.
    """
    found = tuple(
        Slot(record.job.tasks[index].attempts[-1].worker_id, slots[index].machine if index in slots else "")
        for index in record.job.gangs[gang_id].task_indices
    )
    return GangStatus(GangState.BROKEN, found, frozenset(), LossKind.FORGOTTEN.value)


def _machines(slots: tuple[Slot, ...]) -> tuple[str, ...]:
    return tuple(slot.machine for slot in slots)
