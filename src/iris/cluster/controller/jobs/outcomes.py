"""What the store keeps of the end of a task for its caller: its return value, or the exception that it raised.

There is one row for each task. An exception that is kept may be of an attempt that was followed by another, so it
says which attempt raised it.
"""

from __future__ import annotations

from iris.cluster.controller.jobs.task import SUCCEEDED
from iris.rpc import cluster_pb2

_EXCEPTION = b"exception\0"  # begins the value of an exception; a pickle begins with another byte


def outcome_of(report: cluster_pb2.Controller.ReportTaskStateRequest) -> bytes:
    """Return what to keep of an attempt that has ended; empty when there is nothing."""
    if report.serialized_result:
        return report.serialized_result
    return _EXCEPTION + report.exception.SerializeToString() if report.HasField("exception") else b""


def result_in(outcome: bytes) -> bytes:
    """Return the pickled return value that was kept; empty when there is none."""
    return b"" if outcome.startswith(_EXCEPTION) else outcome


def add_outcome(status: cluster_pb2.TaskStatus, outcome: bytes) -> None:
    """Add what was kept to the status of its task."""
    result = result_in(outcome)
    status.serialized_result = result
    if outcome and not result and status.state != SUCCEEDED:
        exception = cluster_pb2.TaskException.FromString(outcome.removeprefix(_EXCEPTION))
        if status.HasField("current_attempt_id") and exception.attempt_id == status.current_attempt_id:
            status.exception.CopyFrom(exception)
