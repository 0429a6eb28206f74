"""Contains the methods of `AsyncIrisClient` about endpoints."""

from __future__ import annotations

from collections.abc import Mapping

from iris.client.submission import parent_job
from iris.client.waiting import find_endpoint
from iris.cluster.client.aio.remote_client import AsyncClusterClient
from iris.rpc import cluster_pb2


class AsyncEndpointMethods:
    """The methods of `AsyncIrisClient` about endpoints.

    Args:
        cluster: The low-level client of the cluster.
    """

    def __init__(self, cluster: AsyncClusterClient) -> None:
        self.cluster = cluster

    async def register_endpoint(self, name: str, address: str, metadata: Mapping[str, str] | None = None) -> str:
        """Register a name for an address, and return the endpoint's id. `unregister_endpoint` needs this id.

        Inside a job, the endpoint is removed when the current attempt ends. The same job may register the name again
        with another address, for example after a retry.

        Args:
            name: The endpoint's name.
            address: The address, such as `host:port`.
            metadata: Values that a lookup of the endpoint returns besides the address.

        Raises:
            AlreadyExistsError: Another job has registered the name.
        """
        parent = parent_job(await self.cluster.token(), self.cluster.controller_address)
        return await self.cluster.register_endpoint(name, address, parent.job_id if parent else "", metadata)

    async def unregister_endpoint(self, endpoint_id: str) -> None:
        """Remove an endpoint.

        Raises:
            NotFoundError: There is no such endpoint.
        """
        await self.cluster.unregister_endpoint(endpoint_id)

    async def lookup_endpoint(self, name: str, timeout: float | None = 0.0) -> cluster_pb2.Controller.Endpoint:
        """Return the endpoint with the given name. The endpoint has an `.address`, `.metadata` and a `.job_id`.

        Args:
            name: The name with which the endpoint was registered.
            timeout: For how many seconds to wait until the endpoint is registered. 0: do not wait. None and `math.inf`:
                wait forever. The lookup is repeated at least once a second, or less often inside a job of more than
                1,000 tasks.

        Raises:
            NotFoundError: There is no such endpoint, and `timeout` is 0.
            DeadlineExceededError: (a `TimeoutError`) There was no such endpoint within `timeout` seconds.
        """
        return await self.cluster.connection.perform(find_endpoint(name, timeout))

    async def list_endpoints(self, prefix: str = "") -> list[cluster_pb2.Controller.Endpoint]:
        """Return the endpoints whose names start with a prefix, sorted by name."""
        return await self.cluster.list_endpoints(prefix)
