"""Operations about tunnels to tasks."""

from __future__ import annotations

from typing import Literal

from iris.cluster.client.operations.steps import Call, ItemOperation, NextMessage, OpenStream, Operation
from iris.rpc import cluster_pb2

# A tunnel of the kind "tunnel" leads to ports of a task, and a tunnel of the kind "exec" leads to a command in a task.
# The names of the calls contain the kind, for example `open_tunnel` and `write_exec`.
TunnelKind = Literal["tunnel", "exec"]


def tunnel_messages(
    request: cluster_pb2.Controller.OpenTunnelRequest, kind: TunnelKind
) -> ItemOperation[cluster_pb2.TunnelMessage, None]:
    """Open or resume a tunnel, and yield its messages until the stream ends."""
    stream = yield OpenStream(f"open_{kind}", request)
    while True:
        message: cluster_pb2.TunnelMessage | None = yield NextMessage(stream)
        if message is None:
            return
        yield message


def write_tunnel(
    request: cluster_pb2.Controller.WriteTunnelRequest, timeout_s: float, kind: TunnelKind
) -> Operation[cluster_pb2.WriteTunnelResponse]:
    """Send data of a tunnel's channels to the controller. All tries together take at most `timeout_s` seconds."""
    answer: cluster_pb2.WriteTunnelResponse = yield Call(f"write_{kind}", request, timeout_s)
    return answer
