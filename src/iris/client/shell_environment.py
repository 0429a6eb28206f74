"""What a task on the submitter's own machine has from the shell that submits it, beside its folder."""

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
    """What a job's tasks are given, so that they run as if they had been typed in a shell.

    Attributes:
        variables: All of the environment, besides what Iris sets; None: the worker's, as for every other job.
        umask: The umask; None: the worker's.
        stdin: Whether the job's one task reads what `WriteStdin` brings; else it has no standard input.
        left_out: Names of variables that cannot be passed on, for people.
    """

    variables: Mapping[str, str] | None = None
    umask: int | None = None
    stdin: bool = False
    left_out: Sequence[str] = ()

    @classmethod
    def of_this_process(cls) -> Self:
        """The environment and the umask of this process. Variables of Iris stay here: each task has its own."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("IRIS_")}
        left_out = [name for name, value in variables.items() if not _can_travel(name, value)]
        for name in left_out:
            del variables[name]
        return cls(variables, _own_umask(), left_out=[name.encode(errors="replace").decode() for name in left_out])

    def add_to(self, request: cluster_pb2.Controller.LaunchJobRequest) -> None:
        """Puts them into a request; variables that it has already win."""
        request.stdin = self.stdin
        environment = request.environment
        if self.umask is not None:
            environment.umask = self.umask
        if self.variables is not None:
            environment.complete = True
            for name, value in self.variables.items():
                if name not in environment.env_vars:
                    environment.env_vars[name] = value


def _can_travel(name: str, value: str) -> bool:
    """A message carries text only, and no process can be given a name that is empty or has a "=" in it."""
    try:
        (name + value).encode()
    except UnicodeEncodeError:
        return False
    return bool(name) and "=" not in name and "\0" not in name + value


def _own_umask() -> int:
    if sys.platform.startswith("linux"):
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "Umask":  # since Linux 4.7
                return int(value, 8)
    umask = os.umask(0o022)  # there is no other way to ask; a file that another thread makes meanwhile has this one
    os.umask(umask)
    return umask
