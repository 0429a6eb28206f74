"""Reads the number of CPU cores in messages, and decides when a task without resources counts as one core."""

from __future__ import annotations

from iris.cores import MILLICORES, cores_of
from iris.rpc import cluster_pb2


def millicores_in(amounts: cluster_pb2.Controller.Amounts) -> int:
    """Return the CPU in a message about resources, in thousandths of a core. Servers of older releases send whole cores
    only.
    """
    return amounts.cpu_millicores if amounts.HasField("cpu_millicores") else amounts.cpu * MILLICORES


def cores_in(amounts: cluster_pb2.Controller.Amounts) -> int | float:
    """Return the CPU in a message about resources, in cores: an `int` for whole cores, and otherwise a `float`."""
    return cores_of(millicores_in(amounts))


def counts_a_core(request: cluster_pb2.Controller.LaunchJobRequest) -> bool:
    """Return True if each task counts as one core because the submission asks for no resources.

    A task of a gang never counts as one core. Independent tasks count, because otherwise all tasks of a large job would
    start at once on one machine.
    """
    resources = request.resources
    is_given = resources.HasField("cpu") or resources.HasField("cpu_millicores") or resources.HasField("device")
    return request.independent_tasks and not is_given and not resources.memory_bytes
