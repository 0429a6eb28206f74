"""Finds the environment and the current folder of the shell, for jobs that run on this machine."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from iris.cli.cluster.connect import Connection
from iris.cli.output.printer import Output
from iris.cluster.types import get_job_info
from iris.errors import FailedPreconditionError

if TYPE_CHECKING:
    from iris.client.shell_environment import Surroundings


def surroundings_of(connection: Connection, output: Output, *, inherit_env: bool = True) -> Surroundings:
    """Return the environment of this shell for a job that runs on this machine.

    With the environment of this shell, the job finds the programs of this shell's virtual environment. Otherwise the
    job would find the programs of the shell in which `iris up` was started. A cluster that this command has started
    itself already has the environment of this shell.

    Args:
        connection: The connection to the cluster.
        output: The object that prints messages for the user.
        inherit_env: Whether a child job gets the variables of its parent job. In a task, the environment of this shell
            contains these variables, so without them the child job gets the environment of its worker.
    """
    from iris.client.shell_environment import Surroundings

    if connection.place != "here" or (not inherit_env and get_job_info() is not None):
        return Surroundings()
    own = Surroundings.of_this_process()
    if own.left_out:
        names = ", ".join(repr(name) for name in own.left_out)
        output.note(f"left out of the environment, because their names or values are not valid text: {names}")
    return own


def current_folder() -> str:
    """Return the path of the current folder as the shell shows it, which may contain links."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        raise FailedPreconditionError(
            "the current folder was removed: change to another folder, or give --workspace"
        ) from None
    called = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if os.path.isabs(called) and os.path.samefile(called, folder):
            return called
    return folder
