"""Submits a job whose name may be taken. `IrisClient.run` documents `if_exists`."""

from __future__ import annotations

from typing import Literal

from iris.arguments import check_choice
from iris.cluster.client.operations.jobs import forget_job, launch_job
from iris.cluster.client.operations.steps import Operation
from iris.errors import AlreadyExistsError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2

IfExists = Literal["error", "replace", "reuse"]
_CHOICES = ("error", "replace", "reuse")


def check_if_exists(if_exists: object) -> str:
    """Check the argument `if_exists`, and return it.

    Raises:
        InvalidArgumentError: `if_exists` is not `"error"`, `"reuse"` or `"replace"`.
    """
    return check_choice("if_exists", if_exists, _CHOICES)


def launch_or_take(request: cluster_pb2.Controller.LaunchJobRequest, if_exists: str) -> Operation[str]:
    """Submit a job and return its id. If another job has the name, the value of `if_exists` decides what happens: this
    function raises an error, returns the id of the existing job, or replaces the existing job."""
    workspace = request.bundle_blob
    try:
        return (yield from launch_job(request))
    except AlreadyExistsError as error:
        if if_exists == "error" or error.reason != ErrorReason.JOB_EXISTS:
            raise
        taken = error.metadata["job_id"]
    if if_exists == "reuse":
        return taken
    yield from forget_job(taken)
    # The first try may have left the workspace out of the request, because the controller had stored it. Removing the
    # earlier job may have removed this workspace. Therefore the second try sends it.
    request.bundle_blob = workspace
    return (yield from launch_job(request))
