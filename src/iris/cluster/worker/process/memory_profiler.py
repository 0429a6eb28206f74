"""Checks whether the Python of a task has the memory profiler memray, before the task starts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from iris.cluster.memory_profile import split_command
from iris.cluster.worker.process.start_errors import NotStartedError
from iris.errors import quoted

_CHECK_S = 60.0
_MISSING = 3
_PROGRAM = f"import importlib.util, sys; sys.exit(0 if importlib.util.find_spec('memray') else {_MISSING})"


async def check_memray(command: Sequence[str], cwd: str, env: Mapping[str, str]) -> None:
    """Check that the Python interpreter of a command finds memray.

    An interpreter that cannot be started, or does not answer, causes no error in this check. The start of the task
    shows the cause.

    Raises:
        NotStartedError: The interpreter has no memray, or the command runs no Python program.
    """
    split = split_command(command)
    if split is None:
        # The controller has checked the command, but an input may have replaced a part of the command.
        raise NotStartedError(f"profile_memory needs a Python program, got {quoted(' '.join(command))}")
    interpreter, _ = split
    try:
        process = await asyncio.create_subprocess_exec(
            *interpreter,
            *("-c", _PROGRAM),
            cwd=cwd,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return
    try:
        async with asyncio.timeout(_CHECK_S):
            code = await process.wait()
    except TimeoutError:
        return
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    if code == _MISSING:
        raise NotStartedError(
            f"profile_memory needs memray, which {interpreter[0]!r} does not have on the worker: install it there with"
            " 'pip install memray', or submit the job without profile_memory"
        )
