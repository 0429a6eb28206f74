"""Operations about tunnels to ports of tasks."""

from __future__ import annotations

from iris.cluster.client.operations.steps import Call, ItemOperation, NextMessage, OpenStream, Operation
from iris.rpc import cluster_pb2


def tunnel_messages(
    request: cluster_pb2.Controller.OpenTunnelRequest,
) -> ItemOperation[cluster_pb2.TunnelMessage, None]:
    """Open or resume a tunnel, and yield its messages until the stream ends."""
    stream = yield OpenStream("open_tunnel", request)
    while True:
        message: cluster_pb2.TunnelMessage | None = yield NextMessage(stream)
        if message is None:
            return
        yield message


def write_tunnel(
    request: cluster_pb2.Controller.WriteTunnelRequest, timeout_s: float
) -> Operation[cluster_pb2.WriteTunnelResponse]:
    """Send parts of channels through a tunnel. All tries together take at most `timeout_s` seconds."""
    answer: cluster_pb2.WriteTunnelResponse = yield Call("write_tunnel", request, timeout_s)
    return answer
