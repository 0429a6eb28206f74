"""Makes the request that submits a job, from the arguments of `IrisClient.run`.

Each `add_…` function checks some arguments and writes the arguments into the request. If an argument is invalid, each
function of this module raises InvalidArgumentError. `IrisClient.run` documents the arguments.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from iris.arguments import (
    MAX_INT32,
    JobReference,
    check_choice,
    check_flag,
    check_instance,
    check_items,
    check_job_id,
    check_keyword_arguments,
    check_names,
    check_path,
    check_seconds,
    check_text,
    check_text_mapping,
    check_timeout,
    check_utf8,
    check_whole_number,
    refuse,
)
from iris.client.shell_environment import Surroundings
from iris.client.workspace_upload import WorkspaceUpload
from iris.cluster.client.pickling import pickle_entrypoint
from iris.cluster.client.task_token import task_of_token
from iris.cluster.files.output_pack import check_directories
from iris.cluster.memory_profile import check_profile_memory
from iris.cluster.names import check_job_name, check_label, check_port_name
from iris.cluster.task_inputs import pack_items
from iris.cluster.types import (
    MAX_EXIT_CODE,
    TOKEN_VARIABLE,
    Entrypoint,
    JobInfo,
    ResourceSpec,
    get_job_info,
    parse_task_id,
)
from iris.cores import MILLICORES
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2
from iris.rpc.address import parse_address
from iris.versions import python_version

LaunchRequest = cluster_pb2.Controller.LaunchJobRequest

_PLACEMENTS = {"spread": cluster_pb2.PLACEMENT_SPREAD, "together": cluster_pb2.PLACEMENT_TOGETHER}
_CONDITIONS = {"ok": cluster_pb2.DEPENDENCY_CONDITION_SUCCEEDED, "any": cluster_pb2.DEPENDENCY_CONDITION_ENDED}
_RENDEZVOUS = {"torch": cluster_pb2.RENDEZVOUS_TORCH, "jax": cluster_pb2.RENDEZVOUS_JAX}


def entrypoint_of(
    entrypoint: Callable[..., Any] | Sequence[str] | Entrypoint, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> Entrypoint:
    """Return the entrypoint of a job.

    Raises:
        InvalidArgumentError: `entrypoint` is neither a callable nor a command, or a command has `args` or `kwargs`.
    """
    items = check_items("args", args, "a list or tuple of the callable's arguments")
    named = check_keyword_arguments("kwargs", {} if kwargs is None else kwargs)
    if callable(entrypoint):
        return Entrypoint(callable=entrypoint, args=items, kwargs=named)
    if isinstance(entrypoint, Entrypoint):
        if entrypoint.callable and (items or named):
            raise InvalidArgumentError(
                "args and kwargs need a plain callable: the given Entrypoint already contains its arguments"
            )
        entry = entrypoint
    else:
        entry = Entrypoint.from_command(entrypoint)
    if items or named:
        raise InvalidArgumentError(
            "args and kwargs need a callable: put the arguments of a command into its list of words"
        )
    return entry


def new_request(entry: Entrypoint, name: str | None, resources: ResourceSpec, replicas: int) -> LaunchRequest:
    """Return a submission request with the name, the resources and the number of tasks of a job.

    Args:
        entry: The entrypoint of the job.
        name: The name of the job. If None, a name is made from the entrypoint.
        resources: The resources that each task needs.
        replicas: The number of tasks.
    """
    if name is None:
        name = f"{entry.default_name}-{secrets.token_hex(4)}"
    check_job_name(name)
    replicas = check_whole_number("replicas", replicas, least=1, most=MAX_INT32)
    request = LaunchRequest(name=name, submission_id=secrets.token_hex(16))
    millicores = resources.cpu_millicores
    if millicores is not None:
        # Servers of older releases read only the field `cpu`, which contains whole cores. Therefore the number of cores
        # is rounded up in this field.
        request.resources.cpu = -(-millicores // MILLICORES)
        if millicores % MILLICORES:
            request.resources.cpu_millicores = millicores
    request.resources.memory_bytes = resources.memory_bytes
    request.resources.replicas = replicas
    if resources.gpu:
        request.resources.device.gpu.count = resources.gpu
    return request


def add_environment(
    request: LaunchRequest,
    env: Mapping[str, str] | None,
    ports: Sequence[str],
    working_directory: str | os.PathLike[str] | None,
    surroundings: Surroundings | None,
    inherit_env: bool,
) -> None:
    """Add environment variables to the request. This program's token is left out, because each task gets a separate
    token.
    """
    request.ignore_parent_environment = not check_flag("inherit_env", inherit_env)
    variables = {} if env is None else check_text_mapping("env", env, none="no variables")
    variables.pop(TOKEN_VARIABLE, None)
    names = check_names("ports", ports, "['http']")
    for name in names:
        check_port_name(name)
    request.environment.env_vars.update(variables)
    request.ports.extend(names)
    if working_directory is not None:
        request.working_directory = check_path("working_directory", working_directory)
    if surroundings is not None:
        check_instance("surroundings", surroundings, Surroundings, "Surroundings.of_this_process() makes one")
        surroundings.add_to(request)


def add_placement(
    request: LaunchRequest,
    coscheduled: bool,
    placement: str | None,
    constraints: Mapping[str, str] | None,
    rendezvous: str | None,
    max_parallel: int | None,
) -> None:
    """Add to the request where the tasks run, how many of them run at the same time, and how they find each other."""
    request.independent_tasks = not check_flag("coscheduled", coscheduled)
    if max_parallel is not None:
        limit = check_whole_number("max_parallel", max_parallel, least=1, most=MAX_INT32, none="no limit")
        if coscheduled:
            raise InvalidArgumentError(
                f"max_parallel needs coscheduled=False, because the tasks of a gang start together, got {limit}"
            )
        request.max_parallel = limit
    if placement is not None:
        request.placement = _PLACEMENTS[check_choice("placement", placement, tuple(_PLACEMENTS), none="any machines")]
    labels = {} if constraints is None else check_text_mapping("constraints", constraints, none="any machine")
    for key, value in labels.items():
        check_label(key, value)
        constraint = request.constraints.add(key=key, op=cluster_pb2.CONSTRAINT_OP_EQ)
        constraint.value.string_value = value
    if rendezvous is not None:
        request.rendezvous = _RENDEZVOUS[
            check_choice("rendezvous", rendezvous, tuple(_RENDEZVOUS), none="no rendezvous")
        ]


def add_inputs(request: LaunchRequest, entry: Entrypoint, inputs: Iterable[str] | None) -> None:
    """Add the inputs of a command to the request, and set the number of tasks."""
    if inputs is None:
        return
    texts = check_items("inputs", inputs, "a list of texts, one for each task")
    if not entry.command:
        raise InvalidArgumentError("inputs need a command: use client.map to call a function for each input")
    if not request.independent_tasks:
        raise InvalidArgumentError("inputs need coscheduled=False, because each task works on its own input")
    if request.resources.replicas != 1:
        raise InvalidArgumentError(
            f"inputs and replicas are mutually exclusive, because each input is one task, got"
            f" {request.resources.replicas} replicas"
        )
    if not texts:
        raise InvalidArgumentError("inputs must not be empty: give at least one item")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or "\0" in text:
            refuse(f"input {index} of inputs", "text without NUL", text)
        check_utf8(f"input {index} of inputs", text)
    request.resources.replicas = request.num_inputs = len(texts)
    request.inputs_per_task = 1
    request.inputs_blob = pack_items([text.encode() for text in texts])
    request.inputs_hash = hashlib.sha256(request.inputs_blob).hexdigest()


def add_retries(
    request: LaunchRequest,
    max_task_failures: int,
    max_retries_failure: int,
    max_retries_preemption: int,
    retry_pause: float,
    retry_on: Sequence[int],
    fail_on: Sequence[int],
) -> None:
    """Add the retry budgets, the retry pause and the exit codes to the request."""
    request.max_task_failures = check_whole_number("max_task_failures", max_task_failures, most=MAX_INT32)
    request.max_retries_failure = check_whole_number("max_retries_failure", max_retries_failure, most=MAX_INT32)
    request.max_retries_preemption = check_whole_number(
        "max_retries_preemption", max_retries_preemption, most=MAX_INT32
    )
    request.retry_pause_ms = round(check_seconds("retry_pause", retry_pause, most=60) * 1000)
    request.retry_on.extend(_exit_codes("retry_on", retry_on, max_retries_failure))
    request.fail_on.extend(_exit_codes("fail_on", fail_on, max_retries_failure))
    both = sorted(set(request.retry_on) & set(request.fail_on))
    if both:
        raise InvalidArgumentError(f"retry_on and fail_on must have no exit code in common, got {both[0]} in both")


def add_dependencies(request: LaunchRequest, after: Sequence[str | JobReference] | Mapping[Any, str]) -> None:
    """Add to the request the other jobs that must end before the new job starts."""
    given: Mapping[Any, object]
    if isinstance(after, Mapping):
        given = after
    else:
        accepted = "a list of jobs, for example [job], or a mapping of jobs to 'ok' or 'any'"
        given = dict.fromkeys(check_items("after", after, accepted), "ok")
    for job, condition in given.items():
        job_id = check_job_id(job, "a job in after")
        word = check_choice("the condition of a job in after", condition, tuple(_CONDITIONS))
        request.after.add(job_id=job_id, condition=_CONDITIONS[word])


_HANG_ACTIONS = {"report": cluster_pb2.HANG_ACTION_UNSPECIFIED, "end": cluster_pb2.HANG_ACTION_END}


def add_limits(
    request: LaunchRequest,
    scheduling_timeout: float | None,
    timeout: float | None,
    job_timeout: float | None,
    timeout_warning: float | None,
    kill_grace_period: float,
    max_log_bytes: int,
    outputs: Sequence[str],
) -> None:
    """Add the timeouts, the timeout warning, the grace period, the log limit and the outputs to the request."""
    texts = check_items("outputs", outputs, "a list of directories, for example ['out']")
    request.outputs.extend(check_directories([check_text("an output", text) for text in texts]))
    request.scheduling_timeout_seconds = _timeout_seconds("scheduling_timeout", scheduling_timeout)
    request.timeout_seconds = _timeout_seconds("timeout", timeout)
    request.job_timeout_seconds = _timeout_seconds("job_timeout", job_timeout)
    request.timeout_warning_seconds = warning_s = _timeout_seconds("timeout_warning", timeout_warning)
    for name, limit_s in (("timeout", request.timeout_seconds), ("job_timeout", request.job_timeout_seconds)):
        if limit_s and warning_s >= limit_s:
            raise InvalidArgumentError(
                f"timeout_warning must be less than {name}, which is {limit_s} seconds, got {timeout_warning!r}"
            )
    grace_s = check_seconds("kill_grace_period", kill_grace_period, most=MAX_INT32 // 1000)
    request.kill_grace_period_ms = int(grace_s * 1000)
    request.max_log_bytes = check_whole_number("max_log_bytes", max_log_bytes)


def add_memory_profile(request: LaunchRequest, profile_memory: bool, command: Sequence[str] | None) -> None:
    """Add to the request whether the attempts run under a memory profiler."""
    request.profile_memory = check_flag("profile_memory", profile_memory)
    given = LaunchRequest(command=command, outputs=request.outputs, profile_memory=request.profile_memory)
    check_profile_memory(given)


def add_hang_watch(request: LaunchRequest, watch_hang: float | None, hang_action: str) -> None:
    """Add to the request after how many seconds the job seems to hang, and what the cluster does if the job seems to
    hang.
    """
    if watch_hang is not None:
        request.watch_hang_seconds = math.ceil(check_seconds("watch_hang", watch_hang, most=MAX_INT32))
    action = _HANG_ACTIONS.get(hang_action) if isinstance(hang_action, str) else None
    if action is None:
        refuse("hang_action", "'report' or 'end'", hang_action)
    request.hang_action = action


def add_code(request: LaunchRequest, entry: Entrypoint, upload: WorkspaceUpload | None, parent: JobInfo | None) -> None:
    """Add the entrypoint, the packed workspace and the parent job to the request. This function reads many files.

    Args:
        request: The request without the entrypoint and the workspace.
        entry: The entrypoint of the job.
        upload: The workspace, or None if the job has no workspace.
        parent: The task in which this program runs, or None if the job has no parent job.

    Raises:
        EntrypointError: The callable cannot be pickled.
        ResourceExhaustedError: The workspace or the callable is too large.
    """
    bundle = None if upload is None else upload.pack()
    if parent is not None:
        set_parent(request, parent)
    if entry.command:
        request.command.extend(entry.command)
    else:
        request.serialized_entrypoint = pickle_entrypoint(
            entry, workspace=None if upload is None else Path(upload.folder)
        )
        request.pickled_by = python_version()
    if upload is not None and bundle is not None:
        upload.add(bundle, request)


def set_parent(request: LaunchRequest, parent: JobInfo) -> None:
    """Change a submission request so that its job becomes a child job of the job in which this program runs."""
    request.parent_job_id = parent.job_id
    if parent.task_id is not None:
        # The index of the parent task is read from the task id, and not from IRIS_TASK_INDEX. If the job runs only some
        # tasks of an earlier job again, IRIS_TASK_INDEX is the index in the earlier job.
        request.parent_task_index = parse_task_id(parent.task_id)[1]
        request.parent_attempt_id = parent.attempt_id


def parent_job(token: str | None, controller_address: str) -> JobInfo | None:
    """Return the task in which this program runs. Return None outside a job, and in a job of another cluster.

    If the cluster uses tokens, the client's token names the task. Otherwise the task's environment names the task, and
    the address in this environment must equal the address of the client's controller.

    Args:
        token: The token of the client, or None if the client has no token.
        controller_address: The base URL of the client's controller.
    """
    if token is not None:
        return task_of_token(token)
    inside = get_job_info()
    if inside is None or not inside.controller_address:
        return None
    return inside if parse_address(inside.controller_address) == controller_address else None


def _exit_codes(name: str, codes: Sequence[int], retries: int) -> list[int]:
    """Check an argument that is a list of exit codes, and return the codes sorted and without duplicates."""
    items = check_items(name, codes, "a list of exit codes, for example [75]")
    if items and not retries:
        raise InvalidArgumentError(
            f"{name} needs max_retries_failure of 1 or more: without retries, no exit code leads to a retry"
        )
    return sorted({check_whole_number(f"an exit code in {name}", code, least=1, most=MAX_EXIT_CODE) for code in items})


def _timeout_seconds(name: str, timeout: float | None) -> int:
    """Return a timeout for the request: whole seconds, rounded up, and 0 for no limit."""
    seconds = check_timeout(name, timeout, most=MAX_INT32)
    return 0 if seconds == math.inf else math.ceil(seconds)
