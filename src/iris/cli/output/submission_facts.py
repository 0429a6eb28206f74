"""Describes how a job was submitted, as JSON for programs and as text for people. Only the names of environment
variables are shown, not their values.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from iris.cluster.amounts import counts_a_core
from iris.cores import MILLICORES, cores_of
from iris.counts import counted
from iris.durations import write_span
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    LaunchRequest = cluster_pb2.Controller.LaunchJobRequest
    Answer = cluster_pb2.Controller.GetSubmissionResponse

_PLACEMENTS = {cluster_pb2.PLACEMENT_SPREAD: "spread", cluster_pb2.PLACEMENT_TOGETHER: "together"}
_RENDEZVOUS = {cluster_pb2.RENDEZVOUS_TORCH: "torch", cluster_pb2.RENDEZVOUS_JAX: "jax"}
_END_WORDS = {"ok": "its success", "any": "its end"}
_SHOWN_NAMES = 12
_UNITS = ((2**30, "GiB"), (10**9, "GB"), (2**20, "MiB"), (10**6, "MB"), (2**10, "KiB"))


def submission_document(answer: Answer) -> dict[str, Any]:
    """Return the submission of a job as JSON."""
    launch = answer.submission
    return {
        "command": list(launch.command) or None,
        "callable_bytes": answer.callable_bytes or None,
        "replicas": launch.resources.replicas or 1,
        "independent": launch.independent_tasks,
        "max_parallel": launch.max_parallel or None,
        "cpu_millicores": _millicores(launch),
        "memory_bytes": launch.resources.memory_bytes,
        "gpu": _gpus(launch),
        "placement": _PLACEMENTS.get(launch.placement),
        "constraints": {constraint.key: constraint.value.string_value for constraint in launch.constraints},
        "rendezvous": _RENDEZVOUS.get(launch.rendezvous),
        "after": _after(launch),
        "ports": list(launch.ports),
        "outputs": list(launch.outputs),
        "profile_memory": launch.profile_memory,
        "environment": sorted(launch.environment.env_vars),
        "workspace": launch.bundle_hash or None,
        "working_directory": launch.working_directory or None,
        "max_task_failures": launch.max_task_failures,
        "max_retries_failure": launch.max_retries_failure,
        "max_retries_preemption": launch.max_retries_preemption if launch.HasField("max_retries_preemption") else None,
        "retry_on": list(launch.retry_on),
        "fail_on": list(launch.fail_on),
        "timeout_seconds": launch.timeout_seconds or None,
        "job_timeout_seconds": launch.job_timeout_seconds or None,
        "scheduling_timeout_seconds": launch.scheduling_timeout_seconds or None,
        "timeout_warning_seconds": launch.timeout_warning_seconds or None,
        "seen_task_indices": list(launch.seen_task_indices),
        "problem": answer.problem or None,
    }


def submission_facts(answer: Answer) -> list[tuple[str, str]]:
    """Return the submission of a job as pairs of a name and a text. Facts without a value are left out."""
    launch = answer.submission
    found = [
        ("command", _entrypoint(answer)),
        ("tasks", _tasks(launch)),
        ("each task", ", ".join(_resources(launch)) or "reserves nothing"),
        ("machines", ", ".join(_machines(launch))),
        ("after", ", ".join(f"{job} ({_END_WORDS[condition]})" for job, condition in _after(launch).items())),
        ("ports", ", ".join(launch.ports)),
        ("outputs", ", ".join(launch.outputs)),
        ("profiler", "memray records the memory of each attempt" if launch.profile_memory else ""),
        ("variables", _names(sorted(launch.environment.env_vars), complete=launch.environment.complete)),
        ("runs in", _folder(launch)),
        ("limits", ", ".join(_limits(launch))),
        ("retries", ", ".join(_retries(launch))),
        ("may fail", counted(launch.max_task_failures, "task") if launch.max_task_failures else ""),
    ]
    return [(name, value) for name, value in found if value]


def _entrypoint(answer: Answer) -> str:
    if answer.submission.command:
        return shlex.join(answer.submission.command)
    return (
        f"a Python callable of {counted(answer.callable_bytes, 'byte')}"
        if answer.callable_bytes
        else "no longer stored"
    )


def _tasks(launch: LaunchRequest) -> str:
    count = launch.resources.replicas or 1
    if count == 1 and not launch.seen_task_indices:
        return "1"
    kind = "independent" if launch.independent_tasks else "a gang, which starts and is retried together"
    parallel = f", at most {launch.max_parallel} at a time" if launch.max_parallel else ""
    seen = f", {count} of {launch.seen_num_tasks} tasks of an earlier job" if launch.seen_task_indices else ""
    return f"{count}, {kind}{parallel}{seen}"


def _resources(launch: LaunchRequest) -> list[str]:
    millicores, memory, gpus = _millicores(launch), launch.resources.memory_bytes, _gpus(launch)
    implied = " (an independent task that requests nothing counts as one core)" if counts_a_core(launch) else ""
    found = [f"{cores_of(millicores):g} cpu{implied}"] if millicores else []
    found += [f"{_size(memory)} memory"] if memory else []
    return found + ([f"{gpus} gpu"] if gpus else [])


def _machines(launch: LaunchRequest) -> list[str]:
    found = {"spread": ["each task on a machine of its own"], "together": ["all tasks on one machine"]}
    rendezvous = _RENDEZVOUS.get(launch.rendezvous)
    return [
        *found.get(_PLACEMENTS.get(launch.placement, ""), []),
        *(f"{constraint.key}={constraint.value.string_value}" for constraint in launch.constraints),
        *([f"rendezvous {rendezvous}"] if rendezvous else []),
    ]


def _after(launch: LaunchRequest) -> dict[str, str]:
    """Return the conditions of `--after`, `ok` or `any`, by job id."""
    ended = cluster_pb2.DEPENDENCY_CONDITION_ENDED
    return {other.job_id: "any" if other.condition == ended else "ok" for other in launch.after}


def _names(names: list[str], *, complete: bool) -> str:
    if complete:
        return f"the whole environment of the shell, {counted(len(names), 'variable')}"
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _folder(launch: LaunchRequest) -> str:
    if launch.working_directory:
        return launch.working_directory
    return f"a copy of workspace {launch.bundle_hash[:12]}" if launch.bundle_hash else "an empty directory"


def _limits(launch: LaunchRequest) -> list[str]:
    spans = (
        ("an attempt", launch.timeout_seconds),
        ("the job", launch.job_timeout_seconds),
        ("waiting", launch.scheduling_timeout_seconds),
    )
    found = [f"{what} {write_span(seconds)}" for what, seconds in spans if seconds]
    warning = launch.timeout_warning_seconds
    return found + ([f"SIGUSR1 {write_span(warning)} before an attempt is ended"] if warning else [])


def _retries(launch: LaunchRequest) -> list[str]:
    found = [f"up to {launch.max_retries_failure} after a failure"] if launch.max_retries_failure else []
    found += [f"only after exit code {', '.join(map(str, launch.retry_on))}"] if launch.retry_on else []
    found += [f"never after exit code {', '.join(map(str, launch.fail_on))}"] if launch.fail_on else []
    return found


def _millicores(launch: LaunchRequest) -> int:
    resources = launch.resources
    if counts_a_core(launch):
        return MILLICORES
    return resources.cpu_millicores if resources.HasField("cpu_millicores") else resources.cpu * MILLICORES


def _gpus(launch: LaunchRequest) -> int:
    device = launch.resources.device
    return max(device.gpu.count, 1) if device.HasField("gpu") else 0


def _size(amount: int) -> str:
    for unit, name in _UNITS:
        if amount >= unit and amount % unit == 0:
            return f"{amount // unit} {name}"
    return counted(amount, "byte")
