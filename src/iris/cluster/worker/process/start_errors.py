"""Explains why the program of a task could not be started, with the exit code that a shell would use."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from iris.cluster.worker.process.launcher import Program
from iris.errors import EntrypointError

# The exit codes of a shell for a command that is not found (127) or cannot be executed (126), as POSIX defines them.
EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127
_LONGEST_FIRST_LINE = 256


class NotStartedError(EntrypointError):
    """An error: the program of a task could not be started. The error text is one line.

    Attributes:
        exit_code: The exit code that a shell would use; None if the program itself is not the cause, for example if the
            working directory is missing.
        details: Additional text for the log of the attempt; empty if there is no such text.
    """

    def __init__(self, text: str, exit_code: int | None = None, details: str = "") -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.details = details


def not_started(started: Program, error: OSError, *, has_log: bool = True) -> NotStartedError:
    """Return the error for a program that the system refused to start. The cause lies in the program or its working
    directory, not in a shortage of the machine.

    Args:
        started: The program that was refused.
        error: The error that the system raised.
        has_log: Whether the details of the error are written to a log.
    """
    program, cwd = started.command[0], Path(started.cwd)
    if not cwd.is_dir():
        if cwd.exists():
            return NotStartedError(f"the working directory {str(cwd)!r} is not a folder on the worker")
        return NotStartedError(f"the working directory {str(cwd)!r} does not exist on the worker")
    if isinstance(error, FileNotFoundError):
        return _not_found(started, has_log=has_log)
    if isinstance(error, PermissionError):
        if (cwd / program).is_dir():
            return NotStartedError(f"not executable: {program!r} is a folder", EXIT_NOT_EXECUTABLE)
        advice = f"chmod +x, or run it with its interpreter: 'python {program}'"
        return NotStartedError(f"not executable: {program!r} ({advice})", EXIT_NOT_EXECUTABLE)
    if error.errno == errno.ENOEXEC:
        advice = "has no first line that names its interpreter, as in '#!/usr/bin/env python'"
        return NotStartedError(f"not a program: {program!r} {advice}", EXIT_NOT_EXECUTABLE)
    if error.errno == errno.E2BIG:
        text = f"the command and its environment are too long for this system ({error.strerror})"
        return NotStartedError(text, EXIT_NOT_EXECUTABLE)
    return NotStartedError(f"cannot start {program!r}: {error.strerror or error}", EXIT_NOT_EXECUTABLE)


def _not_found(started: Program, *, has_log: bool) -> NotStartedError:
    """Return the error for a missing program, or for a program whose interpreter is missing."""
    program, cwd = started.command[0], Path(started.cwd)
    if "/" in program:
        found: str | None = str(cwd / program) if (cwd / program).exists() else None
        text, details = f"command not found: {program!r} does not exist in {str(cwd)!r}", ""
    else:
        path = started.env.get("PATH")
        found = shutil.which(program, path=path or os.defpath)
        where = " (which is in its log)" if has_log else f": {path}" if path is not None else ", which is not set"
        text = f"command not found: {program!r} is in no folder of the task's PATH{where}"
        details = f"PATH={path}" if path is not None else "PATH is not set"
    if found is None:
        return NotStartedError(text, EXIT_NOT_FOUND, details)
    interpreter = _interpreter_of(Path(found))
    named = (
        f"its first line names {interpreter!r}, which does not exist" if interpreter else "its loader does not exist"
    )
    return NotStartedError(f"command not found: {program!r} cannot run, because {named}", EXIT_NOT_FOUND)


def _interpreter_of(script: Path) -> str:
    try:
        with script.open("rb") as file:
            first = file.readline(_LONGEST_FIRST_LINE)
    except OSError:
        return ""
    return os.fsdecode(first[2:].strip()) if first.startswith(b"#!") else ""
