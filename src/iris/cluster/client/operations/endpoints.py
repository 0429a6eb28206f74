"""Operations about endpoints. `EndpointVerbs` documents the arguments, results and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping

from iris.arguments import JobReference, check_job_id, check_text, check_text_mapping
from iris.cluster.client.operations.jobs import PAGE_SIZE
from iris.cluster.client.operations.steps import Call, Operation
from iris.cluster.names import check_name
from iris.rpc import cluster_pb2


def register_endpoint(
    name: str, address: str, job_id: str | JobReference = "", metadata: Mapping[str, str] | None = None
) -> Operation[str]:
    """Register a name for an address, and return the endpoint's id."""
    request = cluster_pb2.Controller.RegisterEndpointRequest(
        name=_checked_name(name),
        address=check_text("address", address, empty=False, accepted="an address as text, such as 'host:port'"),
        job_id=job_id if job_id == "" else check_job_id(job_id),
        metadata={} if metadata is None else check_text_mapping("metadata", metadata, none="no metadata"),
    )
    answer: cluster_pb2.Controller.RegisterEndpointResponse = yield Call("register_endpoint", request)
    return answer.endpoint_id


def unregister_endpoint(endpoint_id: str) -> Operation[None]:
    """Remove an endpoint."""
    request = cluster_pb2.Controller.UnregisterEndpointRequest(
        endpoint_id=check_text("endpoint_id", endpoint_id, empty=False)
    )
    yield Call("unregister_endpoint", request)


def lookup_endpoint(name: str, *, timeout_s: float = math.inf) -> Operation[cluster_pb2.Controller.Endpoint]:
    """Return the endpoint with the given name. The shorter of `timeout_s` and the client's timeout applies."""
    request = cluster_pb2.Controller.LookupEndpointRequest(name=_checked_name(name))
    answer: cluster_pb2.Controller.LookupEndpointResponse = yield Call("lookup_endpoint", request, timeout_s)
    return answer.endpoint


def list_endpoints(prefix: str = "") -> Operation[list[cluster_pb2.Controller.Endpoint]]:
    """Return the endpoints whose names start with a prefix, sorted by name."""
    request = cluster_pb2.Controller.ListEndpointsRequest(prefix=check_text("prefix", prefix), page_size=PAGE_SIZE)
    endpoints: list[cluster_pb2.Controller.Endpoint] = []
    while True:
        answer: cluster_pb2.Controller.ListEndpointsResponse = yield Call("list_endpoints", request)
        endpoints += answer.endpoints
        if not answer.next_page_token:
            return endpoints
        request.page_token = answer.next_page_token


def _checked_name(name: str) -> str:
    check_name("endpoint", name)
    return name
