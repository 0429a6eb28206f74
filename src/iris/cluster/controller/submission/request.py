"""Derives the job, and the resources of its tasks, from a valid submission. The module is pure."""

from __future__ import annotations

from iris.cluster.amounts import counts_a_core
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_state import Condition
from iris.cluster.controller.jobs.retry_pause import DEFAULT_PAUSE_MS
from iris.cluster.controller.jobs.retry_rules import DEFAULT_RETRIES_FAILURE, DEFAULT_RETRIES_PREEMPTION
from iris.cluster.engine.base import GangRequest, Placement, Resources
from iris.cores import MILLICORES
from iris.rpc import cluster_pb2

LaunchJobRequest = cluster_pb2.Controller.LaunchJobRequest

PLACEMENTS = {
    cluster_pb2.PLACEMENT_UNSPECIFIED: Placement.ANY,
    cluster_pb2.PLACEMENT_SPREAD: Placement.SPREAD,
    cluster_pb2.PLACEMENT_TOGETHER: Placement.TOGETHER,
}


def job_id_of(request: LaunchJobRequest) -> str:
    """Return the id that a submitted job will have. The id consists of the parent's id, if the job has a parent, and
    the job's name.
    """
    return f"{request.parent_job_id}/{request.name}" if request.parent_job_id else request.name


def make_job(request: LaunchJobRequest, now_ms: int) -> Job:
    """Return the job that a valid submission describes."""
    job = Job.new(
        job_id_of(request),
        replicas_of(request),
        now_ms,
        coscheduled=not request.independent_tasks,
        max_task_failures=request.max_task_failures,
        max_retries_failure=(
            request.max_retries_failure if request.HasField("max_retries_failure") else DEFAULT_RETRIES_FAILURE
        ),
        max_retries_preemption=(
            request.max_retries_preemption if request.HasField("max_retries_preemption") else DEFAULT_RETRIES_PREEMPTION
        ),
        retry_pause_ms=request.retry_pause_ms if request.HasField("retry_pause_ms") else DEFAULT_PAUSE_MS,
        parent_job_id=request.parent_job_id,
        rendezvous=bool(request.rendezvous),
        max_parallel=request.max_parallel,
    )
    job.waits_for = {one.job_id: condition_of(one) for one in request.after}
    job.retry_on, job.fail_on = list(request.retry_on), list(request.fail_on)
    job.counts_a_core = counts_a_core(request)
    return job


def condition_of(dependency: cluster_pb2.JobDependency) -> Condition:
    """Return the condition of a dependency."""
    is_any = dependency.condition == cluster_pb2.DEPENDENCY_CONDITION_ENDED
    return Condition.ENDED if is_any else Condition.SUCCEEDED


def replicas_of(request: LaunchJobRequest) -> int:
    """Return the number of tasks of a submitted job."""
    return request.resources.replicas or 1


def need_of(request: LaunchJobRequest) -> Resources:
    """Return the resources that each task needs."""
    resources = request.resources
    gpu = max(resources.device.gpu.count, 1) if resources.device.HasField("gpu") else 0
    if counts_a_core(request):
        return Resources(MILLICORES)
    if resources.HasField("cpu_millicores"):
        return Resources(resources.cpu_millicores, resources.memory_bytes, gpu)
    return Resources.of(resources.cpu, resources.memory_bytes, gpu)


def gang_of(request: LaunchJobRequest, gang_id: str, slots: int) -> GangRequest:
    """Return the request to the engine for a gang with the given number of slots."""
    labels = tuple(sorted({(constraint.key, constraint.value.string_value) for constraint in request.constraints}))
    return GangRequest(gang_id, slots, need_of(request), PLACEMENTS[request.placement], labels)
