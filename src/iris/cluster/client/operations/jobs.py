"""Operations about jobs and their tasks. `JobVerbs` documents the arguments, results and errors."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable, Sequence

from iris.arguments import (
    MAX_INT32,
    JobReference,
    check_flag,
    check_instance,
    check_items,
    check_job_id,
    check_names,
    check_task_index,
    check_text,
    check_timeout,
    check_whole_number,
)
from iris.cluster.client.operations.steps import Call, Operation
from iris.cluster.states import JobState
from iris.errors import FailedPreconditionError, InvalidArgumentError, UnimplementedError
from iris.rpc import cluster_pb2
from iris.tracing.context import current_context
from iris.versions import VERSION

# A workspace of more than `_OFFERED_BYTES` is first offered by its hash, because the controller may already have it.
_OFFERED_BYTES = 64 * 1024
_SLOWEST_UPLOAD_BYTES_PER_S = 1024 * 1024
_SHORTEST_TIMEOUT_S = 0.001
# The fields of a submission that an old controller would ignore without an error.
_NEW_FIELDS = ("max_parallel", "num_inputs")
# The largest number of entries in one page of a list.
PAGE_SIZE = 500


def launch_job(request: cluster_pb2.Controller.LaunchJobRequest) -> Operation[str]:
    """Submit a job and return its id."""
    check_instance("request", request, cluster_pb2.Controller.LaunchJobRequest)
    if not (request.traceparent or request.tracestate):
        _add_trace(request)
    yield from _check_release(request)
    blob = request.bundle_blob
    if len(blob) > _OFFERED_BYTES:
        request.ClearField("bundle_blob")
        try:
            return (yield from _launch(request))
        except FailedPreconditionError:
            request.bundle_blob = blob
    return (yield from _launch(request))


def _add_trace(request: cluster_pb2.Controller.LaunchJobRequest) -> None:
    """Add the trace context of this program to a submission, if the program has one."""
    context = current_context()
    request.traceparent = "" if context is None else context.parent
    request.tracestate = "" if context is None else context.state


def _check_release(request: cluster_pb2.Controller.LaunchJobRequest) -> Operation[None]:
    """Refuse a job if its request has fields that the controller's release does not know. The controller would ignore
    these fields without an error.

    Raises:
        UnimplementedError: The controller has an older release of Iris.
    """
    needed = [name for name in _NEW_FIELDS if getattr(request, name)]
    if request.resources.HasField("cpu_millicores"):
        needed.append("a fraction of a core as cpu")
    if not needed:
        return
    answer: cluster_pb2.Controller.DescribeClusterResponse
    answer = yield Call("describe_cluster", cluster_pb2.Controller.DescribeClusterRequest())
    if not answer.version:
        raise UnimplementedError(
            f"the controller has an older release of Iris that does not know {' and '.join(needed)}: install Iris"
            f" {VERSION} or later there, or submit the job without these options"
        )


def _launch(request: cluster_pb2.Controller.LaunchJobRequest) -> Operation[str]:
    size = len(request.bundle_blob) + len(request.serialized_entrypoint) + len(request.inputs_blob)
    answer: cluster_pb2.Controller.LaunchJobResponse
    answer = yield Call("launch_job", request, extra_s=size / _SLOWEST_UPLOAD_BYTES_PER_S)
    return answer.job_id


def get_submission(job_id: str | JobReference) -> Operation[cluster_pb2.Controller.GetSubmissionResponse]:
    """Return how a job was submitted."""
    request = cluster_pb2.Controller.GetSubmissionRequest(job_id=check_job_id(job_id))
    answer: cluster_pb2.Controller.GetSubmissionResponse = yield Call("get_submission", request)
    return answer


def resubmit_job(
    job_id: str | JobReference,
    submission: cluster_pb2.Controller.LaunchJobRequest,
    *,
    kept_variables: Sequence[str] = (),
) -> Operation[str]:
    """Submit a job again, and return the id of the new job."""
    check_instance("submission", submission, cluster_pb2.Controller.LaunchJobRequest)
    _add_trace(submission)  # The new job does not continue the trace of the earlier job, because that trace has ended.
    request = cluster_pb2.Controller.ResubmitJobRequest(
        job_id=check_job_id(job_id),
        submission=submission,
        kept_variables=check_names("kept_variables", kept_variables, "['HOME']"),
    )
    answer: cluster_pb2.Controller.LaunchJobResponse = yield Call("resubmit_job", request)
    return answer.job_id


def get_job_status(
    job_id: str | JobReference, *, include_result: bool = False, without_tasks: bool = False, timeout_s: float
) -> Operation[cluster_pb2.JobStatus]:
    """Return the status of a job, with all its tasks unless `without_tasks` is set.

    Args:
        job_id: The job.
        include_result: Whether to include the result of the job's only task.
        without_tasks: Whether to leave out the tasks.
        timeout_s: The timeout in seconds for all calls together.
    """
    request = cluster_pb2.Controller.GetJobStatusRequest(
        job_id=check_job_id(job_id),
        include_result=check_flag("include_result", include_result),
        without_tasks=check_flag("without_tasks", without_tasks),
    )
    end = time.monotonic() + check_timeout("timeout_s", timeout_s)
    answer: cluster_pb2.Controller.GetJobStatusResponse
    answer = yield Call("get_job_status", request, max(_SHORTEST_TIMEOUT_S, end - time.monotonic()))
    if request.without_tasks:
        del answer.job.tasks[:]  # A server of an earlier release sends the tasks anyway, so they are removed here.
    elif answer.next_page_token:
        left_s = max(_SHORTEST_TIMEOUT_S, end - time.monotonic())
        rest = yield from _list_tasks(request.job_id, answer.next_page_token, left_s)
        answer.job.tasks.extend(rest)
    return answer.job


def terminate_job(job_id: str | JobReference) -> Operation[None]:
    """Request the termination of a job."""
    yield Call("terminate_job", cluster_pb2.Controller.TerminateJobRequest(job_id=check_job_id(job_id)))


def terminate_task(job_id: str | JobReference, task_index: int) -> Operation[None]:
    """Request the termination of one task."""
    request = cluster_pb2.Controller.TerminateTaskRequest(
        job_id=check_job_id(job_id), task_index=check_task_index(task_index)
    )
    yield Call("terminate_task", request)


def forget_job(job_id: str | JobReference) -> Operation[list[str]]:
    """Remove a job that has ended, and return the ids of the removed jobs."""
    # If the answer is lost, the call is sent again with the same request id, and the controller repeats its answer.
    request = cluster_pb2.Controller.ForgetJobRequest(job_id=check_job_id(job_id), request_id=secrets.token_hex(8))
    answer: cluster_pb2.Controller.ForgetJobResponse = yield Call("forget_job", request)
    return list(answer.job_ids)


def list_jobs(
    *,
    id_prefix: str = "",
    id_contains: str = "",
    states: Iterable[JobState | str | int] = (),
    owner: str = "",
    since_ms: int = 0,
    until_ms: int = 0,
    newest_first: bool = False,
    limit: int | None = None,
) -> Operation[list[cluster_pb2.JobStatus]]:
    """Return the jobs that meet all given conditions, without their tasks."""
    request = list_request(id_prefix, id_contains, states, owner, since_ms, until_ms)
    request.newest_first = check_flag("newest_first", newest_first)
    left = MAX_INT32
    if limit is not None:
        left = check_whole_number("limit", limit, least=1, most=MAX_INT32, none="all jobs")
    jobs: list[cluster_pb2.JobStatus] = []
    while True:
        request.page_size = min(PAGE_SIZE, left)
        answer: cluster_pb2.Controller.ListJobsResponse = yield Call("list_jobs", request)
        jobs += answer.jobs
        left -= len(answer.jobs)
        if not answer.next_page_token or left <= 0:
            return jobs
        request.page_token = answer.next_page_token


def count_jobs(
    *,
    id_prefix: str = "",
    id_contains: str = "",
    states: Iterable[JobState | str | int] = (),
    owner: str = "",
    since_ms: int = 0,
    until_ms: int = 0,
) -> Operation[tuple[int, int]]:
    """Return how many unfinished and how many ended jobs meet all given conditions."""
    request = list_request(id_prefix, id_contains, states, owner, since_ms, until_ms)
    request.page_size, request.include_counts = 1, True
    answer: cluster_pb2.Controller.ListJobsResponse = yield Call("list_jobs", request)
    return answer.num_unfinished, answer.num_ended


def list_request(
    id_prefix: str, id_contains: str, states: Iterable[JobState | str | int], owner: str, since_ms: int, until_ms: int
) -> cluster_pb2.Controller.ListJobsRequest:
    """Check the conditions for jobs, and return the request that lists the jobs."""
    wanted = [JobState(state) for state in check_items("states", states, "states, for example ['RUNNING']")]
    if JobState.UNSPECIFIED in wanted:
        raise InvalidArgumentError("states must name states that a job can have, for example RUNNING, got UNSPECIFIED")
    return cluster_pb2.Controller.ListJobsRequest(
        id_prefix=check_text("id_prefix", id_prefix),
        id_contains=check_text("id_contains", id_contains),
        states=[state.number for state in wanted],  # type: ignore[misc]  # the numbers are the same
        owner=check_text("owner", owner),
        since_ms=check_whole_number("since_ms", since_ms),
        until_ms=check_whole_number("until_ms", until_ms),
    )


def get_task_status(
    job_id: str | JobReference, task_index: int, *, include_result: bool = False, timeout_s: float = math.inf
) -> Operation[cluster_pb2.TaskStatus]:
    """Return the status of a task, with all its attempts."""
    request = cluster_pb2.Controller.GetTaskStatusRequest(
        job_id=check_job_id(job_id),
        task_index=check_task_index(task_index),
        include_result=check_flag("include_result", include_result),
    )
    answer: cluster_pb2.Controller.GetTaskStatusResponse
    answer = yield Call("get_task_status", request, check_timeout("timeout_s", timeout_s))
    return answer.task


def list_tasks(job_id: str | JobReference, *, timeout_s: float = math.inf) -> Operation[list[cluster_pb2.TaskStatus]]:
    """Return the tasks of a job, in index order."""
    return (yield from _list_tasks(check_job_id(job_id), "", check_timeout("timeout_s", timeout_s)))


def _list_tasks(job_id: str, page_token: str, timeout_s: float) -> Operation[list[cluster_pb2.TaskStatus]]:
    request = cluster_pb2.Controller.ListTasksRequest(job_id=job_id, page_size=PAGE_SIZE, page_token=page_token)
    tasks: list[cluster_pb2.TaskStatus] = []
    end = time.monotonic() + timeout_s
    while True:
        answer: cluster_pb2.Controller.ListTasksResponse
        answer = yield Call("list_tasks", request, end - time.monotonic())
        tasks += answer.tasks
        if not answer.next_page_token:
            return tasks
        request.page_token = answer.next_page_token


def write_stdin(
    job_id: str | JobReference, data: bytes, *, position: int, attempt_id: int | None = None, end: bool = False
) -> Operation[cluster_pb2.Controller.WriteStdinResponse]:
    """Send standard input to the only task of a job that was submitted with `stdin`."""
    request = cluster_pb2.Controller.WriteStdinRequest(
        job_id=check_job_id(job_id),
        position=check_whole_number("position", position),
        data=check_instance("data", data, bytes),
        end=check_flag("end", end),
    )
    if attempt_id is not None:
        request.attempt_id = check_whole_number("attempt_id", attempt_id, most=MAX_INT32, none="the newest attempt")
    answer: cluster_pb2.Controller.WriteStdinResponse = yield Call("write_stdin", request)
    return answer
