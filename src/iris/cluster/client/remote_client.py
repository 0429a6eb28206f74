"""Provides the low-level client of a running cluster. The client's methods accept and return protobuf messages."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from iris.arguments import check_seconds
from iris.cluster.client.verbs.connection import ClusterConnection
from iris.cluster.client.verbs.endpoints import EndpointVerbs
from iris.cluster.client.verbs.files import FileVerbs
from iris.cluster.client.verbs.logs import LogVerbs
from iris.cluster.client.verbs.machines import MachineVerbs
from iris.cluster.client.verbs.results import ResultVerbs
from iris.cluster.client.verbs.stacks import StackVerbs
from iris.cluster.client.verbs.tokens import TokenVerbs
from iris.cluster.client.verbs.watching import WatchVerbs
from iris.rpc.calls import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    import httpx


class RemoteClusterClient(
    LogVerbs, ResultVerbs, WatchVerbs, MachineVerbs, EndpointVerbs, TokenVerbs, FileVerbs, StackVerbs
):
    """A client of a running cluster. Several threads may use it, and so may child processes after `os.fork()`. Each
    base class contains the calls for one subject, such as jobs or logs.

    Args:
        controller_address: `host:port`, `http://…` or `https://…`.
        token, ca: `IrisClient.remote` documents these arguments.
        cert: See `IrisClient.remote`. A cluster that the same user has started on this machine needs no certificate.
        http2, transport: `IrisClient.remote` documents these arguments.
        timeout_s: The timeout of each call in seconds, including repeated tries. None and `math.inf` set no limit,
            except that each single try ends after a day.

    Attributes:
        controller_address: The base URL of the controller.

    Raises:
        InvalidAddressError: (a `ValueError`) The address has none of the accepted forms.
        InvalidArgumentError: (a `ValueError`) Another argument is invalid.
        FailedPreconditionError: A file in `ca` or `cert`, or a proxy that the environment names, is not usable.
        MissingExtraError: The extra [http2] or [socks] is needed and not installed.
    """

    def __init__(
        self,
        controller_address: str,
        *,
        token: str | Callable[[], str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | tuple[str, str] | None = None,
        http2: bool | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> None:
        connection = ClusterConnection(controller_address, token, ca, cert, http2, transport, timeout_s)
        super().__init__(connection)
        self.controller_address = connection.address

    def pause(self, seconds: float) -> None:
        """Sleep, unless this client is closed.

        Raises:
            ClientClosedError: This client was closed before or during the sleep.
        """
        self.connection.lifetime.pause(check_seconds("seconds", seconds))

    def close(self) -> None:
        """Close the connections. The cluster keeps running.

        Calls, waits and log streams in other threads end with a `ClientClosedError` within a second. Later calls raise
        the same error. Clients in child processes after a fork stay open.
        """
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
