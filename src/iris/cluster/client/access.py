"""Collects what a client needs to call a cluster: the address, the token, the TLS settings and the timeout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from iris.arguments import check_flag, check_timeout, check_token
from iris.cluster.client.contexts.choose_cluster import ContextToken
from iris.cluster.client.contexts.context_file import find_context_at
from iris.cluster.client.running_cluster import find_here, find_token
from iris.cluster.types import TOKEN_VARIABLE
from iris.errors import ControllerUnreachableError, WorkerUnreachableError
from iris.rpc.address import is_loopback, parse_address
from iris.rpc.auth.credentials import Credentials
from iris.rpc.auth.peer_uid import PeerUidCheck, own
from iris.rpc.http.client.client_lifetime import Lifetime
from iris.rpc.http.client.httpx_sender import check_alone
from iris.rpc.http.client.proxies import Proxy
from iris.rpc.http.tls import ClientTls
from iris.rpc.peer import Peer


class ClusterAccess:
    """The address of a cluster, and how a client authenticates there. `RemoteClusterClient` documents the arguments and
    errors of this class.

    Attributes:
        address: The base URL of the controller.
        tls: Which https servers the client trusts, and the client's certificate.
        http2: Whether HTTP/2 is required, or must not be used. None: a sync client uses HTTP/2 if possible, and an
            async client uses HTTP/1.1.
        credentials: The object that holds and renews the client's token.
        uid_check: The object that checks that the controller belongs to an expected user, if the controller runs on
            this machine.
        timeout_s: The timeout of each call in seconds.
    """

    def __init__(
        self,
        controller_address: str,
        token: str | Callable[[], str] | None,
        ca: str | os.PathLike[str] | None,
        cert: str | os.PathLike[str] | tuple[str, str] | None,
        http2: bool | None,
        transport: object,
        timeout_s: float | None,
    ) -> None:
        self.address = parse_address(controller_address)
        token = check_token(token)
        self.http2 = None if http2 is None else check_flag("http2", http2)
        check_alone(transport, ca=ca, cert=cert, http2=http2)
        self.tls = ClientTls.given(ca, cert)
        if self.tls == ClientTls() and self.address.startswith("https://"):
            self.tls = self._known_tls()
        self.credentials = _credentials(token, self.address)
        is_given = token is not None or bool(os.environ.get(TOKEN_VARIABLE))
        # A token that the client has found in a file on this machine is sent only to processes of the same user.
        self.uid_check = PeerUidCheck(self.address, None if is_given else own)
        self.timeout_s = check_timeout("timeout_s", timeout_s, above_zero=True)

    def _known_tls(self) -> ClientTls:
        """Return the TLS settings that this machine has stored for the address: by `iris up`, or by `iris login` in a
        context.
        """
        here = find_here(self.address)
        if here is not None:
            return here.tls()
        context = find_context_at(self.address)
        return self.tls if context is None else ClientTls(context.ca, context.cert, context.cert_key)

    def controller_peer(self, lifetime: Lifetime | None, proxy: Proxy | None) -> Peer:
        """Return the controller's address, its name in error messages, and the credentials for calls, as a `Peer`.

        Args:
            lifetime: The object that ends a sync client's calls when the client is closed, or None for an async client.
            proxy: The proxy that calls go through, or None if calls go directly to the controller.
        """
        return Peer(
            self.address,
            "the controller",
            ControllerUnreachableError,
            advice="check the address, or start a cluster on this machine with 'iris up'",
            credentials=self.credentials,
            lifetime=lifetime,
            proxy=proxy,
        )

    def worker_peer(self, worker_id: str, address: str, lifetime: Lifetime | None, proxy: Proxy | None) -> Peer:
        """Return the worker's address, its name in error messages, and the credentials for calls, as a `Peer`.
        `controller_peer` documents `lifetime` and `proxy`.
        """
        return Peer(
            address,
            f"worker {worker_id!r}, which has the log,",
            WorkerUnreachableError,
            advice="it may have ended, or not be reachable from here",
            credentials=self.credentials,
            lifetime=lifetime,
            proxy=proxy,
        )

    def worker_uid_check(self, address: str) -> PeerUidCheck:
        """Return a check that a worker on this machine runs as this user or as the user of the controller."""
        return PeerUidCheck(address, self._worker_users)

    def may_call_worker(self, address: str) -> bool:
        """Return whether the client may send its token to the address of a worker."""
        if not address:
            return False
        if is_loopback(address) and not is_loopback(self.address):
            # A loopback address leads to this machine, but the controller, and therefore the worker, runs on another
            # machine. A program of another user on this machine must not get the token.
            return False
        # The token of a cluster with TLS must not be sent without TLS.
        return not self.address.startswith("https://") or is_loopback(address) or address.startswith("https")

    def _worker_users(self) -> Iterable[int]:
        user = self.uid_check.user
        return own() if user is None else (user, *own())


def _credentials(given: str | Callable[[], str] | None, address: str) -> Credentials:
    """Return the object that supplies the client's token for each call.

    The token is the first of these that exists: the given token, `IRIS_TOKEN`, the token of `iris up` on this machine,
    and the token of the context with this address.
    """
    if given is not None:
        if isinstance(given, ContextToken):
            return Credentials(given, given.what)
        if not isinstance(given, str):
            return Credentials(given, "token=…")
        return Credentials.fixed(given, "token=…")
    variable = os.environ.get(TOKEN_VARIABLE)
    if variable:
        return Credentials.fixed(variable, TOKEN_VARIABLE)
    return Credentials(lambda: find_token(address) or _token_of_context(address), "the file of 'iris up' or a context")


def _token_of_context(address: str) -> str | None:
    context = find_context_at(address)
    return None if context is None else context.token
