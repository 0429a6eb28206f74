"""Decides which attempts and worker processes are live. The token of an attempt is valid only while the attempt is
live. The token of a worker's process is valid only while the process is live.
"""

from __future__ import annotations

from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.workers.fleet import Fleet


class ClusterLiveness:
    """Decides which attempts and worker processes of a cluster are live. The `Authority` uses this class.

    Args:
        jobs: The table of all jobs of the cluster.
        fleet: The object that knows all workers of the cluster.
    """

    def __init__(self, jobs: JobTable, fleet: Fleet) -> None:
        self._jobs = jobs
        self._fleet = fleet

    def is_attempt_live(self, job_id: str, task_index: int, attempt_id: int, submitted_at_ms: int) -> bool:
        """Return whether an attempt has not ended yet.

        Args:
            job_id: The id of the job.
            task_index: The index of the task in its job, from 0.
            attempt_id: The number of the attempt, from 0.
            submitted_at_ms: When the job was submitted, because a removed job may have had the same id; 0 means the
                present job.
        """
        record = self._jobs.by_id.get(job_id)
        if record is None or submitted_at_ms not in (0, record.job.submitted_at_ms):
            return False
        return self._jobs.is_attempt_live(job_id, task_index, attempt_id)

    def is_worker_live(self, worker_id: str, incarnation: str) -> bool:
        """Return whether the controller considers a worker's process live.

        After a restart of the controller, some workers have not registered yet. Such a worker counts as live if a live
        attempt was placed on it.

        Args:
            worker_id: The id of the worker.
            incarnation: The incarnation of the worker's process; empty for any process of the worker.
        """
        if self._fleet.is_live(worker_id, incarnation):
            return True
        if worker_id in self._fleet.workers or self._fleet.is_over(worker_id, incarnation):
            return False
        return any(
            attempt.worker_id == worker_id and incarnation in ("", attempt.worker_incarnation)
            for record in self._jobs.open_jobs()
            for attempt in record.job.live_attempts().values()
        )
