"""The chunk with which a stream refuses the log of an attempt."""

from __future__ import annotations

import pytest

from iris.cluster.logs.streaming.refused_log import refused_log
from iris.errors import IrisError, NotFoundError, WorkerUnreachableError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotFoundError("no such log", reason=ErrorReason.LOG_NOT_FOUND), cluster_pb2.ERROR_REASON_LOG_NOT_FOUND),
        (WorkerUnreachableError("no answer"), cluster_pb2.ERROR_REASON_WORKER_UNREACHABLE),
        (OSError("broken"), cluster_pb2.ERROR_REASON_INTERNAL),
        (IrisError("odd", reason="FROM_A_LATER_RELEASE"), cluster_pb2.ERROR_REASON_UNSPECIFIED),
    ],
)
def test_error_of_a_log_that_cannot_be_read_has_a_text_and_a_reason(error: Exception, reason: int) -> None:
    chunk = refused_log(3, 1, error)
    assert (chunk.task_index, chunk.attempt_id, chunk.error, chunk.error_reason) == (3, 1, str(error), reason)
