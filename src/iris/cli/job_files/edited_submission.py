"""Writes the submission of an earlier job as a job file for an editor, and reads the edited file."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from iris.cli.job_files.job_file import defaults_of, read_job_file, toml_lines
from iris.cores import MILLICORES, cores_of
from iris.counts import counted
from iris.errors import InvalidArgumentError, quoted
from iris.rpc import cluster_pb2

LaunchRequest = cluster_pb2.Controller.LaunchJobRequest

_PLACEMENTS = {cluster_pb2.PLACEMENT_SPREAD: "spread", cluster_pb2.PLACEMENT_TOGETHER: "together"}
_RENDEZVOUS = {cluster_pb2.RENDEZVOUS_TORCH: "torch", cluster_pb2.RENDEZVOUS_JAX: "jax"}
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
# The keys of a job file that a user must not change in the editor. Some of these keys concern files that are already
# stored in the cluster. `after` is missing in every retry. The other keys affect only the command `iris run` itself.
_NOT_EDITABLE = (
    *("workspace", "no_workspace", "env_file", "each", "array", "after", "replace", "reuse", "detach"),
    *("json", "address", "context"),
)
_LONG_LINE = 100  # If a list does not fit into a line of this many characters, each of its items gets its own line.
_HEAD = """\
# Change the lines below, save, and close the editor: the changed job is submitted. Without a change, nothing is
# submitted. The keys are the options of 'iris run --help', with _ for -. A deleted line means the default.
#
# In env, NAME keeps the value of the earlier job, which is not shown here. NAME=VALUE sets another value.
"""
_WHOLE_ENVIRONMENT = """\
The job has the environment of a shell. All of its variables keep their values, apart from those that get other values
here, for example with env = ["NAME=VALUE"]. The variables are:
"""


@dataclass(frozen=True)
class Edited:
    """The content of an edited file.

    Attributes:
        options: The values of the options of `iris run`, by the names of its parameters.
        kept: The names of the environment variables that keep the values of the earlier job.
        variables: The environment variables with new values.
    """

    options: Mapping[str, Any]
    kept: frozenset[str]
    variables: Mapping[str, str]


def write_submission(answer: cluster_pb2.Controller.GetSubmissionResponse) -> str:
    """Return the text for the editor: a job file with comments."""
    comments = "".join(f"# {line}".rstrip() + "\n" for line in _kept_parts(answer))
    lines = []
    for key, value in _entries(answer.submission).items():
        (line,) = toml_lines({key: value})
        if isinstance(value, list) and len(line) > _LONG_LINE:
            items = ",\n".join(f"  {item.partition(' = ')[2]}" for one in value for item in toml_lines({key: one}))
            line = f"{key} = [\n{items},\n]"
        lines.append(f"{line}\n")
    return f"{_HEAD}{comments}\n{''.join(lines)}"


def read_edited(text: str, run: click.Command, earlier: LaunchRequest) -> Edited:
    """Read the text of an editor.

    Args:
        text: The text of the edited job file.
        run: The command `iris run`, whose options are the keys of the file.
        earlier: The submission of the earlier job.

    Raises:
        InvalidArgumentError: The text is not a valid job file, or has a key that cannot be changed.
        click.ClickException: A value is not accepted.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.toml"
        path.write_text(text, encoding="utf-8")
        try:
            entries = read_job_file(path, run)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(str(error).replace(f"{path}", "the file")) from None
    for key in _NOT_EDITABLE:
        if key in entries:
            raise InvalidArgumentError(f"{key} cannot be changed here: submit a new job with 'iris run'")
    # If the earlier job has the whole environment of a shell, all of its variables are kept. They are too many to be
    # listed in `env`.
    kept = set(earlier.environment.env_vars) if earlier.environment.complete else set()
    variables = {}
    for variable in entries.pop("env", ()):
        name, equals, value = variable.partition("=")
        if equals:
            variables[name] = value
            kept.discard(name)
        elif name in earlier.environment.env_vars:
            kept.add(name)
        else:
            raise InvalidArgumentError(
                f"env: the earlier job has no variable {quoted(name)}, so it has no value to keep: write NAME=VALUE"
            )
    if not earlier.command:
        if "command" in entries:
            raise InvalidArgumentError("command: the job runs a Python function, which cannot be changed here")
        entries["command"] = ["function"]
    context = run.make_context("iris retry --edit", [], default_map=defaults_of(entries, run))
    return Edited(context.params, frozenset(kept), variables)


def _entries(submission: LaunchRequest) -> dict[str, Any]:
    """Return the entries of a job file for a submission. Options with their default value are left out."""
    resources = submission.resources
    entries: dict[str, Any] = {"command": list(submission.command)}
    if not submission.num_inputs:
        entries["replicas"] = str(resources.replicas or 1)
    millicores = resources.cpu_millicores or resources.cpu * MILLICORES
    entries |= {
        "cpu": str(cores_of(millicores)) if resources.HasField("cpu") or millicores else "",
        "memory": _size(resources.memory_bytes),
        "gpu": _number(resources.device.gpu.count),
        "env": [] if submission.environment.complete else sorted(submission.environment.env_vars),
        "inherit_env": False if submission.ignore_parent_environment else None,
        "port": list(submission.ports),
        "output": list(submission.outputs),
        "profile_memory": submission.profile_memory or None,
        "max_task_failures": _number(submission.max_task_failures),
        "retries": _number(submission.max_retries_failure),
        "retry_pause": f"{submission.retry_pause_ms / 1000:g}s" if submission.HasField("retry_pause_ms") else "",
        "retry_on": list(map(str, submission.retry_on)),
        "fail_on": list(map(str, submission.fail_on)),
        "timeout": _span(submission.timeout_seconds),
        "job_timeout": _span(submission.job_timeout_seconds),
        "timeout_warning": _span(submission.timeout_warning_seconds),
        "watch_hang": f"{submission.watch_hang_seconds}s" if submission.HasField("watch_hang_seconds") else "",
        "hang_action": "end" if submission.hang_action == cluster_pb2.HANG_ACTION_END else "",
        "scheduling_timeout": _span(submission.scheduling_timeout_seconds),
        "constraint": [f"{one.key}={one.value.string_value}" for one in submission.constraints],
        "rendezvous": _RENDEZVOUS.get(submission.rendezvous, ""),
        "independent": submission.independent_tasks or None,
        "max_parallel": _number(submission.max_parallel),
    }
    if submission.placement in _PLACEMENTS:
        entries[_PLACEMENTS[submission.placement]] = True
    return {key: value for key, value in entries.items() if value not in ("", [], None)}


def _kept_parts(answer: cluster_pb2.Controller.GetSubmissionResponse) -> list[str]:
    """Return lines about the parts of a submission that stay unchanged, for the comments in the editor."""
    submission, parts = answer.submission, []
    if answer.callable_bytes:
        parts.append("the Python function with its arguments")
    if submission.bundle_hash:
        parts.append("the workspace")
    if submission.working_directory:
        parts.append(f"the directory {quoted(submission.working_directory)}")
    if submission.num_inputs:
        parts.append(f"the {counted(submission.num_inputs, 'input')}")
    lines = ["", f"Unchanged: {', '.join(parts)}."] if parts else []
    if submission.environment.complete:
        names = ", ".join(sorted(submission.environment.env_vars))
        lines += ["", *_WHOLE_ENVIRONMENT.splitlines()]
        lines += textwrap.wrap(names, _LONG_LINE, break_long_words=False, break_on_hyphens=False)
    return lines


def _number(value: int) -> str:
    return str(value) if value else ""


def _span(seconds: int) -> str:
    return f"{seconds}s" if seconds else ""


def _size(size: int) -> str:
    for unit, name in _UNITS:
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return _number(size)
