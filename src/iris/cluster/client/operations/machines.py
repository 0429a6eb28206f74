"""Operations about the engine, the workers and the machines. `MachineVerbs` documents the results."""

from __future__ import annotations

from collections.abc import Sequence

from iris.arguments import MAX_INT64, JobReference, check_job_id, check_names, check_task_indices, check_whole_number
from iris.cluster.client.operations.jobs import PAGE_SIZE
from iris.cluster.client.operations.steps import Call, Operation
from iris.errors import InvalidArgumentError, PermissionDeniedError, UnimplementedError
from iris.rpc import cluster_pb2

MOST_SERIES = 1000  # The largest number of tasks or workers whose usage the controller returns in one answer.
MAX_POINTS = 1000


def describe_cluster() -> Operation[cluster_pb2.Controller.DescribeClusterResponse]:
    """Return the cluster's engine, where its controller runs, and the name and role of this client."""
    try:
        answer: cluster_pb2.Controller.DescribeClusterResponse
        answer = yield Call("describe_cluster", cluster_pb2.Controller.DescribeClusterRequest())
        return answer
    except (UnimplementedError, PermissionDeniedError):
        return cluster_pb2.Controller.DescribeClusterResponse()


def check_cluster() -> Operation[cluster_pb2.Controller.CheckClusterResponse]:
    """Return the results of checks that the controller makes of itself, its engine and its workers."""
    answer: cluster_pb2.Controller.CheckClusterResponse
    answer = yield Call("check_cluster", cluster_pb2.Controller.CheckClusterRequest())
    return answer


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


def get_usage(
    job_id: str | JobReference = "",
    task_indices: Sequence[int] = (),
    *,
    worker_ids: Sequence[str] = (),
    since_ms: int = 0,
    until_ms: int = 0,
    max_points: int = 0,
) -> Operation[list[cluster_pb2.UsageSeries]]:
    """Return the resource usage over time of the tasks of a job, or of the tasks on workers. One call asks for up to
    `MOST_SERIES` tasks or workers.
    """
    request = cluster_pb2.Controller.GetUsageRequest(
        since_ms=check_whole_number("since_ms", since_ms, most=MAX_INT64),
        until_ms=check_whole_number("until_ms", until_ms, most=MAX_INT64),
        max_points=check_whole_number("max_points", max_points, most=MAX_POINTS),
    )
    workers = check_names("worker_ids", worker_ids, "'local-0'")
    if not workers:
        request.job_id = check_job_id(job_id)
    elif job_id or task_indices:
        raise InvalidArgumentError("worker_ids and job_id are mutually exclusive: make one call for each")
    indices = check_task_indices("task_indices", task_indices) if task_indices else []
    found: list[cluster_pb2.UsageSeries] = []
    for first in range(0, max(len(workers), len(indices), 1), MOST_SERIES):
        del request.worker_ids[:], request.task_indices[:]
        request.worker_ids.extend(workers[first : first + MOST_SERIES])
        request.task_indices.extend(indices[first : first + MOST_SERIES])
        answer: cluster_pb2.Controller.GetUsageResponse = yield Call("get_usage", request)
        found += answer.series
    return found
