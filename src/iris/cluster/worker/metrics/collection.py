"""Defines the metrics of a worker, and collects their present values when Prometheus asks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from iris.cluster.types import state_name
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.supervision.lease import Lease
from iris.metrics.definitions import Family, counter, gauge
from iris.metrics.process_metrics import PROCESS_METRICS, ProcessMetrics
from iris.rpc import cluster_pb2
from iris.rpc.monitoring.call_tally import CALL_METRICS, CallTally
from iris.rpc.monitoring.metrics_route import MetricsText

ATTEMPTS = gauge("iris_worker_attempts", "Attempts that this worker prepares or runs, by state.", "state")
ENDED = counter("iris_worker_attempts_ended_total", "Attempts that have ended on this worker, by final state.", "state")
CPU_USED = gauge("iris_worker_cpu_used_cores", "CPU cores that the attempts on this worker use.")
MEMORY_USED = gauge("iris_worker_memory_used_bytes", "Memory that the attempts on this worker use.")
PROCESSES = gauge("iris_worker_processes", "Processes of the attempts on this worker.")
GPUS_USED = gauge(
    "iris_worker_gpus_used", "GPUs that the attempts on this worker use. A GPU in half use counts as 0.5."
)
DISK_USED = gauge(
    "iris_worker_attempts_disk_bytes", "Disk space that the directories of the running attempts on this worker occupy."
)
DISK_SIZE = gauge("iris_worker_disk_size_bytes", "Size of the disk with the worker directory.")
DISK_FREE = gauge("iris_worker_disk_free_bytes", "Free space on the disk with the worker directory.")
LEASE_LEFT = gauge(
    "iris_worker_lease_left_seconds",
    "How long this worker may still run attempts without an answer from the controller. Infinite without a limit.",
)
LOGS_WRITTEN = counter(
    "iris_worker_log_written_bytes_total", "Bytes that attempts on this worker have written to their logs."
)
LOGS_MISSING = counter(
    "iris_worker_log_missing_bytes_total",
    "Bytes that are missing from the logs of attempts on this worker, by cause: disk (the disk did not accept them), or"
    " limit (the log was larger than its limit).",
    "cause",
)
LOGS_UPLOADED = counter(
    "iris_worker_log_uploaded_bytes_total",
    "Bytes of log records that the controller has accepted from this worker. 0 if the worker writes into the state"
    " directory of the controller.",
)
WORKER_METRICS = (
    ATTEMPTS,
    ENDED,
    CPU_USED,
    MEMORY_USED,
    PROCESSES,
    GPUS_USED,
    DISK_USED,
    DISK_SIZE,
    DISK_FREE,
    LEASE_LEFT,
    LOGS_WRITTEN,
    LOGS_MISSING,
    LOGS_UPLOADED,
    *CALL_METRICS,
    *PROCESS_METRICS,
)
_UNFINISHED = (cluster_pb2.TASK_STATE_BUILDING, cluster_pb2.TASK_STATE_RUNNING)


class WorkerMetrics:
    """The metrics of a worker.

    Args:
        registry: The object that stores the attempts of the worker.
        lease: The lease of the worker.
        directory: The worker directory, whose disk is measured.
        uploaded_bytes: A function that returns how many bytes of logs the controller has accepted.

    Attributes:
        calls: The object that counts the calls of the worker.
        process: The object that measures the worker's process.
        text: The object that makes the text of the metrics for Prometheus.
    """

    def __init__(
        self, registry: AttemptRegistry, lease: Lease, directory: Path, uploaded_bytes: Callable[[], int]
    ) -> None:
        self.calls = CallTally()
        self.process = ProcessMetrics()
        self.text = MetricsText(self.collect)
        self._registry = registry
        self._lease = lease
        self._directory = directory
        self._uploaded_bytes = uploaded_bytes

    async def collect(self) -> list[Family]:
        """Return the present values of all metrics."""
        running = [attempt for attempt in self._registry.running() if not attempt.is_final]
        total, free = _disk_bytes(self._directory)
        return [
            *self._attempts(running),
            DISK_SIZE.one(total),
            DISK_FREE.one(free),
            LEASE_LEFT.one(self._lease.left_s),
            *self._logs(running),
            *self.calls.families(),
            *self.process.families(),
        ]

    def _attempts(self, running: Sequence[Attempt]) -> list[Family]:
        states = Counter(attempt.state for attempt in running)
        used = [attempt.usage for attempt in running if attempt.process is not None]
        return [
            ATTEMPTS.labelled([((state_name(state).lower(),), states[state]) for state in _UNFINISHED]),
            ENDED.many(self._registry.tally.states),
            CPU_USED.one(sum(usage.cores for usage in used)),
            MEMORY_USED.one(sum(usage.memory_bytes for usage in used)),
            PROCESSES.one(sum(usage.processes for usage in used)),
            GPUS_USED.one(sum(usage.gpu_percent or 0 for usage in used) / 100),
            DISK_USED.one(sum(usage.disk_bytes for usage in used)),
        ]

    def _logs(self, running: Sequence[Attempt]) -> list[Family]:
        total = self._registry.tally.logs
        for attempt in running:
            total = total.plus(attempt.log)
        return [
            LOGS_WRITTEN.one(total.written),
            LOGS_MISSING.labelled([(("disk",), total.lost), (("limit",), total.dropped)]),
            LOGS_UPLOADED.one(self._uploaded_bytes()),
        ]


def _disk_bytes(directory: Path) -> tuple[int, int]:
    """Return the size of a disk and its free space in bytes; zeros if the disk does not answer."""
    try:
        while not directory.exists() and directory != directory.parent:
            # Before the first attempt, the directory of attempts does not exist, and its parent is measured.
            directory = directory.parent
        disk = os.statvfs(directory)
    except OSError:
        return 0, 0
    return disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
