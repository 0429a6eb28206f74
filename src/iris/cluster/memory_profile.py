"""Defines how a task runs under the memory profiler memray, and where its profile is stored.

Memray is started together with the program, and is never attached to a running process, because attaching it crashes
programs. The worker puts `-m memray run` between the Python interpreter of a command and the program. The profile is an
output of the attempt. Memray writes the profile while the program runs, so a killed program leaves a profile, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from iris.errors import InvalidArgumentError, quoted
from iris.rpc import cluster_pb2

PROFILE_DIRECTORY = "memory-profile"
PROFILE_FILE = "memray.bin"
PROFILE_PATH = f"{PROFILE_DIRECTORY}/{PROFILE_FILE}"
# The path of a Python interpreter, for example python3.13t or /usr/bin/python3-dbg.
_PYTHON = re.compile(r"(.*/)?python(\d+(\.\d+)*)?[td]*(-\w+)?")
# A word that joins several options in a way that `split_command` does not parse: one option begins the program (-uc),
# or the last option has its value in the next word (-uW).
_JOINED = re.compile(r"-[a-zA-Z]*[cm].*|-[a-zA-Z]+[WX]", re.DOTALL)
_OPTIONS_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")


def split_command(command: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """Return the Python interpreter of a command with its options, and the program with its arguments. Return None if
    the command does not run a Python program.
    """
    if not command or not _PYTHON.fullmatch(command[0]):
        return None
    at = 1
    while at < len(command) and command[at].startswith("-") and command[at] not in ("-m", "-c", "-"):
        if _JOINED.fullmatch(command[at]) and not command[at].startswith(("-X", "-W")):
            return None
        at += 2 if command[at] in _OPTIONS_WITH_VALUE else 1
    program = list(command[at:])
    needed = 2 if program and program[0] in ("-m", "-c") else 1
    if len(program) < needed or program[0] == "-":
        return None
    return list(command[:at]), program


def profiled(command: Sequence[str], path: str) -> list[str]:
    """Return the command that runs a Python program under memray, which writes the profile to a path."""
    split = split_command(command)
    assert split is not None, "the command was checked"
    interpreter, program = split
    return [*interpreter, "-m", "memray", "run", "--quiet", "--force", "--output", path, *program]


def check_profile_memory(launch: cluster_pb2.Controller.LaunchJobRequest) -> None:
    """If a submission asks for a memory profile, check that memray can profile its program.

    Raises:
        InvalidArgumentError: The command does not run a Python program, or an output has the name of the profile.
    """
    if not launch.profile_memory:
        return
    if launch.command and split_command(launch.command) is None:
        raise InvalidArgumentError(
            "profile_memory needs a Python function, or a command such as ['python', 'train.py'] or ['python3', '-m',"
            f" 'train'], got {quoted(' '.join(launch.command))}"
        )
    if any(f"{path}/".startswith(f"{PROFILE_DIRECTORY}/") for path in launch.outputs):
        raise InvalidArgumentError(
            f"profile_memory stores the profile in the output directory {PROFILE_DIRECTORY!r}: give your outputs"
            " another name"
        )


def stores_outputs(launch: cluster_pb2.Controller.LaunchJobRequest) -> bool:
    """Return whether the attempts of a job leave files that the controller stores."""
    return bool(launch.outputs) or launch.profile_memory
