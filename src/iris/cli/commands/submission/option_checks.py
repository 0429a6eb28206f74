"""Checks of the options of `iris run` that need no cluster. The errors name the options as the user types them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

from iris.cluster.memory_profile import split_command
from iris.errors import quoted


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
