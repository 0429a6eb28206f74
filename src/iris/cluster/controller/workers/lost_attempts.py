"""Ends the attempts that were lost with their workers."""

from __future__ import annotations

from collections.abc import Callable

from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.jobs.task import TaskAttempt
from iris.cluster.controller.storage.saver import Saver
from iris.reasons import FailureCode
from iris.system.clock import now_ms


class LostAttempts:
    """Ends attempts that were lost with their workers, in all jobs.

    Args:
        jobs: The table of all jobs of the cluster.
        saver: The object that saves the changed jobs.
    """

    def __init__(self, jobs: JobTable, saver: Saver) -> None:
        self._jobs = jobs
        self._saver = saver

    def end(self, is_lost: Callable[[TaskAttempt], bool], why: str, failure: FailureCode) -> list[TaskAttempt]:
        """End all live attempts for which `is_lost` returns True. Return the ended attempts.

        Args:
            is_lost: A function that returns whether an attempt was lost.
            why: Why the worker counts as lost. The error of each attempt contains this text.
            failure: The reason in `why`, as a code for programs.
        """
        ended: list[TaskAttempt] = []
        for record in self._jobs.open_jobs():
            lost = {index: attempt for index, attempt in record.job.live_attempts().items() if is_lost(attempt)}
            if not lost:
                continue
            names = ", ".join(sorted({attempt.worker_id for attempt in lost.values()}))
            ids = {index: attempt.attempt_id for index, attempt in lost.items()}
            instructions = record.job.attempts_lost(ids, f"worker {names} was lost: {why}", now_ms(), failure)
            self._saver.job_changed(record, instructions)
            ended += lost.values()
        return ended
