"""Builds the request with which a client opens a stream of logs, and opens it again after a lost connection. The stream
continues with the first byte of each attempt that has not arrived yet.
"""

from __future__ import annotations

from collections.abc import Sequence

from iris.client.logs.read_state import ReadState
from iris.cluster.logs.cursor import to_message
from iris.cluster.logs.follow_events import Read, Worker
from iris.rpc import cluster_pb2

# A server from which a log is read. The first item is the worker, or None for the controller. The second item says
# whether the client, and not the server, skips the log lines that are older than `start_ms`.
Server = tuple[Worker | None, bool]


def resume_request(state: ReadState, server: Server, reads: Sequence[Read]) -> cluster_pb2.StreamTaskLogsRequest:
    """Return the request for the stream that reads several attempts from one server.

    Args:
        state: The state of the log reader, which knows up to which byte each log has arrived.
        server: The server that serves the stream.
        reads: The attempts to read.
    """
    positions = [
        to_message(read.task_index, state.reader(read.task_index, read.attempt.attempt_id).received) for read in reads
    ]
    return state.request(positions, follow=True, without_start_time=server[1])
