"""Runs py-spy, with a deadline and a limited number of processes.

py-spy reads the memory of a process and does not stop the process (`--nonblocking`). If the process is busy, py-spy may
read inconsistent data and fail. In this case, py-spy is run again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import IO, NamedTuple, Protocol

from iris.cluster.stacks.frame_table import FrameTable
from iris.cluster.stacks.merging import StackCounts
from iris.cluster.worker.inspect.py_spy_output import StackProblem, parse_dump, parse_samples, problem_in
from iris.cluster.worker.process.tracing import explain_refusal
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import ThreadStack
from iris.rpc.serving.fair_lane import FairLane
from iris.system.processes import ProcessHandle

# The number of runs of py-spy at once. It is small, because each run uses a core for some hundredths of a second to
# read the symbols of the interpreter.
_AT_ONCE = 4
_TRIES = 4
_DUMP_S = 5.0
_RECORDS_AT_ONCE = 256
_RECORD_EXTRA_S = 10.0  # The seconds that starting py-spy and ending its profile may take.
_POLL_S = 0.02
# The largest output of py-spy in bytes. A thousand threads with deep stacks need about 5 MiB.
_MAX_BYTES = 16 * 1024 * 1024
_NO_TOOL = StackProblem(
    cluster_pb2.STACK_REASON_TOOL_MISSING,
    "py-spy is not installed beside the worker: install 'iris-cluster[inspect]' in the environment of the worker, or"
    " put py-spy into its PATH",
)


class _Printed(NamedTuple):
    """What a command has printed."""

    stdout: str
    stderr: str


class OwnProcesses(Protocol):
    """The processes of the worker that belong to no attempt. `StrayProcesses` implements this protocol."""

    def spare(self, pid: int) -> None:
        """Record a child process that the worker itself has started. All other children count as left behind by an
        attempt, and are killed.
        """

    def release(self, pid: int) -> None:
        """Forget a child that has ended."""


def find_py_spy() -> str | None:
    """Return the path of py-spy, beside the interpreter of this process or in PATH. Return None if py-spy is not
    installed.
    """
    beside = os.path.join(sysconfig.get_path("scripts"), "py-spy")
    return beside if os.access(beside, os.X_OK) else shutil.which("py-spy")


class PySpy:
    """Runs py-spy for the calls of one worker.

    Args:
        own: The object that kills unknown children of the worker. This class reports the processes of py-spy to the
            object, so that the object spares these processes.
        program: The path of py-spy; None finds it beside the interpreter of this process and in PATH.
    """

    def __init__(self, own: OwnProcesses, program: str | None = None) -> None:
        self._own = own
        self._program = program
        self._dumps = FairLane("dumps of stacks", at_once=_AT_ONCE, per_caller=_AT_ONCE)
        self._records = FairLane("records of stacks", at_once=_RECORDS_AT_ONCE, per_caller=_RECORDS_AT_ONCE)

    async def dump(
        self, pid: int, table: FrameTable, *, job_id: str, with_variables: bool
    ) -> list[ThreadStack] | StackProblem:
        """Return the stacks of all threads of a process, or why they cannot be read.

        Args:
            pid: The id of the process.
            table: The table to which the frames of the stacks are added.
            job_id: The job of the process. Each job gets an equal share of the runs of py-spy.
            with_variables: Whether to return the local variables.
        """
        program = self._find()
        if program is None:
            return _NO_TOOL
        command = [program, "dump", "--json", "--nonblocking", "--full-filenames", "--pid", str(pid)]
        problem = _NO_TOOL
        for _ in range(_TRIES):
            async with self._dumps.turn(job_id):
                done = await self._run([*command, *["--locals"] * with_variables], _DUMP_S)
            if isinstance(done, StackProblem):
                return done
            try:
                return parse_dump(done.stdout, table, with_variables=with_variables)
            except ValueError:
                problem = problem_in(done.stderr, partial(explain_refusal, pid, program))
            if problem.reason != cluster_pb2.STACK_REASON_FAILED:
                break
        return problem

    async def record(
        self, pid: int, counts: StackCounts, *, job_id: str, seconds: int, rate: int, with_idle: bool
    ) -> int | StackProblem:
        """Sample the stacks of a process, and return the number of samples, or why there are none.

        Args:
            pid: The id of the process.
            counts: The counts of samples, to which the new samples are added.
            job_id: The job of the process. Each job gets an equal share of the runs of py-spy.
            seconds: For how many seconds to sample the process.
            rate: How many samples to take in a second.
            with_idle: Whether to count threads that wait.
        """
        program = self._find()
        if program is None:
            return _NO_TOOL
        # The samples go to a file, because py-spy also writes its messages to stdout.
        try:
            with tempfile.NamedTemporaryFile(prefix="iris-samples-") as file:
                command = [program, "record", "--nonblocking", "--full-filenames", "--format", "raw"]
                command += ["--output", file.name, "--duration", str(seconds), "--rate", str(rate)]
                command += [*["--idle"] * with_idle, "--pid", str(pid)]
                async with self._records.turn(job_id):
                    done = await self._run(command, seconds + _RECORD_EXTRA_S)
                if isinstance(done, StackProblem):
                    return done
                samples = parse_samples(_text(file), counts)
        except OSError as error:
            return _not_started(error)
        if samples or not _has_error(done.stderr):
            return samples  # Without an error, 0 samples mean that all threads wait.
        return problem_in(done.stderr, partial(explain_refusal, pid, program))

    def _find(self) -> str | None:
        if self._program is not None:
            return self._program if os.access(self._program, os.X_OK) else None
        return find_py_spy()

    async def _run(self, command: Sequence[str], timeout_s: float) -> _Printed | StackProblem:
        """Run a command, and return its output. The exit code of the command is ignored, because another part of the
        worker may have collected the command's process.

        No thread waits for the command. A profile runs many commands for seconds, and would otherwise occupy all
        threads that prepare attempts and read their files.
        """
        try:
            with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
                process = subprocess.Popen(  # noqa: ASYNC220 - The start takes a millisecond, so no thread is used.
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                )
                is_in_time = await self._wait(process, timeout_s)
                printed = _Printed(_text(stdout), _text(stderr))
        except OSError as error:
            return _not_started(error)
        if is_in_time:
            return printed
        return StackProblem(cluster_pb2.STACK_REASON_TIMEOUT, f"py-spy did not finish within {timeout_s:.0f} seconds")

    async def _wait(self, process: subprocess.Popen[bytes], timeout_s: float) -> bool:
        """Wait until a process has ended, kill it after a time, and return whether it has ended by itself."""
        self._own.spare(process.pid)
        try:
            async with asyncio.timeout(timeout_s):
                await _ended(process)
        except TimeoutError:
            return False
        finally:
            process.kill()  # If the process has ended already, `kill` does nothing.
            await _ended(process)
            self._own.release(process.pid)
        return True


def _not_started(error: OSError) -> StackProblem:
    return StackProblem(cluster_pb2.STACK_REASON_FAILED, f"py-spy cannot be started: {error.strerror}")


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait until a child process has ended, and collect the process."""
    if process.poll() is not None:
        return
    try:
        handle = ProcessHandle(process.pid, lambda: process.poll() is None, poll_s=_POLL_S)
    except ProcessLookupError:
        pass
    else:
        try:
            await handle.wait()
        finally:
            handle.close()
    process.poll()


def _text(file: IO[bytes]) -> str:
    """Return the beginning of a file as text. The rest of a larger file is left out."""
    file.seek(0)
    return file.read(_MAX_BYTES).decode("utf-8", "replace")


def _has_error(stderr: str) -> bool:
    return "Error:" in stderr or "denied" in stderr.lower()
