"""Lets the user change the submission of an earlier job in an editor, and submits the changed job."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import Connection
from iris.cli.job_files.edited_submission import Edited, LaunchRequest, read_edited, write_submission
from iris.client.retry.resubmit import new_name, prepare
from iris.client.submission import (
    add_environment,
    add_hang_watch,
    add_limits,
    add_memory_profile,
    add_placement,
    add_retries,
    new_request,
    parent_job,
)
from iris.cluster.types import Entrypoint, ResourceSpec
from iris.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from iris.client import Job

Edit = Callable[[str], str | None]

# The fields of a submission that depend on an option of `iris run`. Only the fields of changed options are replaced, so
# that everything else stays exactly as the earlier job had it.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "command": ("command",),
    "replicas": ("resources",),
    "cpu": ("resources",),
    "memory": ("resources",),
    "gpu": ("resources",),
    "inherit_env": ("ignore_parent_environment",),
    "ports": ("ports",),
    "outputs": ("outputs",),
    "profile_memory": ("profile_memory",),
    "max_task_failures": ("max_task_failures",),
    "max_retries_failure": ("max_retries_failure", "retry_on", "fail_on"),
    "retry_pause": ("retry_pause_ms",),
    "retry_on": ("retry_on",),
    "fail_on": ("fail_on",),
    "timeout": ("timeout_seconds",),
    "job_timeout": ("job_timeout_seconds",),
    "timeout_warning": ("timeout_warning_seconds",),
    "watch_hang": ("watch_hang_seconds",),
    "hang_action": ("hang_action",),
    "scheduling_timeout": ("scheduling_timeout_seconds",),
    "spread": ("placement",),
    "together": ("placement",),
    "constraints": ("constraints",),
    "rendezvous": ("rendezvous",),
    "independent": ("independent_tasks", "max_parallel"),
    "max_parallel": ("max_parallel",),
}
# After one of these errors, the editor is opened again, because the user can correct the text.
_CORRECTABLE = (InvalidArgumentError, AlreadyExistsError, ResourceExhaustedError, FailedPreconditionError)


def edit_in_editor(text: str) -> str | None:
    """Open the editor in $VISUAL or $EDITOR with a text, and return the saved text. Return None if the user has saved
    nothing.

    Raises:
        InvalidArgumentError: The saved file is not UTF-8. No editor is set, and there is no terminal in which the
            default editor can run.
    """
    if not (os.environ.get("VISUAL") or os.environ.get("EDITOR") or sys.stdin.isatty()):
        raise InvalidArgumentError("--edit needs a terminal, or a program in VISUAL or EDITOR: set EDITOR")
    try:
        return click.edit(text, extension=".toml", require_save=True)
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"no job was submitted, because the edited file is not UTF-8: byte {error.object[error.start]:#04x} at"
            f" position {error.start} ({error.reason}): save the file as UTF-8"
        ) from None


def submit_edited(connection: Connection, job_id: str, name: str | None, edit: Edit = edit_in_editor) -> Job | None:
    """Let the user change the submission of a job, and submit the changed job.

    After an error, the editor is opened again with the user's text and the error.

    Args:
        connection: The connection to the cluster.
        job_id: The id of the earlier job.
        name: The name of the new job. If None, the entry `name` of the file is the name. Without this entry, the name
            is made from the name of the earlier job.
        edit: A function that shows a text to the user and returns the changed text, or None if the user has saved
            nothing.

    Returns:
        The new job, or None if the user has changed nothing.

    Raises:
        FailedPreconditionError: A needed part of the earlier submission is no longer stored.
        InvalidArgumentError: The user has not corrected an error.
    """
    from iris.cli.commands.submission.run import run

    client = connection.client
    answer = client.submission(job_id)
    if answer.problem:
        raise FailedPreconditionError(answer.problem)
    first = write_submission(answer)
    before = read_edited(first, run, answer.submission)
    text, problem = first, ""
    while True:
        shown = f"{_as_comment(problem)}{text}" if problem else text
        edited = edit(shown)
        if edited is None or edited == shown:
            if problem:
                raise InvalidArgumentError(f"no job was submitted: {problem}")
            return None
        text = _without_problem(edited)
        try:
            after = read_edited(text, run, answer.submission)
            if after == before:
                return None
            request = LaunchRequest()
            request.CopyFrom(answer.submission)
            _apply(request, before, after)
            chosen = name or after.options["name"] or new_name(request.asked_name or request.name)
            prepare(request, chosen, parent_job(client.cluster.token(), client.cluster.controller_address))
            return client.job(client.cluster.resubmit_job(job_id, request, kept_variables=sorted(after.kept)))
        except click.ClickException as error:
            problem = error.format_message()
        except _CORRECTABLE as error:
            problem = str(error)


def _apply(request: LaunchRequest, before: Edited, after: Edited) -> None:
    """Change a submission as the user has edited it: replace the fields that belong to changed options, and all
    environment variables."""
    changed = [name for name in _FIELDS if after.options[name] != before.options[name]]
    if changed:
        fresh = _fresh_request(after.options)
        for field in {field for name in changed for field in _FIELDS[name]}:
            _replace(request, fresh, field)
    if "replicas" in changed or "independent" in changed:
        if request.num_inputs:
            raise InvalidArgumentError("replicas and independent follow from the inputs, which cannot be changed here")
        # If the earlier job was a retry of some tasks of another job, its tasks see the indices of that other job.
        # These indices do not fit the new number of tasks, so they are removed.
        request.ClearField("seen_task_indices")
        request.ClearField("seen_num_tasks")
    if "max_retries_failure" in changed and not request.max_retries_failure and (request.retry_on or request.fail_on):
        raise InvalidArgumentError("retry_on and fail_on need retries of 1 or more")
    variables = request.environment.env_vars
    variables.clear()
    for name, value in after.variables.items():
        variables[name] = value


def _fresh_request(options: Mapping[str, Any]) -> LaunchRequest:
    """Return a submission request that has the values of the given options of `iris run`."""
    command = tuple(options["command"])
    resources = ResourceSpec(cpu=options["cpu"], memory=options["memory"], gpu=options["gpu"])
    fresh = new_request(Entrypoint.from_command(command), "edited", resources, options["replicas"])
    fresh.command.extend(command)
    add_environment(fresh, {}, options["ports"], None, None, options["inherit_env"])
    if options["spread"] and options["together"]:
        raise InvalidArgumentError("spread and together exclude each other")
    placement = "spread" if options["spread"] else "together" if options["together"] else None
    add_placement(
        fresh,
        not options["independent"],
        placement,
        dict(options["constraints"]),
        options["rendezvous"],
        options["max_parallel"],
    )
    retries = (options["max_retries_failure"], 100, options["retry_pause"], options["retry_on"], options["fail_on"])
    add_retries(fresh, options["max_task_failures"], *retries)
    limits = (options["scheduling_timeout"], options["timeout"], options["job_timeout"], options["timeout_warning"])
    add_limits(fresh, *limits, 10.0, 0, options["outputs"])
    add_memory_profile(fresh, options["profile_memory"], ())
    add_hang_watch(fresh, options["watch_hang"], options["hang_action"])
    return fresh


def _replace(request: LaunchRequest, fresh: LaunchRequest, field: str) -> None:
    """Copy one field from `fresh` to `request`. If the field is not set in `fresh`, clear it."""
    request.ClearField(field)
    part = cluster_pb2.Controller.LaunchJobRequest()
    part.CopyFrom(fresh)
    for other, _ in fresh.ListFields():
        if other.name != field:
            part.ClearField(other.name)
    request.MergeFrom(part)


_MARK = "#! "


def _as_comment(problem: str) -> str:
    return "".join(f"{_MARK}{line}\n" for line in f"Error: {problem}".splitlines())


def _without_problem(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(_MARK))
