"""Tells the reader of a stream why a server cannot send the log of an attempt."""

from __future__ import annotations

from iris.errors import IrisError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import StreamTaskLogsResponse

_PREFIX = "ERROR_REASON_"
_KNOWN_REASONS = frozenset(cluster_pb2.ErrorReason.keys())


def refused_log(task_index: int, attempt_id: int, error: Exception) -> StreamTaskLogsResponse.Chunk:
    """Return the chunk with which a stream refuses the log of an attempt: the text and the reason of the error."""
    return StreamTaskLogsResponse.Chunk(
        task_index=task_index,
        attempt_id=attempt_id,
        error=str(error),
        error_reason=reason_on_wire(error),
    )


def reason_on_wire(error: Exception) -> str | None:
    """Return the name of an error's reason in protobuf messages. An error that is not an `IrisError` has the reason
    `INTERNAL`.

    Return None for a reason that this release does not know, because such a reason cannot be encoded. The server that
    has sent it may run a later release.
    """
    name = _PREFIX + (error.reason if isinstance(error, IrisError) else ErrorReason.INTERNAL)
    return name if name in _KNOWN_REASONS else None
