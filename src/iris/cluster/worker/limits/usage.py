"""Computes what attempts use, from samples of their processes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.worker.limits.process_table import Process

# The number of cores below which a task counts as idle. Threads that wake up regularly, such as heartbeats and monitors
# of a framework, use about a hundredth of a core.
IDLE_CORES = 0.02


@dataclass(slots=True)
class Usage:
    """The resource usage of one attempt.

    Attributes:
        memory_bytes: The sum of the resident memory of all processes. Shared memory counts once for each process. 0
            after the end of the attempt.
        memory_peak_bytes: The largest value of `memory_bytes` in any sample. After the end of the attempt: at least the
            peak that the system reports for one process.
        cpu_s: The CPU seconds that the processes have used.
        cores: The CPU cores in use between the last two samples; after the end of the attempt, the average over its
            whole run.
        processes: The number of processes of the attempt; 0 after its end.
        disk_bytes: The disk space that the files in the attempt's directory occupy.
        sampled_at_s: The time of the sample on the monotonic clock.
        gpu_percent: The use of the attempt's GPUs, 100 for one GPU in full use; None if the use is not known.
        gpu_memory_bytes: The memory in use on the attempt's GPUs.
        written: The bytes of output that the attempt has written.
        active_at_s: When the attempt last wrote output or used the CPU, on the monotonic clock; 0 before the first
            sample.
    """

    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    cpu_s: float = 0.0
    cores: float = 0.0
    processes: int = 0
    disk_bytes: int = 0
    sampled_at_s: float = 0.0
    gpu_percent: int | None = None
    gpu_memory_bytes: int = 0
    written: int = 0
    active_at_s: float = 0.0

    @property
    def idle_s(self) -> float:
        """For how many seconds the attempt had neither written output nor used the CPU at the time of the sample."""
        return max(0.0, self.sampled_at_s - self.active_at_s)


def measure(before: Usage, held: Sequence[Process], started_s: float = 0.0, written: int = 0) -> Usage:
    """Return the resource usage of an attempt from a new sample.

    Args:
        before: The previous usage; `Usage()` for a new attempt.
        held: The processes of the attempt in the new sample.
        started_s: When the attempt's process started, on the monotonic clock. The first sample covers the time since
            then.
        written: The bytes of output that the attempt has written.
    """
    now_s = time.monotonic()
    usage = Usage(
        memory_bytes=sum(process.resident_bytes for process in held),
        cpu_s=sum(process.cpu_s for process in held),
        processes=len(held),
        disk_bytes=before.disk_bytes,
        sampled_at_s=now_s,
        gpu_percent=before.gpu_percent,
        gpu_memory_bytes=before.gpu_memory_bytes,
        written=written,
        active_at_s=before.active_at_s,
    )
    usage.memory_peak_bytes = max(before.memory_peak_bytes, usage.memory_bytes)
    since_s = before.sampled_at_s or started_s
    passed_s = now_s - since_s
    if since_s and passed_s > 0:
        usage.cores = max(0.0, usage.cpu_s - before.cpu_s) / passed_s
    if not before.sampled_at_s or usage.cores >= IDLE_CORES or written != before.written:
        usage.active_at_s = now_s
    return usage


def disk_bytes(directory: Path) -> int:
    """Return the bytes that the files below a directory occupy. Links are not followed."""
    total = 0
    pending = [str(directory)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
