"""Keeps the connections of one client: to the controller, and to workers for reading logs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from iris.arguments import check_flag, check_timeout, check_token
from iris.cluster.client.running_cluster import find_here, find_token
from iris.cluster.types import TOKEN_VARIABLE
from iris.errors import ControllerUnreachableError, WorkerUnreachableError
from iris.rpc import cluster_connect
from iris.rpc.address import parse_address
from iris.rpc.auth.credentials import BearerInterceptor, Credentials
from iris.rpc.auth.peer_uid import PeerUidCheck, own
from iris.rpc.calls import UnaryCall, call
from iris.rpc.http.client.client_lifetime import Lifetime
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.http.client.httpx_sender import check_alone, check_transport
from iris.rpc.http.tls import ClientTls
from iris.rpc.peer import Peer

if TYPE_CHECKING:
    import httpx

Request = TypeVar("Request")
Response = TypeVar("Response")


class ClusterConnection:
    """The connections of one client. Safe to use from several threads, and in child processes after `os.fork()`.

    `RemoteClusterClient` documents the arguments and errors of this class.

    Attributes:
        address: The base URL of the controller.
        controller: The stub of the controller.
        peer: The description of the controller, for error messages and tokens.
        credentials: The token of the client.
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
        self.address = parse_address(controller_address)
        token = check_token(token)
        self._http2 = None if http2 is None else check_flag("http2", http2)
        self._given = check_transport(transport)
        check_alone(transport, ca=ca, cert=cert, http2=http2)
        self._tls = ClientTls.given(ca, cert)
        if self._tls == ClientTls() and self.address.startswith("https://"):
            here = find_here(self.address)
            self._tls = self._tls if here is None else here.tls()
        self.credentials = _credentials(token, self.address)
        is_given = token is not None or bool(os.environ.get(TOKEN_VARIABLE))
        # The client has found its token in a file on this machine. Such a token is sent only to processes of the same
        # user.
        self._uid_check = PeerUidCheck(self.address, None if is_given else own)
        self.timeout_s = check_timeout("timeout_s", timeout_s, above_zero=True)
        self.lifetime = Lifetime(f"the client of the cluster at {self.address}")
        self._transport = HttpTransport(
            self.address, http2=http2, tls=self._tls, lifetime=self.lifetime, given=self._given
        )
        self.controller = cluster_connect.ControllerServiceClientSync(
            self.address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(self.credentials.token, self._uid_check),),
            http_client=self._transport.connect_client(),
        )
        self.peer = Peer(
            self.address,
            "the controller",
            ControllerUnreachableError,
            advice="check the address, or start a cluster on this machine with 'iris up'",
            credentials=self.credentials,
            lifetime=self.lifetime,
            proxy=self._transport.proxy,
        )
        # One connection for each worker address. There is no lock: `setdefault` on a dict is atomic, and a lock that
        # another thread holds during a fork would never be released in the child process.
        self._workers: dict[str, WorkerConnection] = {}

    def call(
        self, method: UnaryCall[Request, Response], request: Request, *, timeout_s: float | None = None
    ) -> Response:
        """Call a method of the controller. If the connection breaks, repeat the call.

        Args:
            method: A method of `controller`.
            request: The request.
            timeout_s: The timeout in seconds for all tries together. Default: the timeout of the client.
        """
        return call(method, request, self.peer, timeout_s=self.timeout_s if timeout_s is None else timeout_s)

    def worker(self, worker_id: str, address: str) -> WorkerConnection:
        """Return the connection to a worker."""
        known = self._workers.get(address)
        return known or self._workers.setdefault(
            address,
            WorkerConnection(worker_id, address, self._worker_transport(address), self._users, self.credentials),
        )

    def close(self) -> None:
        """Close all connections. Calls in other threads end with a `ClientClosedError` within a second."""
        self.lifetime.close()
        self._transport.close()
        for worker in list(self._workers.values()):
            worker.transport.close()

    def _worker_transport(self, address: str) -> HttpTransport:
        # HTTP/2 is never required of a worker, because a worker may be reached through a proxy that speaks HTTP/1.1.
        http2 = False if self._http2 is False else None
        return HttpTransport(address, http2=http2, tls=self._tls, lifetime=self.lifetime, given=self._given)

    def _users(self) -> Iterable[int]:
        """Return the ids of the users whose processes are accepted as workers on this machine: this user and the
        controller's user."""
        user = self._uid_check.user
        return own() if user is None else (user, *own())


class WorkerConnection:
    """The connection to one worker.

    Attributes:
        transport: The HTTP connections.
        uid_check: The check that a worker on this machine belongs to an expected user.
        stub: The stub of the worker.
        peer: The description of the worker, for error messages and tokens.
    """

    def __init__(
        self,
        worker_id: str,
        address: str,
        transport: HttpTransport,
        users: Callable[[], Iterable[int]],
        credentials: Credentials,
    ) -> None:
        self.transport = transport
        self.uid_check = PeerUidCheck(address, users)
        self.stub = cluster_connect.WorkerServiceClientSync(
            address,
            accept_compression=(),
            send_compression=None,
            interceptors=(BearerInterceptor(credentials.token, self.uid_check),),
            http_client=transport.connect_client(),
        )
        self.peer = Peer(
            address,
            f"worker {worker_id!r}, which has the log,",
            WorkerUnreachableError,
            advice="it may have ended, or not be reachable from here",
            credentials=credentials,
            lifetime=transport.lifetime,
            proxy=transport.proxy,
        )


def _credentials(given: str | Callable[[], str] | None, address: str) -> Credentials:
    """Return the credentials: the given token, or `IRIS_TOKEN`, or the token of `iris up` on this machine."""
    if given is not None:
        if not isinstance(given, str):
            return Credentials(given, "token=…")
        return Credentials.fixed(given, "token=…")
    variable = os.environ.get(TOKEN_VARIABLE)
    if variable:
        return Credentials.fixed(variable, TOKEN_VARIABLE)
    return Credentials(lambda: find_token(address), "the file of 'iris up'")


class ClusterVerbs:
    """The base class of all classes that contain calls of the cluster.

    Args:
        connection: The connections of the client.
    """

    def __init__(self, connection: ClusterConnection) -> None:
        self._connection = connection
