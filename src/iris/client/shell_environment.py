"""Collects the environment variables and the umask of the shell. `iris run` passes them to a job on the same
machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from iris.rpc import cluster_pb2


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The environment that the tasks of a job inherit from a shell, as if the shell had started the tasks.

    Attributes:
        variables: The environment variables of the shell. The tasks get these variables instead of the environment of
            the worker. In addition, Iris sets some variables. If None, the tasks have the environment of the worker.
        umask: The umask of the tasks. If None, the tasks have the umask of the worker.
        stdin: Whether the job's only task reads standard input that `RemoteClusterClient.write_stdin` sends. If False,
            the tasks have no standard input.
        left_out: The names of variables that cannot be sent, for a message to the user.
    """

    variables: Mapping[str, str] | None = None
    umask: int | None = None
    stdin: bool = False
    left_out: Sequence[str] = ()

    @classmethod
    def of_this_process(cls) -> Self:
        """Return the environment and the umask of this process, without the variables that Iris sets for each task."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("IRIS_")}
        left_out = [name for name, value in variables.items() if not _can_be_sent(name, value)]
        for name in left_out:
            del variables[name]
        return cls(variables, _own_umask(), left_out=[name.encode(errors="replace").decode() for name in left_out])

    def add_to(self, request: cluster_pb2.Controller.LaunchJobRequest) -> None:
        """Add the environment to a request. Variables that the request already has are kept."""
        request.stdin = self.stdin
        environment = request.environment
        if self.umask is not None:
            environment.umask = self.umask
        if self.variables is not None:
            environment.complete = True
            for name, value in self.variables.items():
                if name not in environment.env_vars:
                    environment.env_vars[name] = value


def _can_be_sent(name: str, value: str) -> bool:
    """Return whether a variable can be sent as text and set for a process."""
    try:
        (name + value).encode()
    except UnicodeEncodeError:
        return False
    return bool(name) and "=" not in name and "\0" not in name + value


def _own_umask() -> int:
    if sys.platform.startswith("linux"):
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "Umask":  # Linux shows the umask of a process in `/proc` since version 4.7.
                return int(value, 8)
    # Without /proc, the umask can only be read by setting it. Until the umask is set back, files created by other
    # threads get the new umask.
    umask = os.umask(0o022)
    os.umask(umask)
    return umask
