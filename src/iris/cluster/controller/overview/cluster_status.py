"""Describes the controller itself: its release, its jobs, and the disk with its state."""

from __future__ import annotations

from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.headroom import Headroom
from iris.errors import ResourceExhaustedError
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms
from iris.versions import VERSION

ClusterStatusMessage = cluster_pb2.Controller.ClusterStatus

_DISK_STEP = 16 * 2**20
_DATABASE_STEP = 2**20


class ClusterStatus:
    """Makes messages about the state of the controller.

    Args:
        engine_name: The name of the engine: local, ray or slurm.
        jobs: The table of all jobs of the cluster.
        store: The database of the controller.
        headroom: The object that measures the disk with the state directory.
        lease_s: The length of each worker's lease, in seconds.
    """

    def __init__(self, engine_name: str, jobs: JobTable, store: Store, headroom: Headroom, lease_s: float) -> None:
        self._engine_name = engine_name
        self._jobs = jobs
        self._store = store
        self._headroom = headroom
        self._lease_s = lease_s
        self._started_at_ms = now_ms()

    def message(self) -> ClusterStatusMessage:
        """Return the state of the controller now. The sizes are rounded, so that small changes do not cause a new
        message.
        """
        unfinished, ended = self._jobs.count()
        total = free = database = 0
        shortage = ""
        try:
            total, free = self._headroom.disk_bytes()
            database = self._store.bytes_on_disk()
            self._headroom.check_job(0)
        except ResourceExhaustedError as error:
            shortage = str(error)
        except OSError as error:
            shortage = f"the state directory of the controller cannot be read: {error.strerror}"
        return ClusterStatusMessage(
            engine=self._engine_name,
            version=VERSION,
            started_at_ms=self._started_at_ms,
            lease_s=self._lease_s,
            num_unfinished_jobs=unfinished,
            num_ended_jobs=ended,
            disk_total_bytes=total,
            disk_free_bytes=free // _DISK_STEP * _DISK_STEP,
            database_bytes=-(-database // _DATABASE_STEP) * _DATABASE_STEP,
            shortage=shortage,
        )
