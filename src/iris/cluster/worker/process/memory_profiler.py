"""Checks whether the Python of a task has the memory profiler memray, before the task starts."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence

from iris.cluster.memory_profile import split_command
from iris.cluster.worker.inspect.py_spy import OwnProcesses
from iris.cluster.worker.process.start_errors import NotStartedError
from iris.errors import quoted

_CHECK_S = 60.0
_MISSING = 3
_PROGRAM = f"import importlib.util, sys; sys.exit(0 if importlib.util.find_spec('memray') else {_MISSING})"


async def check_memray(command: Sequence[str], cwd: str, env: Mapping[str, str], own: OwnProcesses) -> None:
    """Check that the Python interpreter of a command finds memray.

    An interpreter that cannot be started, or does not answer, causes no error in this check. The start of the task
    shows the cause.

    Args:
        command: The command of the task.
        cwd: The working directory of the task.
        env: The whole environment of the task.
        own: The object that kills unknown children of the worker. It spares the process of this check.

    Raises:
        NotStartedError: The interpreter has no memray, or the command runs no Python program.
    """
    split = split_command(command)
    if split is None:
        # The controller has checked the command, but an input may have replaced a part of the command.
        raise NotStartedError(f"profile_memory needs a Python program, got {quoted(' '.join(command))}")
    interpreter, _ = split
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - The start takes a millisecond, so no thread is used.
            [*interpreter, "-c", _PROGRAM],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return
    own.spare(process.pid)
    try:
        code = await asyncio.to_thread(process.wait, _CHECK_S)
    except subprocess.TimeoutExpired:
        return
    finally:
        process.kill()  # If the process has ended already, `kill` does nothing.
        await asyncio.to_thread(process.wait)
        own.release(process.pid)
    if code == _MISSING:
        raise NotStartedError(
            f"profile_memory needs memray, which {interpreter[0]!r} does not have on the worker: install it there with"
            " 'pip install memray', or submit the job without profile_memory"
        )
