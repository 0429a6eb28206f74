"""Operations that read and sample the call stacks of tasks. `StackVerbs` documents the results."""

from __future__ import annotations

from collections.abc import Sequence

from iris.arguments import JobReference, check_flag, check_job_id, check_task_indices, check_whole_number
from iris.cluster.client.operations.steps import Call, Operation
from iris.rpc import cluster_pb2

MAX_SECONDS = 10  # The longest time that one call samples. A longer profile needs several calls.
MAX_RATE = 1000


def read_stacks(
    job_id: str | JobReference, task_indices: Sequence[int] | None = None, *, variables: bool = False
) -> Operation[cluster_pb2.ReadStacksResponse]:
    """Return the call stacks of all processes of a job's tasks."""
    request = cluster_pb2.Controller.ReadStacksRequest(
        job_id=check_job_id(job_id),
        task_indices=[] if task_indices is None else check_task_indices("task_indices", task_indices),
        with_variables=check_flag("variables", variables),
    )
    answer: cluster_pb2.ReadStacksResponse = yield Call("read_stacks", request)
    return answer


def sample_stacks(
    job_id: str | JobReference,
    task_indices: Sequence[int] | None = None,
    *,
    seconds: int = 1,
    rate: int = 0,
    idle: bool = False,
) -> Operation[cluster_pb2.SampleStacksResponse]:
    """Sample the call stacks of all processes of a job's tasks for some seconds, and return the number of samples with
    each stack.
    """
    request = cluster_pb2.Controller.SampleStacksRequest(
        job_id=check_job_id(job_id),
        task_indices=[] if task_indices is None else check_task_indices("task_indices", task_indices),
        seconds=check_whole_number("seconds", seconds, least=1, most=MAX_SECONDS),
        rate=check_whole_number("rate", rate, most=MAX_RATE),
        with_idle=check_flag("idle", idle),
    )
    answer: cluster_pb2.SampleStacksResponse = yield Call("sample_stacks", request, extra_s=float(seconds))
    return answer
