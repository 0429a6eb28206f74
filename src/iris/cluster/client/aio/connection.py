"""Keeps the connections of one async client: to the controller, and to workers for reading logs.

One asyncio loop owns all state. The start of a local cluster and the function that returns a token may block.
Therefore both run in a thread.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from connectrpc.errors import ConnectError
from pyqwest import Client

from iris.cluster.client.access import ClusterAccess
from iris.cluster.client.aio.async_runner import AsyncRunner
from iris.cluster.client.aio.lifetime import AsyncLifetime
from iris.cluster.client.operations.logs import ReachableWorkers
from iris.cluster.client.operations.steps import PROBE_MS, Item, ItemOperation, OpenStream, Operation, Result, Worker
from iris.errors import IrisError
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.auth.peer_uid import PeerUidCheck
from iris.rpc.http.client.async_client_transport import ProgressTransport, user_transport
from iris.rpc.http.client.httpx_sender import AsyncHttpxTransport
from iris.rpc.http.client.proxies import Proxy, find_proxy
from iris.rpc.peer import Peer
from iris.tracing.trace_header import TraceInterceptor

if TYPE_CHECKING:
    import httpx

# The largest number of calls and opening streams that one server gets from one client at once. Further calls wait.
_AT_ONCE = 64


class AsyncClusterConnection:
    """The connections of one async client.

    Args:
        access: The address and the credentials of the cluster, or a function that starts a cluster and returns the
            address and the credentials. The function is called in a thread before the first call.
        whose: The client's name in errors.
        transport: A transport of httpx that sends all requests. None: the client makes its own connections.

    Attributes:
        lifetime: The object that ends all calls when the client is closed.
        reachable: The object that records which workers this machine can call directly.
    """

    def __init__(
        self,
        access: ClusterAccess | Callable[[], ClusterAccess],
        whose: str,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._given = transport
        self.lifetime = AsyncLifetime(whose)
        self.reachable = ReachableWorkers()
        self._server: _Server | None = None
        self._access: ClusterAccess | None = None
        self._start: Callable[[], ClusterAccess] | None = None
        self._starting: asyncio.Task[ClusterAccess] | None = None
        self._workers: dict[str, _Server] = {}
        self._transports: list[ProgressTransport] = []
        # All connections share one TLS context, because creating a TLS context is slow.
        self._context: ssl.SSLContext | None = None
        if isinstance(access, ClusterAccess):
            self._connect(access)
        else:
            self._start = access

    @property
    def address(self) -> str:
        """The base URL of the controller, or an empty string while a local cluster has not started yet."""
        return "" if self._access is None else self._access.address

    async def open(self) -> ClusterAccess:
        """Return the address and the credentials of the cluster. If this is the connection of a local client, the first
        call starts the cluster.

        Raises:
            ClientClosedError: The client was closed.
            FailedPreconditionError: Another event loop than the client's loop runs.
            LocalClusterError: The cluster did not start.
        """
        self.lifetime.check()
        if self._access is None:
            assert self._start is not None, "a connection has an access, or a function that returns one"
            if self._starting is None:
                self._starting = asyncio.create_task(asyncio.to_thread(self._start))
            # If one caller is cancelled, the start of the cluster continues, because other callers may wait for the
            # start.
            access = await asyncio.shield(self._starting)
            self.lifetime.check()
            if self._access is None:
                self._connect(access)
        assert self._access is not None, "the connection is open"
        return self._access

    async def perform(self, operation: Operation[Result]) -> Result:
        """Carry out an operation, and return its result."""
        return await AsyncRunner(self).run(operation)

    def items(self, operation: ItemOperation[Item, None]) -> AsyncGenerator[Item]:
        """Carry out an operation, and yield its items, for example log lines."""
        return AsyncRunner(self).items(operation)

    def messages(self, opening: OpenStream) -> AsyncGenerator[Any]:
        """Open a stream, and yield its messages."""
        return AsyncRunner(self).messages(opening)

    async def token(self) -> str | None:
        """Return the token that the client uses now."""
        access = await self.open()
        if not access.credentials.is_known:
            await asyncio.to_thread(access.credentials.token)
        return access.credentials.token()

    @property
    def timeout_s(self) -> float:
        """The timeout of each call in seconds."""
        assert self._access is not None, "the connection is open"
        return self._access.timeout_s

    def server(self, worker: Worker | None) -> tuple[Any, Peer]:
        """Return the stub that calls a worker, and the worker's `Peer`, which has its name and credentials. If `worker`
        is None, return the stub and the `Peer` of the controller.
        """
        known = self._known(worker)
        return known.stub, known.peer

    def limit(self, worker: Worker | None) -> asyncio.Semaphore:
        """Return the semaphore that limits how many calls and opening streams the client sends to one server at
        once."""
        return self._known(worker).limit

    async def answers(self, worker_id: str, address: str) -> bool:
        """Call a worker once, and return whether the worker has answered."""
        if self._access is None or not self._access.may_call_worker(address):
            return False
        try:
            # Another worker may answer at the address, for example on another machine with the same address. Therefore
            # the worker id in the answer is checked.
            worker = self._worker(worker_id, address)
            worker.uid_check.check()
            health = await worker.stub.health_check(cluster_pb2.Empty(), timeout_ms=PROBE_MS)
        except (ConnectError, IrisError):
            return False
        return bool(health.worker_id == worker_id)

    async def close(self) -> None:
        """Close all connections. Calls in other tasks end with a `ClientClosedError` within a second."""
        self.lifetime.close()
        for transport in self._transports:
            await transport.aclose()
        if self._starting is not None and not self._starting.done():
            await asyncio.wait([self._starting])
        if self._given is not None:
            await self._given.aclose()

    def _connect(self, access: ClusterAccess) -> None:
        proxy = self._proxy(access.address)
        interceptor = BearerInterceptor(access.credentials.token, access.uid_check)
        stub = cluster_connect.ControllerServiceClient(
            access.address,
            accept_compression=(),
            send_compression=None,
            interceptors=(interceptor, TraceInterceptor()),
            http_client=self._http_client(access, access.address, proxy, http2=access.http2),
        )
        self._server = _Server(stub, access.controller_peer(None, proxy), access.uid_check)
        self._access = access

    def _known(self, worker: Worker | None) -> _Server:
        known = self._server if worker is None else self._worker(*worker)
        assert known is not None, "the connection is open"
        return known

    def _worker(self, worker_id: str, address: str) -> _Server:
        known = self._workers.get(address)
        if known is None:
            assert self._access is not None, "the connection is open"
            access, proxy = self._access, self._proxy(address)
            uid_check = access.worker_uid_check(address)
            interceptor = BearerInterceptor(access.credentials.token, uid_check)
            stub = cluster_connect.WorkerServiceClient(
                address,
                accept_compression=(),
                send_compression=None,
                interceptors=(interceptor,),
                http_client=self._http_client(access, address, proxy),
            )
            known = self._workers[address] = _Server(
                stub, access.worker_peer(worker_id, address, None, proxy), uid_check
            )
        return known

    def _proxy(self, address: str) -> Proxy | None:
        return find_proxy(address) if self._given is None else None

    def _http_client(
        self, access: ClusterAccess, address: str, proxy: Proxy | None, *, http2: bool | None = None
    ) -> Client:
        if self._given is not None:
            return Client(AsyncHttpxTransport(self._given))
        if self._context is None and address.startswith("https://"):
            self._context = access.tls.context()
        transport = user_transport(address, access.tls, proxy, http2=bool(http2), context=self._context)
        self._transports.append(transport)
        return Client(transport)


class _Server:
    """A server that the client calls.

    Attributes:
        stub: The generated stub of the server's service.
        peer: The server's name for error messages, and the token for its calls.
        uid_check: The object that checks that the server belongs to an expected user, if the server runs on this
            machine.
        limit: The semaphore that limits how many calls and opening streams the client sends to the server at once.
    """

    def __init__(self, stub: Any, peer: Peer, uid_check: PeerUidCheck) -> None:
        self.stub = stub
        self.peer = peer
        self.uid_check = uid_check
        self.limit = asyncio.Semaphore(_AT_ONCE)
