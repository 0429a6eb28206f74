"""Continues a job after a restart of the controller, or ends it if the controller uses a copied state directory. The
module is pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from iris.cluster.controller.jobs.instructions import Instruction, StartAttempt, StopAttempt
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import BUILDING, KILLED, AttemptEnd
from iris.reasons import FailureCode


def recover(job: Job, held: Mapping[str, object], now_ms: int) -> list[Instruction]:
    """Return the instructions to carry out after a restart of the controller. The earlier controller may not have
    carried out its last instructions.

    1. Attempts in gangs that the engine no longer knows are lost. All these attempts end at the same time. Therefore
       each of them is charged to the preemption budget, and none counts as stopped because its gang restarts. Attempts
       that were being stopped before are not charged.
    2. The starts and stops of surviving attempts are repeated. A worker ignores a repeated call.
    3. Gangs that waited in the queue request an allocation again.

    Args:
        job: The job, as the earlier controller has saved it.
        held: The gangs that the engine still knows, by id.
        now_ms: The present time, in milliseconds since the epoch.
    """
    for task in job.tasks:
        # Old versions of Iris stored no time at which the pause before a retry ends, so the time is 0. The present time
        # replaces such a 0.
        task.not_before_ms = task.not_before_ms or now_ms
    waiting = [gang.gang_id for gang in job.gangs.values() if not gang.placed and gang.gang_id not in held]
    live = job.live_attempts()
    lost = {index: live[index].attempt_id for index in live if job.tasks[index].gang_id not in held}
    instructions: list[Instruction] = []
    for index in sorted(live.keys() - lost.keys()):
        attempt = live[index]
        if attempt.state == BUILDING:
            instructions.append(StartAttempt(index, attempt.attempt_id, attempt.worker_id))
        if job.tasks[index].stop is not None:
            instructions.append(StopAttempt(index, attempt.attempt_id, attempt.worker_id))
    instructions += job.attempts_lost(lost, "the worker was lost while the controller was away", now_ms)
    for gang_id in waiting:
        instructions += job.allocation_lost(gang_id)
    return instructions


def disown(job: Job, error: str, now_ms: int) -> None:
    """End a job and its live attempts as KILLED at once, without stopping any process.

    `state_copies.disown_jobs` calls this function for jobs in a copied state directory. The processes of such jobs
    belong to the original cluster.
    """
    job.terminate(error, now_ms, FailureCode.DISOWNED)
    end = AttemptEnd(KILLED, now_ms, error=error, failure=FailureCode.DISOWNED)
    for index, attempt in job.live_attempts().items():
        job.attempt_ended(index, attempt.attempt_id, end, now_ms)
