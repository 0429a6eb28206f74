"""Reads the amounts of resources in messages."""

from __future__ import annotations

from iris.cores import MILLICORES, cores_of
from iris.rpc import cluster_pb2


def millicores_in(amounts: cluster_pb2.Controller.Amounts) -> int:
    """Return the CPU of an amount in millicores. A server of an older release sends whole cores only."""
    return amounts.cpu_millicores if amounts.HasField("cpu_millicores") else amounts.cpu * MILLICORES


def cores_in(amounts: cluster_pb2.Controller.Amounts) -> int | float:
    """Return the CPU of an amount in cores: an `int` for whole cores, and otherwise a `float`."""
    return cores_of(millicores_in(amounts))
