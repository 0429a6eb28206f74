"""What may be submitted: checks a LaunchJobRequest, and makes the job of it. Pure.

What this controller cannot do is refused, never ignored.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from iris.arguments import MAX_INT32, MAX_INT64, check_whole_number
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.retry_pause import DEFAULT_PAUSE_MS, LONGEST_PAUSE_MS
from iris.cluster.controller.jobs.task import DEFAULT_RETRIES_FAILURE, DEFAULT_RETRIES_PREEMPTION, SUCCEEDED
from iris.cluster.controller.submission.quotas import check_sizes
from iris.cluster.engine.base import GangRequest, Placement, Resources
from iris.cluster.names import check_job_name, check_label, check_port_name
from iris.cluster.types import make_task_id, state_name
from iris.errors import FailedPreconditionError, InvalidArgumentError, quoted
from iris.rpc import cluster_pb2

MAX_REPLICAS = 10_000
_HASH = re.compile(r"[0-9a-f]{64}")

LaunchJobRequest = cluster_pb2.Controller.LaunchJobRequest

_PLACEMENTS = {
    cluster_pb2.PLACEMENT_UNSPECIFIED: Placement.ANY,
    cluster_pb2.PLACEMENT_SPREAD: Placement.SPREAD,
    cluster_pb2.PLACEMENT_TOGETHER: Placement.TOGETHER,
}


def check_launch(request: LaunchJobRequest) -> None:
    """Refuses a request that can never be taken.

    Raises:
        InvalidArgumentError: It asks for something that cannot be meant, or that is not supported.
        ResourceExhaustedError: It is too large.
    """
    check_job_name(request.name)
    check_sizes(request)
    _check_entrypoint(request)
    _check_numbers(request)
    _check_environment(request)
    _check_placement(request)
    _check_rendezvous(request)
    _check_supported(request)


def make_job(request: LaunchJobRequest, now_ms: int) -> Job:
    """The job that a request asks for, which `check_launch` has let pass."""
    return Job.new(
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
    )


def names_of(request: LaunchJobRequest) -> Iterator[str]:
    """Yield the names that a job may have, in the order in which they are tried.

    The first is the asked one. For a child job that an attempt submits, others follow without end: `train@1`,
    `train@1.2`, `train@1.3`. A user can give these names to other jobs; `is_passed_over` says which jobs do not count.

    Raises:
        InvalidArgumentError: The asked name is not valid.
    """
    name = request.name
    check_job_name(name)
    yield name
    if request.HasField("parent_attempt_id"):
        made = f"{name}@{request.parent_attempt_id}"
        yield made
        for number in itertools.count(2):
            yield f"{made}.{number}"


def is_passed_over(asked_name: str, request: LaunchJobRequest, known: LaunchJobRequest, parent: Job | None) -> bool:
    """Whether the next name is tried where a job already has a name, instead of refusing the request.

    Args:
        asked_name: The name that the request asked for.
        request: Submits the new job.
        known: Has submitted the job that has the name.
        parent: The parent of both; None where there is none.
    """
    if parent is None or not request.HasField("parent_attempt_id"):
        return False
    if (known.asked_name or known.name) != asked_name:
        return True  # made for a job that was asked for under another name, or a user's name that looks like a made one
    return request.parent_attempt_id > 0 and bool(why_orphaned(known, parent))


def why_orphaned(request: LaunchJobRequest, parent: Job) -> str:
    """Why a child job ends: the job, or the attempt, that submitted it has ended. Empty while it goes on."""
    if parent.is_finished:
        return f"its parent job {parent.job_id!r} has ended ({state_name(parent.state)})"
    if not request.HasField("parent_attempt_id"):
        return ""
    attempt = parent.tasks[request.parent_task_index].attempts[request.parent_attempt_id]
    if attempt.is_live or attempt.state == SUCCEEDED:
        return ""
    which = f"attempt {attempt.attempt_id} of {make_task_id(parent.job_id, request.parent_task_index)}"
    return f"{which}, which submitted it, has ended ({state_name(attempt.state)})"


def check_parent(request: LaunchJobRequest, parent: Job) -> None:
    """Refuses a child of a job, or of an attempt of it, that has ended.

    Raises:
        FailedPreconditionError: It has.
        InvalidArgumentError: There is no such attempt.
    """
    if parent.is_finished or parent.ending is not None:
        raise FailedPreconditionError(f"parent job {parent.job_id!r} has ended: it can have no more jobs")
    if request.HasField("parent_attempt_id"):
        index, attempt_id = request.parent_task_index, request.parent_attempt_id
        attempts = parent.tasks[index].attempts if 0 <= index < len(parent.tasks) else []
        which = f"attempt {attempt_id} of {make_task_id(parent.job_id, index)}"
        if not 0 <= attempt_id < len(attempts):
            raise InvalidArgumentError(f"there is no {which}: a child job names the attempt that submits it")
        if not attempts[attempt_id].is_live:
            raise FailedPreconditionError(f"{which} has ended: it can have no more jobs")


def job_id_of(request: LaunchJobRequest) -> str:
    """The id that the job will have: its name, below its parent's id where it has a parent."""
    return f"{request.parent_job_id}/{request.name}" if request.parent_job_id else request.name


def replicas_of(request: LaunchJobRequest) -> int:
    """How many tasks it has."""
    return request.resources.replicas or 1


def need_of(request: LaunchJobRequest) -> Resources:
    """What each of its tasks needs."""
    resources = request.resources
    gpu = max(resources.device.gpu.count, 1) if resources.device.HasField("gpu") else 0
    return Resources(cpu=resources.cpu, memory_bytes=resources.memory_bytes, gpu=gpu)


def gang_of(request: LaunchJobRequest, gang_id: str, slots: int) -> GangRequest:
    """The room that so many of its tasks need together."""
    labels = tuple(sorted({(constraint.key, constraint.value.string_value) for constraint in request.constraints}))
    return GangRequest(gang_id, slots, need_of(request), _PLACEMENTS[request.placement], labels)


def _check_entrypoint(request: LaunchJobRequest) -> None:
    if bool(request.command) == bool(request.serialized_entrypoint):
        raise InvalidArgumentError(
            "a job needs either a command or a callable: set one of command, serialized_entrypoint"
        )
    if request.command and not request.command[0]:
        raise InvalidArgumentError("a command must not be empty")
    for word in request.command:
        if "\0" in word:
            raise InvalidArgumentError(f"not a word of a command: {quoted(word)} contains NUL")


def _check_numbers(request: LaunchJobRequest) -> None:
    check_whole_number("replicas", replicas_of(request), least=1, most=MAX_REPLICAS)
    for name, value in (
        ("cpu", request.resources.cpu),
        ("memory_bytes", request.resources.memory_bytes),
        ("gpu count", request.resources.device.gpu.count),
        ("scheduling_timeout_seconds", request.scheduling_timeout_seconds),
        ("timeout_seconds", request.timeout_seconds),
        ("job_timeout_seconds", request.job_timeout_seconds),
        ("max_log_bytes", request.max_log_bytes),
        ("max_task_failures", request.max_task_failures),
        ("max_retries_failure", request.max_retries_failure),
        ("max_retries_preemption", request.max_retries_preemption),
        ("kill_grace_period_ms", request.kill_grace_period_ms),
    ):
        check_whole_number(name, value, most=MAX_INT64 if name.endswith("_bytes") else MAX_INT32)
    check_whole_number("retry_pause_ms", request.retry_pause_ms, most=LONGEST_PAUSE_MS)


def _check_environment(request: LaunchJobRequest) -> None:
    for name, value in request.environment.env_vars.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidArgumentError(f"not an environment variable: {quoted(name)} (no '=' in a name, no NUL)")
    if request.stdin and replicas_of(request) > 1:
        raise InvalidArgumentError(
            f"standard input goes to one task: replicas must be 1 with stdin, got {request.resources.replicas}"
        )
    umask = request.environment.umask
    if not 0 <= umask <= 0o777:
        raise InvalidArgumentError(f"umask must be 0 to 0777 (octal), got {oct(umask)}")
    seen: set[str] = set()
    for port in request.ports:
        check_port_name(port)
        if port.lower() in seen:
            raise InvalidArgumentError(f"port {port!r} is asked for twice (upper and lower case are the same)")
        seen.add(port.lower())
    if request.bundle_hash and not _HASH.fullmatch(request.bundle_hash):
        raise InvalidArgumentError(
            f"not a bundle hash: {quoted(request.bundle_hash)} (expected SHA-256 in lower-case hex)"
        )
    if request.bundle_blob and not request.bundle_hash:
        raise InvalidArgumentError("bundle_blob needs its bundle_hash")
    if request.working_directory:
        if request.bundle_hash:
            raise InvalidArgumentError("a job with a workspace runs in its copy of it: do not set working_directory")
        if not request.working_directory.startswith("/") or "\0" in request.working_directory:
            raise InvalidArgumentError(
                f"working_directory={quoted(request.working_directory)}: expected an absolute path, without NUL"
            )


def _check_placement(request: LaunchJobRequest) -> None:
    if request.placement not in _PLACEMENTS:
        raise InvalidArgumentError(f"placement={request.placement}: expected PLACEMENT_SPREAD or PLACEMENT_TOGETHER")
    if request.placement and request.independent_tasks:
        raise InvalidArgumentError(
            "independent tasks are placed one by one: a placement (spread, together) needs tasks that start together"
        )
    for constraint in request.constraints:
        if constraint.op != cluster_pb2.CONSTRAINT_OP_EQ or constraint.value.WhichOneof("value") != "string_value":
            raise InvalidArgumentError(
                f"the constraint on {quoted(constraint.key)} is not supported by this controller: expected"
                " CONSTRAINT_OP_EQ and a string_value"
            )
        check_label(constraint.key, constraint.value.string_value)
    values = {constraint.key: constraint.value.string_value for constraint in request.constraints}
    for constraint in request.constraints:
        if values[constraint.key] != constraint.value.string_value:
            raise InvalidArgumentError(
                f"no machine has two values of {quoted(constraint.key)}: {quoted(constraint.value.string_value)} and"
                f" {quoted(values[constraint.key])}"
            )


def _check_rendezvous(request: LaunchJobRequest) -> None:
    if not request.rendezvous:
        return
    if request.rendezvous not in (cluster_pb2.RENDEZVOUS_TORCH, cluster_pb2.RENDEZVOUS_JAX):
        raise InvalidArgumentError(f"rendezvous={request.rendezvous}: expected RENDEZVOUS_TORCH or RENDEZVOUS_JAX")
    if request.independent_tasks:
        raise InvalidArgumentError("independent tasks never meet: a rendezvous needs tasks that start together")
    if request.max_task_failures:
        raise InvalidArgumentError(
            f"max_task_failures={request.max_task_failures}: a rendezvous needs all of its tasks, so none may fail for"
            " good; max_retries_failure lets all of them start again"
        )


def _check_supported(request: LaunchJobRequest) -> None:
    environment, resources = request.environment, request.resources
    unsupported = {
        "pip_packages": bool(environment.pip_packages),
        "extras": bool(environment.extras),
        "coscheduling.group_by": bool(request.coscheduling.group_by),
        "bundle_gcs_path": bool(request.bundle_gcs_path),
        "regions": bool(resources.regions),
        "disk_bytes": bool(resources.disk_bytes),
        "tpu": resources.device.HasField("tpu"),
        "cpu variant": bool(resources.device.cpu.variant),
        "gpu variant": bool(resources.device.gpu.variant),
    }
    asked_for = [name for name, asked in unsupported.items() if asked]
    if asked_for:
        raise InvalidArgumentError(f"not supported by this controller: {', '.join(asked_for)}")
