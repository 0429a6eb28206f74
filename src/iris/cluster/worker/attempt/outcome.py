"""Finds out how an attempt has ended: its state, the error text, the code of the failure, the result and the
exception.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.pickles.transfer_limits import MAX_EXCEPTION_BYTES, MAX_RESULT_BYTES, MAX_TRACEBACK_BYTES
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.limits import usage
from iris.cluster.worker.limits.enforcement import LimitExceeded
from iris.cluster.worker.paths import read_task_file
from iris.cluster.worker.process.attempt_process import Exit
from iris.errors import IrisError, shown
from iris.reasons import FailureCode, Shortage
from iris.rpc import cluster_pb2

_MAX_TEXT_BYTES = 16_000
_MAX_CODE_BYTES = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt has ended.

    Attributes:
        state: The final state of the attempt.
        code: Why the attempt did not succeed, as a code; None for a success.
        error: Why the attempt did not succeed, as a text for people; empty for a success.
    """

    state: cluster_pb2.TaskState
    code: FailureCode | None = None
    error: str = ""


def conclude(attempt: Attempt, exited: Exit, worker_end: str, shortage: Callable[[], Shortage]) -> Outcome:
    """Return the outcome of an attempt whose process has exited, and store its exit, result and exception.

    Args:
        attempt: The record of the attempt on this worker.
        exited: The exit status of the attempt's process.
        worker_end: Why the worker is ending; empty while the worker runs.
        shortage: A function that returns what the worker lacks for new attempts.
    """
    attempt.exit_code, attempt.term_signal = exited.code, exited.signal
    _store_usage(attempt, exited)
    if attempt.exceeded is not None and exited.code != 0:
        return _failed(attempt, exited, attempt.exceeded)
    if attempt.timed_out:
        text = f"stopped: the attempt ran for longer than its timeout of {attempt.request.timeout_seconds} s"
        return Outcome(cluster_pb2.TASK_STATE_FAILED, FailureCode.ATTEMPT_TIMEOUT, text)
    if attempt.stop_grace_s is not None:
        return _stopped(exited, worker_end)
    if exited.code == 0:
        _store_result(attempt, shortage)
        return Outcome(cluster_pb2.TASK_STATE_SUCCEEDED)
    return _failed(attempt, exited, None if attempt.enforcer is None else attempt.enforcer.explain(exited))


def _stopped(exited: Exit, worker_end: str) -> Outcome:
    if worker_end:
        return Outcome(cluster_pb2.TASK_STATE_WORKER_FAILED, FailureCode.WORKER_SHUTDOWN, worker_end)
    how = f"by {_signal_name(exited.signal)}" if exited.signal else f"with exit code {exited.code}"
    return Outcome(cluster_pb2.TASK_STATE_KILLED, FailureCode.STOPPED_ON_WORKER, f"stopped; the process ended {how}")


def stopped_before_start(worker_id: str, worker_end: str) -> Outcome:
    """Return the outcome of an attempt that was stopped before its process started."""
    if worker_end:
        error = f"worker {worker_id} was shut down before the attempt started"
        return Outcome(cluster_pb2.TASK_STATE_WORKER_FAILED, FailureCode.WORKER_SHUTDOWN, error)
    return Outcome(cluster_pb2.TASK_STATE_KILLED, FailureCode.STOPPED_ON_WORKER, "stopped before it started")


def _failed(attempt: Attempt, exited: Exit, exceeded: LimitExceeded | None) -> Outcome:
    """Return the outcome of an attempt that failed by itself or exceeded a limit."""
    error = _read_text(attempt.directory.failure) or _describe_exit(exited)
    code = _read_code(attempt) or (FailureCode.EXIT_CODE if exited.signal is None else FailureCode.SIGNAL)
    attempt.exception = _read_exception(attempt)
    if exceeded is not None:
        was_killed = attempt.exceeded is not None or exceeded.is_out_of_memory
        error = exceeded.text if was_killed and exited.code == 128 + signal.SIGKILL else f"{exceeded.text}; {error}"
        code = exceeded.code or code
    return Outcome(cluster_pb2.TASK_STATE_FAILED, code, error)


def _store_usage(attempt: Attempt, exited: Exit) -> None:
    ran_s = max(time.monotonic() - attempt.started_s, 0.001)
    attempt.usage.memory_bytes = 0
    attempt.usage.processes = 0
    attempt.usage.memory_peak_bytes = max(attempt.usage.memory_peak_bytes, exited.memory_peak_bytes)
    attempt.usage.cores = exited.cpu_s / ran_s
    attempt.usage.disk_bytes = usage.disk_bytes(attempt.directory.path)


def _store_result(attempt: Attempt, shortage: Callable[[], Shortage]) -> None:
    if attempt.request.command:
        attempt.result_error = "a command has no return value"
        return
    try:
        attempt.result = read_task_file(attempt.directory.result, MAX_RESULT_BYTES)
    except FileNotFoundError:
        attempt.result_error = _read_text(attempt.directory.result_error) or _without_result(attempt, shortage().text)
    except IrisError as error:
        attempt.result_error = f"the result cannot be read: {error}"


def _without_result(attempt: Attempt, lack: str) -> str:
    """Return the reason why a successful attempt has no return value. The caller has found no reason in the files of
    the attempt's process.

    Args:
        attempt: The attempt, whose process exited with 0.
        lack: The resource that the worker lacks now, as text; empty if it lacks nothing.
    """
    if lack:
        return f"the return value of the callable could not be stored on the worker: {lack}"
    if attempt.directory.result_error.exists():
        # If the disk is full, the task's process creates this empty file. The present free space proves nothing,
        # because files may have been removed meanwhile.
        return "the return value of the callable could not be stored on the worker: the worker's disk was full"
    return "the process exited with 0 before the callable had returned"


def _read_code(attempt: Attempt) -> FailureCode | None:
    with contextlib.suppress(FileNotFoundError, IrisError, KeyError):
        code = read_task_file(attempt.directory.failure_code, _MAX_CODE_BYTES)
        return FailureCode[code.decode(errors="replace").strip()]
    return None


def _read_exception(attempt: Attempt) -> cluster_pb2.TaskException | None:
    exception = cluster_pb2.TaskException(attempt_id=attempt.request.attempt_id)
    with contextlib.suppress(IrisError, FileNotFoundError):
        text = read_task_file(attempt.directory.traceback, MAX_TRACEBACK_BYTES)
        exception.traceback = text.decode("utf-8", "replace")
        exception.pickled = read_task_file(attempt.directory.exception, MAX_EXCEPTION_BYTES)
    return exception if exception.traceback else None


def _read_text(path: Path) -> str:
    try:
        return shown(read_task_file(path, _MAX_TEXT_BYTES).decode(errors="replace").strip())
    except (FileNotFoundError, IrisError):
        return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _describe_exit(exited: Exit) -> str:
    if exited.signal is None:
        return f"exit code {exited.code}"
    hint = " (not by Iris; the system does so when memory runs out)" if exited.signal == 9 else ""
    return f"killed by {_signal_name(exited.signal)}{hint}"
