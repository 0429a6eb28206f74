"""The worker's connection to its controller, whose address may change when the controller restarts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from iris.errors import InvalidAddressError
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.address import parse_address
from iris.rpc.auth.caller import Caller
from iris.rpc.auth.credentials import BearerInterceptor, Credentials
from iris.rpc.auth.peer_uid import PeerUidCheck
from iris.rpc.calls import call_async
from iris.rpc.http.client.async_client_transport import http_client
from iris.rpc.http.tls import ClientTls
from iris.rpc.peer import Peer

_LOOK_S = 0.1
_SHOW_S = 10.0


def connect(address: str, credentials: Credentials, tls: ClientTls) -> cluster_connect.ControllerServiceClient:
    """Return a stub of the controller that sends the worker's token and checks the controller's certificate."""
    return cluster_connect.ControllerServiceClient(
        address,
        accept_compression=(),
        send_compression=None,
        interceptors=(BearerInterceptor(credentials.token, PeerUidCheck(address)),),
        http_client=http_client(tls if address.startswith("https://") else None),
    )


class ControllerConnection:
    """Holds the stub that calls the controller at its present address.

    Args:
        address: The URL of the controller at the start of this worker.
        file: The file in which a restarted controller writes its new address; None if there is no such file.
        make_stub: A function that creates a stub for an address; see `connect`.

    Attributes:
        address: The present URL of the controller.
        stub: The object that calls the controller at this address.
        peer: The name of the controller in error texts.
    """

    def __init__(
        self,
        address: str,
        file: Path | None,
        make_stub: Callable[[str], cluster_connect.ControllerServiceClient],
    ) -> None:
        self._file = file
        self._make_stub = make_stub
        self._seen: tuple[int, int] | None = None
        self._point_to(address)

    async def show(self, known: Caller, token: str) -> None:
        """Send a task's token to the controller for a check, because the controller knows whether the token's attempt
        still runs.

        Raises:
            UnauthenticatedError: The attempt has ended.
            IrisError: The call to the controller has failed.
        """
        request = cluster_pb2.Controller.GetTaskStatusRequest(job_id=known.job_id, task_index=known.task_index)
        as_the_task = partial(self.stub.get_task_status, headers={"authorization": f"Bearer {token}"})
        await call_async(as_the_task, request, self.peer, timeout_s=_SHOW_S)

    async def pause(self, seconds: float) -> None:
        """Wait after a failed call. The wait ends early when the controller has restarted on this machine."""
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0:
            await asyncio.sleep(left_s if self._file is None else min(left_s, _LOOK_S))
            if self._look():
                return

    def _look(self) -> bool:
        """Use the controller's new address if the controller has restarted. Return whether it has restarted."""
        stamp = self._stamp()
        if self._file is None or stamp in (None, self._seen):
            return False
        with contextlib.suppress(OSError, InvalidAddressError):
            address = parse_address(self._file.read_text().strip())
            if address != self.address:
                self._point_to(address)
            self._seen = stamp
        return True

    def _stamp(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _point_to(self, address: str) -> None:
        self.address = address
        self.stub = self._make_stub(address)
        self.peer = Peer(address, "the controller")
