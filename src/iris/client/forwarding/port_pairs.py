"""Defines pairs of a port of a task and a local port. Also detects when the user seems to have swapped the two ports of
a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from iris.arguments import check_text, check_whole_number, refuse
from iris.cluster.names import check_port_name
from iris.rpc.cluster_pb2 import ChannelTarget

MAX_PORT = 65535


@dataclass(frozen=True)
class PortPair:
    """A port of a task, and the local port that leads to it.

    Attributes:
        remote: The number of the task's port, or the name of a port that the job has requested.
        local: The number of the local port. 0: any free port.
    """

    remote: int | str
    local: int = 0

    def __post_init__(self) -> None:
        check_port(self.remote)
        check_whole_number("local_port", self.local, most=MAX_PORT)

    @property
    def target(self) -> ChannelTarget:
        """The port of the task, as a message of the wire protocol."""
        return ChannelTarget(name=self.remote) if isinstance(self.remote, str) else ChannelTarget(port=self.remote)

    @property
    def order_hint(self) -> str:
        """A hint for users who may have swapped the two ports of a pair. The hint is shown if the task's port does not
        answer. The hint is an empty string if both ports have the same number, or if the task's port was given by
        name.
        """
        if isinstance(self.remote, str) or self.local in (0, self.remote):
            return ""
        return (
            f"{self.remote} is the port of the task, and {self.local} the local port: swap the numbers if the task"
            f" listens on {self.local}"
        )

    @property
    def same_number_hint(self) -> str:
        """A hint for users whose local port has the same number as the task's port. If the task runs on this machine,
        the forward itself then occupies the task's port. The hint is an empty string if the numbers differ.
        """
        if self.remote != self.local:
            return ""
        return f"if the task runs on this machine, choose another local port, for example with {self.remote}:0"

    def reversal_notice(self, ports: Mapping[str, int]) -> str:
        """Return a text for people if the two ports of the pair seem to be swapped. Return an empty text otherwise.

        Args:
            ports: The ports that the job has requested, by name.
        """
        names = [name for name, number in ports.items() if number == self.local]
        if not names or not self.order_hint or self.remote in ports.values():
            return ""
        return f"the task has port {self.local} ({names[0]!r}), but {self.order_hint}"


def check_port(value: object) -> int | str:
    """Return a port of a task: a number, or the name of a requested port.

    Raises:
        InvalidArgumentError: The value is neither a valid number nor a name.
    """
    accepted = f"a number from 1 to {MAX_PORT}, or the name of a port that the job has requested"
    if isinstance(value, str):
        if value.isdecimal():
            refuse("port", accepted, value, "give a number without quotes")
        check_port_name(check_text("port", value, empty=False, accepted=accepted))
        return value
    return check_whole_number("port", value, least=1, most=MAX_PORT, accepted=accepted)
