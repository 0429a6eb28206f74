"""Provides a client that starts a cluster on this machine, and ends the cluster when the client is closed."""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path

from iris.arguments import check_whole_number
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import remove_directory, start_server
from iris.cluster.types import MAX_LOCAL_WORKERS
from iris.config import ClusterConfig


class LocalClusterClient(RemoteClusterClient):
    """The client of a new cluster on this machine.

    The cluster consists of a controller process and worker processes on the loopback interface. `close`, or the end of
    this process, ends the cluster and removes its files.

    Args:
        workers: The number of workers that share this machine.

    Raises:
        InvalidArgumentError: (a `ValueError`) The number of workers is invalid.
        MissingExtraError: The extra [server] is not installed.
        LocalClusterError: The cluster did not start. The message contains the reason.
    """

    def __init__(self, *, workers: int = 1) -> None:
        workers = check_whole_number("workers", workers, least=1, most=MAX_LOCAL_WORKERS)
        directory = Path(tempfile.mkdtemp(prefix="iris-"))
        self._owner_pid = os.getpid()
        try:
            self._server = start_server(
                ClusterConfig(state_dir=directory, port=0, workers=workers), temporary=True, ends_with_us=True
            )
        except BaseException:
            remove_directory(directory)
            raise
        super().__init__(self._server.address, token=self._server.token)
        atexit.register(self.close)

    def close(self) -> None:
        """End all jobs and the cluster. In a child process after a fork, close only the connections of the child."""
        super().close()
        if self._owner_pid == os.getpid():
            atexit.unregister(self.close)
            self._server.stop()
