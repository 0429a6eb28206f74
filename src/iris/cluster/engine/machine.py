"""Measures the capacity of this machine. In a container, the capacity is limited by the container's limits."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from iris.cluster.engine.base import GpuId, Resources
from iris.cores import MILLICORES
from iris.system.machine_size import total_memory_bytes


def this_machine() -> Resources:
    """Return the cores, memory, and GPUs that this process may use, given its CPU affinity and cgroup limits."""
    return Resources(_millicores(), memory_bytes=_memory_bytes(), gpu=len(gpu_ids()))


def gpu_ids(device_files: Path = Path("/dev")) -> tuple[GpuId, ...]:
    """Return the NVIDIA GPUs that this process may use.

    If the variable `CUDA_VISIBLE_DEVICES` is not set, or contains numbers, the result contains the numbers of the GPUs.
    Containers and Slurm set ids such as `GPU-…` and `MIG-…`, and then the result contains these ids. CUDA does not
    accept numbers and ids together, and ignores all words after the first invalid word.

    Args:
        device_files: The directory with the device files of the GPUs. A machine without such files has no GPUs.
    """
    found = sorted(
        int(path.name.removeprefix("nvidia"))
        for path in device_files.glob("nvidia[0-9]*")
        if path.name.removeprefix("nvidia").isdigit()
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(found)
    wanted = [word.strip() for word in visible.split(",")]
    if found and _is_id(wanted[0]):
        return tuple(dict.fromkeys(itertools.takewhile(_is_id, wanted)))
    return tuple(number for number in found if str(number) in wanted)


def _is_id(word: str) -> bool:
    return word.startswith(("GPU-", "MIG-"))


def _millicores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    millicores = cores * MILLICORES
    for directory in _cgroup_directories():
        quota, _, period = _read(directory / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit() and int(period) > 0:
            millicores = min(millicores, int(quota) * MILLICORES // int(period))
    # The capacity is at least one core, so that a job of one core can start even if the CPU quota of the container is
    # smaller.
    return max(millicores, MILLICORES)


def _memory_bytes() -> int:
    memory = total_memory_bytes()
    for directory in _cgroup_directories():
        limit = _read(directory / "memory.max").strip()
        if limit.isdigit():
            memory = min(memory, int(limit))
    return memory


def _cgroup_directories() -> list[Path]:
    """Return the directories of this process's cgroup (version 2) and of all parents of this cgroup. The lowest limit
    among these cgroups applies.
    """
    root = Path("/sys/fs/cgroup")
    own = next((line[3:] for line in _read(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")), "/")
    directories = [root / own.lstrip("/")]
    while directories[-1] != root and root in directories[-1].parents:
        directories.append(directories[-1].parent)
    return directories


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        # A missing file means no limit. It is missing on systems other than Linux, and if cgroups have version 1 or are
        # not mounted.
        return ""
