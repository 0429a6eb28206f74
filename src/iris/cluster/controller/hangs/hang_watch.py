"""Watches for jobs that seem to hang, when workers report what their attempts do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from iris.cluster.controller.hangs.detection import Hang, find_hang
from iris.cluster.controller.jobs.instructions import Instruction
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import BUILDING, PENDING, RUNNING
from iris.errors import InvalidArgumentError
from iris.event_log import log_event
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

_EVERY_S = 1.0  # The seconds between two checks of a job. The many workers of a large job report more often.
_log = logging.getLogger(__name__)


def check_hang_action(launch: cluster_pb2.Controller.LaunchJobRequest, default_s: int) -> None:
    """Refuse a submission that asks to end the job when the job seems to hang, if the job would not be watched for
    hangs.

    Args:
        launch: The submission of the job.
        default_s: After how many idle seconds a job seems to hang if the job sets no time; 0 sets no time.

    Raises:
        InvalidArgumentError: Neither the submission nor the cluster sets the time after which the job seems to hang.
    """
    if launch.hang_action == cluster_pb2.HANG_ACTION_END and not _limit_s(launch, default_s):
        raise InvalidArgumentError(
            "hang_action 'end' needs watch_hang, the time after which a job seems to hang: set watch_hang"
            " ('iris run --watch-hang 10m'), or start the cluster with 'iris up --watch-hang 10m'"
        )


def _limit_s(launch: cluster_pb2.Controller.LaunchJobRequest, default_s: int) -> int:
    return launch.watch_hang_seconds if launch.HasField("watch_hang_seconds") else default_s


class HangWatch:
    """Decides which jobs seem to hang, and ends a job that seems to hang if the job's submission asks for this.

    Args:
        default_s: After how many idle seconds a job seems to hang if the job sets no time; 0 sets no time.
        clock: A function that returns the time on the monotonic clock, in seconds.
    """

    def __init__(self, default_s: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._default_s = default_s
        self._clock = clock
        self._checked: tuple[float, set[int]] = (0.0, set())

    def check(self, record: JobRecord) -> list[Instruction]:
        """Check a job after reports about its tasks. Return the instructions that end the job, if it must end."""
        launch = record.launch
        limit_s = _limit_s(launch, self._default_s)
        if not limit_s or not self._is_due(record):
            return []
        job, before = record.job, record.hang
        idle_ms = {
            task.task_index: record.facts[task.task_index].idle_ms for task in job.tasks if task.state == RUNNING
        }
        is_complete = not job.coscheduled or all(task.state not in (PENDING, BUILDING) for task in job.tasks)
        record.hang = hang = find_hang(idle_ms, limit_s * 1000, is_complete=is_complete)
        if (None if hang is None else hang.code) != (None if before is None else before.code):
            _log_change(record, hang)
            # The job gets a new revision, so that clients that watch the job get a message about the hang.
            job.update_state()
        if hang is None or job.is_finished or launch.hang_action != cluster_pb2.HANG_ACTION_END:
            return []
        return job.time_out(f"the job {hang.text(job.job_id)}", now_ms(), FailureCode.HUNG)

    def _is_due(self, record: JobRecord) -> bool:
        now_s = self._clock()
        began_s, checked = self._checked
        if now_s - began_s >= _EVERY_S:
            self._checked = now_s, {record.number}
            return True
        if record.number in checked:
            return False
        checked.add(record.number)
        return True


def _log_change(record: JobRecord, hang: Hang | None) -> None:
    log_event(
        _log,
        "job.hang",
        job_id=record.job_id,
        owner=record.job.owner,
        reason="" if hang is None else hang.code.name,
        tasks=0 if hang is None else len(hang.task_indices),
    )
