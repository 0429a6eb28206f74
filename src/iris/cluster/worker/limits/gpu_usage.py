"""Measures how much the NVIDIA GPUs of attempts are used, with the program `nvidia-smi`. `nvidia-smi` is a part of
NVIDIA's driver. If the program is missing or fails, the use of the GPUs is not known.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from iris.rpc import cluster_pb2

GPU_S = 5.0  # The seconds between two measurements. One run of `nvidia-smi` takes about 50 ms of one core.
_TIMEOUT_S = 10.0
_QUERY = ("--query-gpu=index,uuid,utilization.gpu,memory.used", "--format=csv,noheader,nounits")
_FIELDS = 4


class GpuUse(NamedTuple):
    """The use of one GPU: the percentage of time in which the GPU was busy, and how many MiB of its memory are in
    use.
    """

    percent: int
    memory_mb: int


def gpus_of(request: cluster_pb2.Worker.RunTaskRequest, visible_devices: str) -> list[str]:
    """Return the GPUs that belong to an attempt: their numbers or the ids that begin with `GPU-` or `MIG-`.

    Args:
        request: The controller's request to run the attempt.
        visible_devices: The variable `CUDA_VISIBLE_DEVICES` of the worker. The variable names the GPUs that the engine
            gave to the worker. The variable counts only if the job requests GPUs and the controller has chosen none for
            the attempt.
    """
    if request.gpu_ids:
        return [str(number) for number in request.gpu_ids]
    if not request.resources.device.HasField("gpu"):
        return []
    if request.visible_devices:
        # Tasks of one GPU each that share a machine may see the GPUs of all these tasks, in the order of local_rank.
        is_shared = request.resources.device.gpu.count == 1 and len(request.visible_devices) > 1
        return [request.visible_devices[request.local_rank]] if is_shared else list(request.visible_devices)
    return [word.strip() for word in visible_devices.split(",") if word.strip()]


def measure() -> dict[str, GpuUse]:
    """Return the use of each GPU of this machine, by its number and by its id. The result is empty if the use is not
    known. The call takes up to `_TIMEOUT_S` seconds.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return {}
    return parse(done.stdout)


def parse(output: str) -> dict[str, GpuUse]:
    """Return the use of each GPU from the output of `nvidia-smi`. Lines of another form are ignored. Some GPUs cannot
    measure a value, for which `nvidia-smi` prints a text instead of a number.
    """
    found: dict[str, GpuUse] = {}
    for line in output.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == _FIELDS and words[2].isdecimal() and words[3].isdecimal():
            found[words[0]] = found[words[1]] = GpuUse(int(words[2]), int(words[3]))
    return found


def total(found: Mapping[str, GpuUse], devices: Iterable[str]) -> GpuUse | None:
    """Return the use of several GPUs together; None if the use of none of them is known."""
    known = [found[device] for device in devices if device in found]
    if not known:
        return None
    return GpuUse(sum(use.percent for use in known), sum(use.memory_mb for use in known))
