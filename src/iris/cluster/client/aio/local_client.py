"""Provides an async client that starts a cluster on this machine, and ends the cluster when the client is closed."""

from __future__ import annotations

import asyncio
import atexit

from iris.cluster.client.access import ClusterAccess
from iris.cluster.client.aio.remote_client import AsyncClusterClient
from iris.cluster.client.server_process import LocalCluster
from iris.rpc.calls import DEFAULT_TIMEOUT_S


class AsyncLocalClusterClient(AsyncClusterClient):
    """The client of a new cluster on this machine. `LocalClusterClient` documents the argument and the errors. The
    cluster starts before the first call, in a thread. `close`, or the end of this process, ends the cluster.
    """

    def __init__(self, *, workers: int = 1) -> None:
        self._cluster = LocalCluster(workers)
        super().__init__(self._start, "the client of a cluster on this machine")

    async def close(self) -> None:
        """End all jobs and the cluster."""
        await super().close()
        atexit.unregister(self._cluster.stop)
        await asyncio.to_thread(self._cluster.stop)

    def _start(self) -> ClusterAccess:
        server = self._cluster.start()
        atexit.register(self._cluster.stop)
        return ClusterAccess(server.address, server.token, None, None, None, None, DEFAULT_TIMEOUT_S)
