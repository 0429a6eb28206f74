"""Describes the parts of a worker to which the channels of tunnels lead: ports of attempts, and exec sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import ChannelReset, ChannelTarget
from iris.rpc.tunnels.connections import Streams

# Identifies a tunnel: the task id, the attempt id, and the id that the client has chosen for the tunnel.
Key = tuple[str, int, str]


class NotConnectedError(Exception):
    """An error: a channel could not be connected.

    Attributes:
        code: Why the channel could not be connected, as a code for programs.
        text: Why the channel could not be connected, as a text for people.
    """

    def __init__(self, code: ChannelReset, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True)
class OpenedTunnel:
    """A tunnel that a client has opened.

    Attributes:
        key: The task id, the attempt id and the id of the tunnel.
        attempt: The attempt to which the tunnel leads.
        request: The request that opened the tunnel.
    """

    key: Key
    attempt: Attempt
    request: cluster_pb2.Worker.OpenTunnelRequest


class Connector(Protocol):
    """Protocol of the objects that connect the channels of tunnels: one for the ports of attempts, and one for exec
    sessions.
    """

    async def connect(self, tunnel: OpenedTunnel, target: ChannelTarget) -> Streams:
        """Connect a channel to its target.

        Raises:
            NotConnectedError: The target cannot be reached.
        """

    def tunnel_closed(self, tunnel: OpenedTunnel) -> None:
        """Release the resources of a tunnel that was closed, or whose client has not come back."""
