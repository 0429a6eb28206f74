"""A cluster of one's own on this machine: started here, spoken to as any other, gone with this process."""

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
    """Starts a whole cluster on this machine and is its client. It is a real one: a controller and workers, each a
    process, on loopback. It ends with `close`, or with this process, and leaves nothing behind.

    Args:
        workers: How many workers share the machine, so that several "hosts" can be had on one.

    Raises:
        InvalidArgumentError: (a `ValueError`) The number of workers is not valid.
        MissingExtraError: The extra [server] is not installed.
        LocalClusterError: It did not start; the text says why.
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
        """Ends all jobs and the cluster. In a child after a fork only its own connections are closed."""
        super().close()
        if self._owner_pid == os.getpid():
            atexit.unregister(self.close)
            self._server.stop()
