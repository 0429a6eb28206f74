"""Connects a command to a cluster: at a given address, started by `iris up`, or started by the command itself."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import click

from iris.cli.options import given_context
from iris.cluster.client.contexts.choose_cluster import ADDRESS_VARIABLE, find_cluster
from iris.cluster.client.running_cluster import find_here
from iris.cluster.client.task_token import task_of_token
from iris.config import ClusterConfig
from iris.errors import FailedPreconditionError
from iris.system.process_identity import own_place

if TYPE_CHECKING:
    from iris.client import IrisClient
    from iris.cluster.client.server_process import LocalServer

Place = Literal["embedded", "here", "elsewhere"]


class Connection:
    """A connection of a command to its cluster.

    Args:
        client: The client of the cluster.
        place: Where tasks run: in a cluster that this command has started ("embedded"), on this machine ("here"), or on
            other machines ("elsewhere"), for example on Ray. None: the property `place` finds out whether tasks run
            "here" or "elsewhere".
        embedded: The cluster that this command has started and that ends with it, if any.

    Attributes:
        options: The options, shown in messages, with which other commands reach the same cluster.
    """

    def __init__(
        self, client: IrisClient, place: Place | None, embedded: _Embedded | None = None, options: str = ""
    ) -> None:
        self.client = client
        self.options = options
        self._place = place
        self._embedded = embedded

    @property
    def place(self) -> Place:
        """Where tasks run: "embedded", "here" or "elsewhere". With "here", tasks run on this machine as this user, and
        can read this user's files.

        Raises:
            IrisError: The cluster does not answer.
        """
        if self._place is None:
            self._place = "here" if self._is_around_us() else "elsewhere"
        return self._place

    def _is_around_us(self) -> bool:
        """Return whether this command itself runs in a task of a cluster on this machine, even a temporary cluster."""
        if task_of_token(self.client.cluster.token() or "") is None:
            return False
        answer = self.client.cluster.describe_cluster()
        return answer.engine == "local" and bool(answer.place) and answer.place == own_place()

    def kill(self) -> None:
        """Kill an embedded cluster at once. Its tasks receive SIGKILL."""
        if self._embedded is not None:
            self._embedded.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.close()
        if self._embedded is not None:
            self._embedded.stop()


def connect(address: str | None) -> Connection:
    """Connect to the cluster at `address` or to the cluster of `--context`. If neither is given, connect to the cluster
    that `find_cluster` chooses.

    Raises:
        InvalidAddressError: The address has none of the accepted forms.
        FailedPreconditionError: There is no cluster. The message explains how to start or name one.
    """
    connection = _connect_to_running(address)
    if connection is None:
        raise FailedPreconditionError(
            "there is no cluster: start one on this machine with 'iris up', or name one with --address HOST:PORT"
            f" or {ADDRESS_VARIABLE}, or log in to one with 'iris login ADDRESS'"
        )
    return connection


def connect_or_embed(address: str | None) -> Connection:
    """Connect to a cluster as `connect` does. If there is no cluster, start a cluster that ends with the connection.

    Raises:
        InvalidAddressError: The address has none of the accepted forms.
        FailedPreconditionError: The server of `iris up` was killed. No second cluster is started, because attempts of
            the first one may still use this machine.
        MissingExtraError: There is no cluster, and the extra [server] is not installed.
        LocalClusterError: There is no cluster, and none could be started. The message contains the reason.
    """
    connection = _connect_to_running(address)
    if connection is not None:
        return connection
    embedded = _Embedded()
    return Connection(_client(embedded.server.address, embedded.server.token), "embedded", embedded)


def _connect_to_running(address: str | None) -> Connection | None:
    # The client is imported here, because the import takes a third of a second and `iris --help` does not need it.
    from iris.client import IrisClient
    from iris.rpc.address import parse_address

    name = given_context()
    if address and name:
        raise click.UsageError("--address and --context exclude each other: each of them names the cluster")
    chosen = find_cluster(address or None, name)
    if chosen is None:
        return None
    here = find_here(parse_address(chosen.address))
    place = None if here is None else _place_of(here.engine)
    options = f" --address {address}" if address else f" --context {shlex.quote(name)}" if name else ""
    if chosen.context is not None:
        return Connection(IrisClient.from_context(chosen.context.name), place, options=options)
    return Connection(_client(chosen.address), place, options=options)


def _place_of(engine_here: str) -> Place:
    return "here" if engine_here == "local" else "elsewhere"


def _client(address: str, token: str | None = None) -> IrisClient:
    # The client is imported here, because the import takes a third of a second and `iris --help` does not need it.
    from iris.client import IrisClient

    return IrisClient.remote(address, token=token)


class _Embedded:
    """A cluster that this command has started. The cluster ends with the command, and can be killed at once."""

    def __init__(self) -> None:
        from iris.cluster.client.server_process import remove_directory, start_server

        self._directory = Path(tempfile.mkdtemp(prefix="iris-"))
        try:
            self.server: LocalServer = start_server(
                ClusterConfig(state_dir=self._directory, port=0), temporary=True, ends_with_us=True
            )
        except BaseException:
            remove_directory(self._directory)
            raise

    def stop(self) -> None:
        self.server.stop()

    def kill(self) -> None:
        """Kill the server, and remove the state directory. The workers and their attempts end by themselves when the
        server is gone."""
        from iris.cluster.client.server_process import remove_directory

        self.server.process.kill()
        self.server.process.wait()
        remove_directory(self._directory)
