"""Which cluster is meant: the one at an address, the one that `iris up` started here, or one for this command alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from iris.cli.cluster.cluster_record import is_running, read_record
from iris.cluster.client.running_cluster import find_here
from iris.cluster.client.task_token import task_of_token
from iris.config import ClusterConfig
from iris.errors import FailedPreconditionError
from iris.system.process_identity import own_place

if TYPE_CHECKING:
    from iris.client import IrisClient
    from iris.cluster.client.server_process import LocalServer

ADDRESS_VARIABLE = "IRIS_CONTROLLER_ADDRESS"
Place = Literal["embedded", "here", "elsewhere"]


class Connection:
    """A client of the cluster that is meant.

    Args:
        client: The client.
        place: Where its tasks run: in a cluster that is embedded in this command, on this machine, or elsewhere, as
            those of a cluster that `iris up` has started here on another engine. None: on this machine where this
            command runs in one of its tasks, which the cluster is asked for; else elsewhere.
        embedded: The embedded cluster.

    Attributes:
        options: What other commands need to be given to mean the same cluster, as words for a person.
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
        """Where tasks run. "here" is this machine, with the files of this process, as this user.

        Raises:
            IrisError: The cluster does not answer.
        """
        if self._place is None:
            self._place = "here" if self._is_around_us() else "elsewhere"
        return self._place

    def _is_around_us(self) -> bool:
        """Whether this command runs in a task of a cluster of this machine, temporary ones included."""
        if task_of_token(self.client.cluster.token() or "") is None:
            return False
        answer = self.client.cluster.describe_cluster()
        return answer.engine == "local" and bool(answer.place) and answer.place == own_place()

    def kill(self) -> None:
        """Ends an embedded cluster at once, its tasks with SIGKILL."""
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
    """A client of the cluster at an address; by default the one of the environment, or of `iris up`.

    Raises:
        InvalidAddressError: The address has none of the accepted forms.
        FailedPreconditionError: There is no cluster; the text says how to get one.
    """
    connection = _connect_to_running(address)
    if connection is None:
        raise FailedPreconditionError(
            "there is no cluster: start one on this machine with 'iris up', or name one with --address HOST:PORT"
            f" or {ADDRESS_VARIABLE}"
        )
    return connection


def connect_or_embed(address: str | None) -> Connection:
    """As `connect`, but where there is no cluster, one is started that ends with the connection.

    Raises:
        InvalidAddressError: The address has none of the accepted forms.
        FailedPreconditionError: The server of `iris up` was killed: a second cluster would book this machine twice.
        MissingExtraError: There is no cluster, and the extra [server] is not installed.
        LocalClusterError: There is no cluster, and none could be started; the text says why.
    """
    connection = _connect_to_running(address)
    if connection is not None:
        return connection
    embedded = _Embedded()
    return Connection(_client(embedded.server.address, embedded.server.token), "embedded", embedded)


def _connect_to_running(address: str | None) -> Connection | None:
    from iris.rpc.address import parse_address

    given = address or os.environ.get(ADDRESS_VARIABLE)
    if given:
        url = parse_address(given)
        here = find_here(url)
        place = None if here is None else _place_of(here.engine)
        return Connection(_client(url), place, options=f" --address {address}" * bool(address))
    record = read_record()
    if record is None:
        return None
    if not is_running(record):
        raise FailedPreconditionError(
            f"the server of 'iris up' at {record.address} was killed, and what it had started may still run: 'iris up'"
            " starts it again, with all its jobs; 'iris down' ends what is left"
        )
    return Connection(_client(record.address), _place_of(record.config.engine))


def _place_of(engine_here: str) -> Place:
    return "here" if engine_here == "local" else "elsewhere"


def _client(address: str, token: str | None = None) -> IrisClient:
    from iris.client import IrisClient  # a third of a second, which `iris --help` need not take

    return IrisClient.remote(address, token=token)


class _Embedded:
    """A cluster for one command: as `LocalClusterClient` has it, and it can also be killed."""

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
        """Workers end with the server, and what runs in them with the workers: nothing of it needs our help, except
        the directory, in which they may write until they are gone."""
        from iris.cluster.client.server_process import remove_directory

        self.server.process.kill()
        self.server.process.wait()
        remove_directory(self._directory)
