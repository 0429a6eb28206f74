"""Encodes and decodes the stored outcome of a task: the value returned or the exception raised by the task's callable.

The store has one outcome for each task. A stored exception contains the id of its attempt, because a later attempt of
the task may have followed.
"""

from __future__ import annotations

from iris.cluster.controller.jobs.task import SUCCEEDED
from iris.rpc import cluster_pb2

_EXCEPTION = b"exception\0"  # A stored exception begins with these bytes, with which no pickle begins.


def outcome_of(report: cluster_pb2.Controller.ReportTaskStateRequest) -> bytes:
    """Return the outcome of an ended attempt; empty bytes if the attempt has no outcome."""
    if report.serialized_result:
        return report.serialized_result
    return _EXCEPTION + report.exception.SerializeToString() if report.HasField("exception") else b""


def result_in(outcome: bytes) -> bytes:
    """Return the pickled return value in an outcome; empty bytes if the outcome has no return value."""
    return b"" if outcome.startswith(_EXCEPTION) else outcome


def add_outcome(status: cluster_pb2.TaskStatus, outcome: bytes) -> None:
    """Add an outcome to the status of its task. An exception is left out if the task has succeeded, or if the exception
    belongs to an earlier attempt than the task's current attempt.
    """
    result = result_in(outcome)
    status.serialized_result = result
    if outcome and not result and status.state != SUCCEEDED:
        exception = cluster_pb2.TaskException.FromString(outcome.removeprefix(_EXCEPTION))
        if status.HasField("current_attempt_id") and exception.attempt_id == status.current_attempt_id:
            status.exception.CopyFrom(exception)
