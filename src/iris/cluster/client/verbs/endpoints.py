"""Contains the calls about endpoints. An endpoint is a name for an address."""

from __future__ import annotations

from collections.abc import Mapping

from iris.arguments import JobReference, check_job_id, check_text, check_text_mapping
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.cluster.client.verbs.jobs import PAGE_SIZE
from iris.cluster.names import check_name
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
            job_id: The job that owns the endpoint: its id, or a `Job`. The endpoint is removed when this job ends.
                Empty: no job owns the endpoint.
            metadata: Values that a lookup of the endpoint returns besides the address.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            AlreadyExistsError: Another job has registered the name.
            NotFoundError: There is no such job.
            FailedPreconditionError: The job has ended.
        """
        request = cluster_pb2.Controller.RegisterEndpointRequest(
            name=_checked_name(name),
            address=check_text("address", address, empty=False, accepted="an address as text, such as 'host:port'"),
            job_id=job_id if job_id == "" else check_job_id(job_id),
            metadata={} if metadata is None else check_text_mapping("metadata", metadata, none="no metadata"),
        )
        return self._connection.call(self._connection.controller.register_endpoint, request).endpoint_id

    def unregister_endpoint(self, endpoint_id: str) -> None:
        """Remove an endpoint.

        Raises:
            NotFoundError: There is no such endpoint.
        """
        request = cluster_pb2.Controller.UnregisterEndpointRequest(
            endpoint_id=check_text("endpoint_id", endpoint_id, empty=False)
        )
        self._connection.call(self._connection.controller.unregister_endpoint, request)

    def lookup_endpoint(self, name: str) -> cluster_pb2.Controller.Endpoint:
        """Return the endpoint with the given name.

        Raises:
            NotFoundError: There is no such endpoint.
        """
        request = cluster_pb2.Controller.LookupEndpointRequest(name=_checked_name(name))
        return self._connection.call(self._connection.controller.lookup_endpoint, request).endpoint

    def list_endpoints(self, prefix: str = "") -> list[cluster_pb2.Controller.Endpoint]:
        """Return the endpoints whose names start with a prefix, sorted by name."""
        request = cluster_pb2.Controller.ListEndpointsRequest(prefix=check_text("prefix", prefix), page_size=PAGE_SIZE)
        endpoints: list[cluster_pb2.Controller.Endpoint] = []
        while True:
            answer = self._connection.call(self._connection.controller.list_endpoints, request)
            endpoints += answer.endpoints
            if not answer.next_page_token:
                return endpoints
            request.page_token = answer.next_page_token


def _checked_name(name: str) -> str:
    check_name("endpoint", name)
    return name
