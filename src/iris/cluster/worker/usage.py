"""What the processes of attempts use, through psutil: one look at the process table serves all attempts."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(slots=True)
class Usage:
    """Resource usage of one attempt: bytes, seconds of CPU, cores.

    Attributes:
        cores: Over the time between the last two samples.
        memory_peak_bytes: The most that all its processes together held at the time of a sample.
    """

    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    cpu_s: float = 0.0
    cores: float = 0.0
    processes: int = 0
    disk_bytes: int = 0
    sampled_at_s: float = 0.0


def sample(previous: Mapping[int, Usage]) -> dict[int, Usage]:
    """Measures process groups. May take some ms per hundred processes: call it from a thread.

    Args:
        previous: By process group id, what was measured before; a new `Usage()` for one that is new.

    Returns:
        The new measurements, by process group id.
    """
    now_s = time.monotonic()
    usages = {
        group: Usage(memory_peak_bytes=usage.memory_peak_bytes, disk_bytes=usage.disk_bytes, sampled_at_s=now_s)
        for group, usage in previous.items()
    }
    for process in psutil.process_iter():
        # The session keeps a child that made a process group of its own with the attempt it belongs to.
        with contextlib.suppress(psutil.Error, OSError):
            usage = usages.get(os.getsid(process.pid))
            if usage is None:
                continue
            times = process.cpu_times()
            usage.cpu_s += times.user + times.system + times.children_user + times.children_system
            usage.memory_bytes += process.memory_info().rss
            usage.processes += 1
    for group, usage in usages.items():
        before = previous[group]
        usage.memory_peak_bytes = max(usage.memory_peak_bytes, usage.memory_bytes)
        passed_s = now_s - before.sampled_at_s
        if before.sampled_at_s and passed_s > 0:
            usage.cores = max(0.0, usage.cpu_s - before.cpu_s) / passed_s
    return usages


def disk_bytes(directory: Path) -> int:
    """What the files below a directory occupy, without following links."""
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
