"""Provides a client that starts a cluster on this machine, and ends the cluster when the client is closed."""

from __future__ import annotations

import atexit

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalCluster


class LocalClusterClient(RemoteClusterClient):
    """The client of a new cluster on this machine.

    The cluster consists of a controller process and worker processes on the loopback interface. `close`, or the end of
    this process, ends the cluster and removes its files.

    Args:
        workers: The number of workers that share this machine, from 1 to 64.

    Raises:
        InvalidArgumentError: (a `ValueError`) The number of workers is invalid.
        MissingExtraError: The extra [server] is not installed.
        LocalClusterError: The cluster did not start. The message contains the reason.
    """

    def __init__(self, *, workers: int = 1) -> None:
        self._cluster = LocalCluster(workers)
        server = self._cluster.start()
        super().__init__(server.address, token=server.token)
        atexit.register(self.close)

    def close(self) -> None:
        """End all jobs and the cluster. In a child process after a fork, close only the connections of the child."""
        super().close()
        atexit.unregister(self.close)
        self._cluster.stop()
