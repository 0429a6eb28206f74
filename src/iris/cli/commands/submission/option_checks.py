"""Checks of the options of `iris run` that need no cluster. The errors name the options as the user types them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

from iris.cluster.memory_profile import split_command
from iris.errors import quoted


def check_exclusions(options: Mapping[str, Any]) -> None:
    """Refuse options that exclude each other."""
    if options["workspace"] is not None and options["no_workspace"]:
        raise click.UsageError("--workspace and --no-workspace exclude each other")
    if options["spread"] and options["together"]:
        raise click.UsageError("--spread and --together exclude each other")
    if options["independent"] and (options["spread"] or options["together"]):
        raise click.UsageError("--spread and --together need a gang: --independent places the tasks one by one")
    if options["independent"] and options["rendezvous"]:
        raise click.UsageError("--rendezvous needs a gang: --independent tasks may never run at the same time")
    for name in ("retry_on", "fail_on"):
        if options[name] and not options["max_retries_failure"]:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --retries: without it, no failure is retried")
    has_inputs = options["each"] is not None or options["array"] is not None
    if options["max_parallel"] and not options["independent"] and not has_inputs:
        raise click.UsageError("--max-parallel needs --independent, because the tasks of a gang start together")
    if options["max_task_failures"] and options["rendezvous"]:
        raise click.UsageError("--rendezvous needs all tasks of the job: leave out --max-task-failures")


def check_name(options: Mapping[str, Any]) -> None:
    """Refuse `--reuse` and `--replace` if both are given, or if `--name` is not given."""
    if options["replace"] and options["reuse"]:
        raise click.UsageError("--replace and --reuse exclude each other")
    for flag in ("replace", "reuse"):
        if options[flag] and options["name"] is None:
            raise click.UsageError(f"--{flag} needs --name, because a name that Iris chooses is always new")


def check_profiler(command: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse `--profile-memory` for a command that does not run a Python program."""
    if options["profile_memory"] and split_command(command) is None:
        raise click.UsageError(
            "--profile-memory needs a command that runs a Python program, such as 'python train.py' or"
            f" 'python3 -m train', got {quoted(shlex.join(command))}"
        )
