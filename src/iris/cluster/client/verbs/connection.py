"""Keeps the connections of one client: to the controller, and to workers for reading logs."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from connectrpc.errors import ConnectError

from iris.cluster.client.access import ClusterAccess
from iris.cluster.client.operations.logs import ReachableWorkers
from iris.cluster.client.operations.steps import PROBE_MS, Item, ItemOperation, Operation, Result, Worker
from iris.cluster.client.verbs.sync_runner import SyncRunner
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.http.client.client_lifetime import Lifetime
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.http.client.httpx_sender import check_transport
from iris.rpc.http.client.stream_handle import StreamHandle
from iris.rpc.peer import Peer
from iris.tracing.trace_header import TraceInterceptor

if TYPE_CHECKING:
    import httpx


class ClusterConnection:
    """The connections of one client. Several threads may use the object, and so may child processes after `os.fork()`.
    `RemoteClusterClient` documents the arguments and errors of this class.

    Attributes:
        address: The base URL of the controller.
        controller: The generated stub for calls to the controller.
        peer: The controller's name for error messages, and the token for its calls.
        reachable: The object that records which workers this machine can call directly.
        credentials: The object that holds and renews the client's token.
        lifetime: The object that ends all calls when the client is closed.
        timeout_s: The timeout of each call in seconds.
    """

    def __init__(
        self,
        controller_address: str,
        token: str | Callable[[], str] | None,
        ca: str | os.PathLike[str] | None,
        cert: str | os.PathLike[str] | tuple[str, str] | None,
        http2: bool | None,
        transport: httpx.BaseTransport | None,
        timeout_s: float | None,
    ) -> None:
        self._given = check_transport(transport)
        access = self._access = ClusterAccess(controller_address, token, ca, cert, http2, transport, timeout_s)
        self.address = access.address
        self.credentials = access.credentials
        self.timeout_s = access.timeout_s
        self.lifetime = Lifetime(f"the client of the cluster at {self.address}")
        self._transport = HttpTransport(
            self.address, http2=http2, tls=access.tls, lifetime=self.lifetime, given=self._given
        )
        self.controller = cluster_connect.ControllerServiceClientSync(
            self.address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(self.credentials.token, access.uid_check), TraceInterceptor()),
            http_client=self._transport.connect_client(),
        )
        self.peer = access.controller_peer(self.lifetime, self._transport.proxy)
        self.reachable = ReachableWorkers()
        # One connection for each worker address. There is no lock: `setdefault` on a dict is atomic, and a lock that
        # another thread holds during a fork would never be released in the child process.
        self._workers: dict[str, WorkerConnection] = {}

    def perform(self, operation: Operation[Result]) -> Result:
        """Carry out an operation, and return its result."""
        return self.runner().run(operation)

    def items(self, operation: ItemOperation[Item, None], handle: StreamHandle | None = None) -> Generator[Item]:
        """Carry out an operation, and yield its items. Another thread can end the operation's stream with `handle`."""
        return self.runner(handle).items(operation)

    def runner(self, handle: StreamHandle | None = None) -> SyncRunner:
        """Return a runner for one operation."""
        return SyncRunner(self, handle)

    def server(self, worker: Worker | None) -> tuple[Any, Peer]:
        """Return the stub that calls a worker, and the worker's `Peer`, which has its name and credentials. If `worker`
        is None, return the stub and the `Peer` of the controller.
        """
        if worker is None:
            return self.controller, self.peer
        known = self.worker(*worker)
        return known.stub, known.peer

    def answers(self, worker_id: str, address: str) -> bool:
        """Call a worker once, and return whether the worker has answered."""
        if not self._access.may_call_worker(address):
            return False
        try:
            # Another worker may answer at the address, for example on another machine with the same address. Therefore
            # the worker id in the answer is checked.
            worker = self.worker(worker_id, address)
            worker.uid_check.check()
            health = worker.stub.health_check(cluster_pb2.Empty(), timeout_ms=PROBE_MS)
        except ConnectError:
            return False
        return health.worker_id == worker_id

    def worker(self, worker_id: str, address: str) -> WorkerConnection:
        """Return the connection to a worker."""
        known = self._workers.get(address)
        return known or self._workers.setdefault(
            address,
            WorkerConnection(worker_id, address, self._worker_transport(address), self._access),
        )

    def close(self) -> None:
        """Close all connections. Calls in other threads end with a `ClientClosedError` within a second."""
        self.lifetime.close()
        self._transport.close()
        for worker in list(self._workers.values()):
            worker.transport.close()

    def _worker_transport(self, address: str) -> HttpTransport:
        if self._given is not None:
            # A transport that the user has given serves the controller and all workers. `close` closes this transport
            # only once.
            return self._transport
        # HTTP/2 is never required of a worker, because a worker may be reached through a proxy that speaks HTTP/1.1.
        http2 = False if self._access.http2 is False else None
        return HttpTransport(address, http2=http2, tls=self._access.tls, lifetime=self.lifetime)


class WorkerConnection:
    """The connection to one worker.

    Attributes:
        transport: The object that holds the HTTP connections to the worker.
        uid_check: The object that checks that the worker belongs to an expected user, if the worker runs on this
            machine.
        stub: The generated stub for calls to the worker.
        peer: The worker's name for error messages, and the token for its calls.
    """

    def __init__(self, worker_id: str, address: str, transport: HttpTransport, access: ClusterAccess) -> None:
        self.transport = transport
        self.uid_check = access.worker_uid_check(address)
        self.stub = cluster_connect.WorkerServiceClientSync(
            address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(access.credentials.token, self.uid_check),),
            http_client=transport.connect_client(),
        )
        self.peer = access.worker_peer(worker_id, address, transport.lifetime, transport.proxy)


class ClusterVerbs:
    """The base class of the classes whose methods call the cluster. Each of these classes has the calls about one
    subject, such as jobs or logs.

    Args:
        connection: The connections of the client.

    Attributes:
        connection: The connections of the client, which `iris.client` uses, too.
    """

    def __init__(self, connection: ClusterConnection) -> None:
        self.connection = connection
