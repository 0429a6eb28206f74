"""Validates a submission without looking at the state of the cluster. The module is pure.

If a submission asks for something that this controller does not support, the submission is refused. An unsupported
field is never ignored.
"""

from __future__ import annotations

import hashlib
import re

from iris.arguments import MAX_INT32, MAX_INT64, check_whole_number
from iris.cluster.controller.jobs.job_state import Condition
from iris.cluster.controller.jobs.retry_pause import LONGEST_PAUSE_MS
from iris.cluster.controller.submission.request import (
    PLACEMENTS,
    LaunchJobRequest,
    condition_of,
    job_id_of,
    replicas_of,
)
from iris.cluster.controller.submission.sizes import MAX_WORD_BYTES, check_sizes
from iris.cluster.files.output_pack import check_directories
from iris.cluster.memory_profile import check_profile_memory
from iris.cluster.names import check_job_name, check_label, check_port_name
from iris.cluster.task_inputs import check_items, items_of
from iris.cluster.types import MAX_EXIT_CODE
from iris.cores import MILLICORES
from iris.errors import InvalidArgumentError, quoted
from iris.rpc import cluster_pb2
from iris.tracing.context import MAX_STATE, parse_context

MAX_REPLICAS = 10_000
MAX_DEPENDENCIES = 1000
_HASH = re.compile(r"[0-9a-f]{64}")


def validate(request: LaunchJobRequest) -> None:
    """Refuse a submission with invalid, unsupported or too large fields. The output directories in an accepted
    submission are replaced by their normal form.

    Raises:
        InvalidArgumentError: A field is invalid, or asks for something that is not supported.
        ResourceExhaustedError: A part of the submission is too large.
    """
    check_job_name(request.name)
    check_sizes(request)
    _check_entrypoint(request)
    _check_numbers(request)
    _check_exit_codes(request)
    _check_environment(request)
    request.outputs[:] = check_directories(request.outputs)
    check_profile_memory(request)
    _check_placement(request)
    _check_rendezvous(request)
    _check_inputs(request)
    _check_dependencies(request)
    _check_seen_indices(request)
    _check_trace(request)
    _check_supported(request)


def _check_entrypoint(request: LaunchJobRequest) -> None:
    if bool(request.command) == bool(request.serialized_entrypoint):
        raise InvalidArgumentError(
            "a job needs either a command or a callable: set exactly one of command and serialized_entrypoint"
        )
    if request.command and not request.command[0]:
        raise InvalidArgumentError("the first word of a command must not be empty")
    for word in request.command:
        if "\0" in word:
            raise InvalidArgumentError(f"a word of a command must not contain NUL, got {quoted(word)}")


def _check_numbers(request: LaunchJobRequest) -> None:
    check_whole_number("replicas", replicas_of(request), least=1, most=MAX_REPLICAS)
    for name, value in (
        ("cpu", request.resources.cpu),
        ("max_parallel", request.max_parallel),
        ("memory_bytes", request.resources.memory_bytes),
        ("gpu count", request.resources.device.gpu.count),
        ("scheduling_timeout_seconds", request.scheduling_timeout_seconds),
        ("timeout_seconds", request.timeout_seconds),
        ("job_timeout_seconds", request.job_timeout_seconds),
        ("timeout_warning_seconds", request.timeout_warning_seconds),
        ("watch_hang_seconds", request.watch_hang_seconds),
        ("max_log_bytes", request.max_log_bytes),
        ("max_task_failures", request.max_task_failures),
        ("max_retries_failure", request.max_retries_failure),
        ("max_retries_preemption", request.max_retries_preemption),
        ("kill_grace_period_ms", request.kill_grace_period_ms),
    ):
        check_whole_number(name, value, most=MAX_INT64 if name.endswith("_bytes") else MAX_INT32)
    check_whole_number("cpu_millicores", request.resources.cpu_millicores, most=MAX_INT32 * MILLICORES)
    check_whole_number("retry_pause_ms", request.retry_pause_ms, most=LONGEST_PAUSE_MS)

    warning_s = request.timeout_warning_seconds
    for name, limit_s in (
        ("timeout_seconds", request.timeout_seconds),
        ("job_timeout_seconds", request.job_timeout_seconds),
    ):
        if limit_s and warning_s >= limit_s:
            raise InvalidArgumentError(
                f"timeout_warning_seconds must be less than {name}, which is {limit_s}, got {warning_s}"
            )


def _check_exit_codes(request: LaunchJobRequest) -> None:
    for name, codes in (("retry_on", request.retry_on), ("fail_on", request.fail_on)):
        if len(codes) > MAX_EXIT_CODE:
            raise InvalidArgumentError(f"{name} must have at most {MAX_EXIT_CODE} exit codes, got {len(codes):,}")
        for code in codes:
            check_whole_number(f"an exit code in {name}", code, least=1, most=MAX_EXIT_CODE)
        if codes and not request.max_retries_failure:
            raise InvalidArgumentError(
                f"{name} needs max_retries_failure of 1 or more: without retries, no exit code leads to a retry"
            )
    both = sorted(set(request.retry_on) & set(request.fail_on))
    if both:
        raise InvalidArgumentError(f"retry_on and fail_on must have no exit code in common, got {both[0]} in both")


def _check_environment(request: LaunchJobRequest) -> None:
    for name, value in request.environment.env_vars.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidArgumentError(
                f"invalid environment variable {quoted(name)}: a name must not be empty, or contain '='; neither a name"
                " nor a value may contain NUL"
            )
    if request.stdin and replicas_of(request) > 1:
        raise InvalidArgumentError(
            f"replicas must be 1 for a job with standard input, got {request.resources.replicas}"
        )
    umask = request.environment.umask
    if not 0 <= umask <= 0o777:
        raise InvalidArgumentError(f"umask must be 0 to 0777 (octal), got {oct(umask)}")
    seen: set[str] = set()
    for port in request.ports:
        check_port_name(port)
        if port.lower() in seen:
            raise InvalidArgumentError(f"port names must differ by more than upper and lower case, got {port!r} twice")
        seen.add(port.lower())
    if request.bundle_hash and not _HASH.fullmatch(request.bundle_hash):
        raise InvalidArgumentError(
            f"bundle_hash must be a SHA-256 in lower-case hex, got {quoted(request.bundle_hash)}"
        )
    if request.bundle_blob and not request.bundle_hash:
        raise InvalidArgumentError("bundle_hash must be set if bundle_blob is set")
    if request.working_directory:
        if request.bundle_hash:
            raise InvalidArgumentError(
                "workspace and working_directory are mutually exclusive: a job with a workspace runs in its own copy"
            )
        if not request.working_directory.startswith("/") or "\0" in request.working_directory:
            raise InvalidArgumentError(
                f"working_directory must be an absolute path without NUL, got {quoted(request.working_directory)}"
            )


def _check_placement(request: LaunchJobRequest) -> None:
    if request.placement not in PLACEMENTS:
        raise InvalidArgumentError(f"placement must be PLACEMENT_SPREAD or PLACEMENT_TOGETHER, got {request.placement}")
    if request.placement and request.independent_tasks:
        raise InvalidArgumentError(
            "independent_tasks and placement are mutually exclusive, because independent tasks do not start together"
        )
    if request.max_parallel and not request.independent_tasks:
        raise InvalidArgumentError(
            "max_parallel needs independent_tasks, because the tasks of a gang start together: pass coscheduled=False"
            f" (iris run --independent), got max_parallel {request.max_parallel} for a gang"
        )
    for constraint in request.constraints:
        if constraint.op != cluster_pb2.CONSTRAINT_OP_EQ or constraint.value.WhichOneof("value") != "string_value":
            raise InvalidArgumentError(
                f"the constraint on {quoted(constraint.key)} is not supported: expected CONSTRAINT_OP_EQ and a"
                " string_value"
            )
        check_label(constraint.key, constraint.value.string_value)
    values = {constraint.key: constraint.value.string_value for constraint in request.constraints}
    for constraint in request.constraints:
        if values[constraint.key] != constraint.value.string_value:
            raise InvalidArgumentError(
                f"a machine has only one value of the label {quoted(constraint.key)}, but the constraints ask for"
                f" {quoted(constraint.value.string_value)} and {quoted(values[constraint.key])}"
            )


def _check_inputs(request: LaunchJobRequest) -> None:
    """Check the fields about inputs. When a job is submitted again, the request has only the hash of its inputs,
    because the controller has stored the inputs. `check_input_items` checks the stored inputs later.
    """
    blob, inputs_hash = request.inputs_blob, request.inputs_hash
    if not blob and not inputs_hash:
        if request.num_inputs:
            raise InvalidArgumentError("inputs_blob must be set if num_inputs is set")
        return
    if not request.independent_tasks:
        name = "inputs_blob" if blob else "inputs_hash"
        raise InvalidArgumentError(f"{name} needs independent_tasks, because each task works on its own inputs")
    if blob:
        if hashlib.sha256(blob).hexdigest() != inputs_hash:
            raise InvalidArgumentError(f"inputs_hash {quoted(inputs_hash)} is not the SHA-256 of inputs_blob")
        check_input_items(request)
    elif not _HASH.fullmatch(inputs_hash):
        raise InvalidArgumentError(f"inputs_hash must be a SHA-256 in lower-case hex, got {quoted(inputs_hash)}")


def check_input_items(request: LaunchJobRequest) -> None:
    """Check that `inputs_blob` has one item of inputs for each task, and matches the other fields about inputs. A job
    that repeats only some tasks of an earlier job has the inputs of all tasks of the earlier job.

    Raises:
        InvalidArgumentError: The inputs do not match the other fields.
    """
    count, tasks = check_items(request.inputs_blob), request.seen_num_tasks or replicas_of(request)
    if count != tasks:
        raise InvalidArgumentError(f"inputs_blob must have an item for each of {tasks} tasks, got {count}")
    if request.command:
        _check_texts(request.inputs_blob)
    per_task = check_whole_number("inputs_per_task", request.inputs_per_task, least=1, most=MAX_INT32)
    if -(-request.num_inputs // per_task) != count:
        raise InvalidArgumentError(
            f"num_inputs must match the {count} tasks with up to {per_task} inputs each, got {request.num_inputs}"
        )


def _check_texts(blob: bytes) -> None:
    for item in items_of(blob):
        try:
            text = item.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text or len(item) > MAX_WORD_BYTES:
            raise InvalidArgumentError(
                f"the input of a command must be text of up to {MAX_WORD_BYTES} bytes without NUL, got {quoted(item)}"
            )


def _check_rendezvous(request: LaunchJobRequest) -> None:
    if not request.rendezvous:
        return
    if request.rendezvous not in (cluster_pb2.RENDEZVOUS_TORCH, cluster_pb2.RENDEZVOUS_JAX):
        raise InvalidArgumentError(f"rendezvous must be RENDEZVOUS_TORCH or RENDEZVOUS_JAX, got {request.rendezvous}")
    if request.independent_tasks:
        raise InvalidArgumentError(
            "independent_tasks and rendezvous are mutually exclusive, because independent tasks do not start together"
        )
    if request.max_task_failures:
        raise InvalidArgumentError(
            f"max_task_failures must be 0 for a job with a rendezvous, which needs all tasks,"
            f" got {request.max_task_failures}."
            " To start all tasks again after a failure, set max_retries_failure"
        )


def _check_dependencies(request: LaunchJobRequest) -> None:
    if len(request.after) > MAX_DEPENDENCIES:
        raise InvalidArgumentError(
            f"a job can wait for up to {MAX_DEPENDENCIES:,} jobs, got {len(request.after):,}: start it from the last of"
            " a chain of jobs instead"
        )
    seen: dict[str, Condition] = {}
    for one in request.after:
        if one.condition not in cluster_pb2.DependencyCondition.values():
            raise InvalidArgumentError(
                "the condition of a dependency must be DEPENDENCY_CONDITION_SUCCEEDED or DEPENDENCY_CONDITION_ENDED,"
                f" got {one.condition}"
            )
        if not one.job_id:
            raise InvalidArgumentError("each job_id in 'after' must be the id of a job, got an empty string")
        condition = condition_of(one)
        if seen.setdefault(one.job_id, condition) != condition:
            raise InvalidArgumentError(
                f"'after' names job {quoted(one.job_id)} twice, with different conditions: name each job once"
            )
        own_id = job_id_of(request)
        if one.job_id == own_id:
            raise InvalidArgumentError(f"job {quoted(own_id)} cannot wait for itself")
        if own_id.startswith(f"{one.job_id}/"):
            raise InvalidArgumentError(
                f"job {quoted(own_id)} cannot wait for job {quoted(one.job_id)}, because a child job ends when its"
                " parent job ends"
            )


def _check_seen_indices(request: LaunchJobRequest) -> None:
    seen, replicas = request.seen_task_indices, replicas_of(request)
    if not seen and not request.seen_num_tasks:
        return
    if not request.independent_tasks:
        raise InvalidArgumentError("seen_task_indices needs independent_tasks: a gang runs with all of its tasks")
    check_whole_number("seen_num_tasks", request.seen_num_tasks, least=1, most=MAX_REPLICAS)
    if (
        len(seen) != replicas
        or sorted(set(seen)) != list(seen)
        or not 0 <= seen[0] <= seen[-1] < request.seen_num_tasks
    ):
        raise InvalidArgumentError(
            f"seen_task_indices must have one index for each of the {replicas} tasks, in ascending order, from 0 to"
            f" {request.seen_num_tasks - 1}, got {len(seen)} indices"
        )


def _check_trace(request: LaunchJobRequest) -> None:
    given = parse_context(request.traceparent, request.tracestate)
    if request.traceparent and given is None:
        raise InvalidArgumentError(
            "traceparent must have the format of W3C Trace Context, such as"
            f" '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', got {quoted(request.traceparent)}"
        )
    if request.tracestate and (given is None or not given.state):
        raise InvalidArgumentError(
            f"tracestate needs a valid traceparent, and must have at most {MAX_STATE} printable characters,"
            f" got {quoted(request.tracestate)}"
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
        raise InvalidArgumentError(f"fields of the job are not supported by this controller: {', '.join(asked_for)}")
