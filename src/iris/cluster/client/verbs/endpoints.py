"""Contains the calls about endpoints. An endpoint is a name for an address."""

from __future__ import annotations

from collections.abc import Mapping

from iris.arguments import JobReference
from iris.cluster.client.operations import endpoints as operations
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.rpc import cluster_pb2


class EndpointVerbs(ClusterVerbs):
    """Calls about endpoints."""

    def register_endpoint(
        self, name: str, address: str, job_id: str | JobReference = "", metadata: Mapping[str, str] | None = None
    ) -> str:
        """Register a name for an address, and return the endpoint's id.

        Args:
            name: The endpoint's name.
            address: The address, such as `host:port`.
            job_id: The job that owns the endpoint: its id, or a `Job`. The endpoint is removed when this job ends, and
                if a task registers it, when the current attempt of the task ends. Empty: no job owns the endpoint.
            metadata: Values that a lookup of the endpoint returns besides the address.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            AlreadyExistsError: Another job, or a program outside of jobs, has registered the name.
            NotFoundError: There is no such job.
            FailedPreconditionError: The job has ended.
        """
        return self.connection.perform(operations.register_endpoint(name, address, job_id, metadata))

    def unregister_endpoint(self, endpoint_id: str) -> None:
        """Remove an endpoint.

        Raises:
            NotFoundError: There is no such endpoint.
        """
        self.connection.perform(operations.unregister_endpoint(endpoint_id))

    def lookup_endpoint(self, name: str) -> cluster_pb2.Controller.Endpoint:
        """Return the endpoint with the given name.

        Raises:
            NotFoundError: There is no such endpoint.
        """
        return self.connection.perform(operations.lookup_endpoint(name))

    def list_endpoints(self, prefix: str = "") -> list[cluster_pb2.Controller.Endpoint]:
        """Return the endpoints whose names start with a prefix, sorted by name."""
        return self.connection.perform(operations.list_endpoints(prefix))
