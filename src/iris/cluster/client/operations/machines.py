"""Operations about the engine, the workers and the machines. `MachineVerbs` documents the results."""

from __future__ import annotations

from iris.cluster.client.operations.jobs import PAGE_SIZE
from iris.cluster.client.operations.steps import Call, Operation
from iris.errors import PermissionDeniedError, UnimplementedError
from iris.rpc import cluster_pb2


def describe_cluster() -> Operation[cluster_pb2.Controller.DescribeClusterResponse]:
    """Return the cluster's engine, where its controller runs, and the name and role of this client."""
    try:
        answer: cluster_pb2.Controller.DescribeClusterResponse
        answer = yield Call("describe_cluster", cluster_pb2.Controller.DescribeClusterRequest())
        return answer
    except (UnimplementedError, PermissionDeniedError):
        return cluster_pb2.Controller.DescribeClusterResponse()


def list_workers() -> Operation[list[cluster_pb2.Controller.WorkerHealthStatus]]:
    """Return the workers and their health, sorted by worker id."""
    request = cluster_pb2.Controller.ListWorkersRequest(page_size=PAGE_SIZE)
    workers: list[cluster_pb2.Controller.WorkerHealthStatus] = []
    while True:
        answer: cluster_pb2.Controller.ListWorkersResponse = yield Call("list_workers", request)
        workers += answer.workers
        if not answer.next_page_token:
            return workers
        request.page_token = answer.next_page_token


def list_machines() -> Operation[cluster_pb2.Controller.ListMachinesResponse]:
    """Return the machines of the cluster, the tasks on them, and the queued gangs."""
    request = cluster_pb2.Controller.ListMachinesRequest(page_size=PAGE_SIZE)
    found: cluster_pb2.Controller.ListMachinesResponse = yield Call("list_machines", request)
    request.page_token = found.next_page_token
    while request.page_token:
        answer: cluster_pb2.Controller.ListMachinesResponse = yield Call("list_machines", request)
        found.machines.extend(answer.machines)
        request.page_token = answer.next_page_token
    found.ClearField("next_page_token")
    return found
