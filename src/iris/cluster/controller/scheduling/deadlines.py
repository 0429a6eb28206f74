"""Computes when a gang began to wait, when its scheduling timeout expires, and when the timeout of a job expires. The
functions convert times of the wall clock to times of the monotonic clock. Therefore setting the wall clock moves no
deadline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.retry_pause import pause_left_ms
from iris.system.clock import ms_since, now_ms


class WaitTimes:
    """Computes when gangs began to wait.

    The tasks of a job that were not retried yet begin to wait at the same moment. This moment is converted to the
    monotonic clock only once for each job. The wall clock has whole milliseconds, so further conversions would differ
    by up to a millisecond. Independent tasks would then not start in the order of their indices.
    """

    def __init__(self) -> None:
        # For each job, the `not_before_ms` of tasks that were not retried, and the same moment on the monotonic clock.
        self._first_waits: dict[str, tuple[int, float]] = {}

    def forget_job(self, job_id: str) -> None:
        """Forget a job that has ended."""
        self._first_waits.pop(job_id, None)

    def since_s(self, record: JobRecord, task_indices: Sequence[int], not_before_ms: int, now_s: float) -> float:
        """Return when a gang began to wait, in seconds of the monotonic clock. The time is in the future if the gang is
        paused.

        Args:
            record: The gang's job.
            task_indices: The indices of the gang's tasks.
            not_before_ms: The end of the gang's retry pause, as wall clock time. 0 if the gang has no pause.
            now_s: The present time on the monotonic clock.
        """
        job_id = record.job.job_id
        row = max(record.job.tasks[index].retries_in_row for index in task_indices)
        is_first_wait = row == 0 and not_before_ms != 0
        known_ms, known_s = self._first_waits.get(job_id, (0, 0.0))
        if is_first_wait and known_ms == not_before_ms:
            return known_s
        wait_ms = pause_left_ms(not_before_ms, now_ms(), row, record.job.retry_pause_ms) if not_before_ms else 0
        # A gang cannot have waited longer than its job has existed. This limit corrects the wait if the wall clock was
        # set forward.
        wait_ms = max(wait_ms, -_age_ms(record))
        since_s = now_s + wait_ms / 1000
        if is_first_wait:
            self._first_waits[job_id] = (not_before_ms, since_s)
        return since_s


def tree_since_s(record: JobRecord, jobs: Mapping[str, JobRecord], now_s: float) -> float:
    """Return when the root job of a job's tree was submitted, in seconds of the monotonic clock. If the job has no
    unfinished parent, return infinity.

    Args:
        record: The record of the job.
        jobs: The unfinished jobs by id. An ancestor that is missing here has ended, and its child jobs are about to
            end.
        now_s: The present time on the monotonic clock.
    """
    if record.job.parent_job_id not in jobs:
        return math.inf
    root = record
    while root.job.parent_job_id in jobs:
        root = jobs[root.job.parent_job_id]
    return now_s - _age_ms(root) / 1000


def place_by_s(record: JobRecord, since_s: float) -> float:
    """Return when the scheduling timeout of a gang expires, in seconds of the monotonic clock. The gang has waited
    since `since_s`. If the gang has no scheduling timeout, return infinity.
    """
    limit_s = record.launch.scheduling_timeout_seconds
    return since_s + limit_s if limit_s else math.inf


def job_ends_by_s(record: JobRecord, now_s: float) -> float:
    """Return when the job timeout of a job expires, in seconds of the monotonic clock. The timeout counts from the
    job's submission. If the job has no timeout, return infinity.
    """
    left_ms = job_left_ms(record)
    return math.inf if left_ms is None else now_s + left_ms / 1000


def job_left_ms(record: JobRecord) -> int | None:
    """Return the time until the job timeout of a job expires, in milliseconds. The time is negative after the timeout.
    If the job has no timeout, return None.
    """
    limit_s = record.launch.job_timeout_seconds
    return limit_s * 1000 - _age_ms(record) if limit_s else None


def _age_ms(record: JobRecord) -> int:
    """Return the time since a job's submission, in milliseconds. The age includes the time without a controller.
    Setting the wall clock does not change the age.
    """
    return ms_since(record.job.submitted_stamp, record.job.submitted_at_ms)
