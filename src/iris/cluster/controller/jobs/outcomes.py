"""The stored outcome of a task: the value that its callable returned, or the exception that it raised.

The store has one outcome for each task. A stored exception may come from an attempt that was followed by a retry, so
the exception contains the id of its attempt.
"""

from __future__ import annotations

from iris.cluster.controller.jobs.task import SUCCEEDED
from iris.rpc import cluster_pb2

_EXCEPTION = b"exception\0"  # A stored exception begins with these bytes, and no pickle begins with them.


def outcome_of(report: cluster_pb2.Controller.ReportTaskStateRequest) -> bytes:
    """Return the outcome of an attempt that has ended; empty bytes if there is none."""
    if report.serialized_result:
        return report.serialized_result
    return _EXCEPTION + report.exception.SerializeToString() if report.HasField("exception") else b""


def result_in(outcome: bytes) -> bytes:
    """Return the pickled return value of an outcome; empty bytes if there is none."""
    return b"" if outcome.startswith(_EXCEPTION) else outcome


def add_outcome(status: cluster_pb2.TaskStatus, outcome: bytes) -> None:
    """Add an outcome to the status of its task."""
    result = result_in(outcome)
    status.serialized_result = result
    if outcome and not result and status.state != SUCCEEDED:
        exception = cluster_pb2.TaskException.FromString(outcome.removeprefix(_EXCEPTION))
        if status.HasField("current_attempt_id") and exception.attempt_id == status.current_attempt_id:
            status.exception.CopyFrom(exception)
