"""Warns the processes of an attempt with SIGUSR1 before a time limit ends the attempt.

A process that does not expect SIGUSR1 would die of it, for example the shell around a training program. Therefore the
worker sends the signal only to the processes of the attempt that handle or block it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.limits.process_table import Process, read_process
from iris.cluster.worker.limits.sampler import Sampler
from iris.counts import counted
from iris.event_log import log_event

SIGNAL = signal.SIGUSR1
# After how many seconds the worker tries again if no process of the attempt handles the signal yet. A process may still
# be importing its modules.
_RETRY_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """A limit that ends an attempt.

    Attributes:
        name: The name of the limit, for people.
        end_s: When the limit ends the attempt, in seconds of the monotonic clock.
    """

    name: str
    end_s: float


def nearest_limit(attempt: Attempt, allocation_end_s: float) -> TimeLimit | None:
    """Return the time limit that ends a started attempt first. Return None if the attempt has no known limit.

    Args:
        attempt: The attempt. Its process has started.
        allocation_end_s: When the engine ends the worker's allocation, in seconds of the monotonic clock. Infinity if
            the engine has no time limit, or if the limit is unknown.
    """
    timeout_s = attempt.request.timeout_seconds
    limits = [
        TimeLimit("the attempt's timeout", attempt.started_s + timeout_s if timeout_s else math.inf),
        TimeLimit("the job's timeout", attempt.job_end_s),
        TimeLimit("the time limit of the allocation", allocation_end_s),
    ]
    nearest = min(limits, key=lambda limit: limit.end_s)
    return nearest if nearest.end_s < math.inf else None


class TimeoutWarnings:
    """Warns the attempts of one worker.

    Args:
        sampler: The object that finds the processes of attempts, in a thread.
        token: The worker's token. Each process of an attempt has a mark in its environment, and the mark begins with
            this token.
        allocation_end_s: When the engine ends the worker's allocation, in seconds of the monotonic clock. Infinity if
            the engine has no time limit, or if the limit is unknown.
    """

    def __init__(self, sampler: Sampler, token: str, allocation_end_s: float = math.inf) -> None:
        self._sampler = sampler
        self._token = token
        self._allocation_end_s = allocation_end_s

    def start(self, attempt: Attempt) -> asyncio.Task[None] | None:
        """Start an asyncio task that waits for the time of the warning, and then sends the warning. The caller cancels
        the returned task when the attempt has ended. Return None if the job asks for no warning, or if the attempt has
        no known time limit.
        """
        warning_s = attempt.request.timeout_warning_seconds
        if not warning_s:
            return None
        limit = nearest_limit(attempt, self._allocation_end_s)
        if limit is None:
            attempt.write_build_line(
                f"no time limit of this attempt is known, so no process gets SIGUSR1 {warning_s} s before its end"
            )
            return None
        return asyncio.create_task(self._warn(attempt, limit, limit.end_s - warning_s))

    async def _warn(self, attempt: Attempt, limit: TimeLimit, due_s: float) -> None:
        """Send SIGUSR1 to the attempt's processes at the time `due_s`. If no process handles the signal, try again
        until the attempt ends.
        """
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        is_noted = False
        while attempt.process is not None:
            found = await self._sampler.find_processes(attempt, attempt.mark(self._token))
            waiting = await asyncio.to_thread(processes_expecting_signal, found)
            # No await may occur between the signals and the messages about them, because this asyncio task is
            # cancelled when the signals end the attempt.
            signalled = sum(map(_send, waiting))
            left_s = max(0, round(limit.end_s - time.monotonic()))
            if signalled:
                log_event(
                    _log,
                    "attempt.timeout_warning",
                    task_id=attempt.request.task_id,
                    attempt_id=attempt.request.attempt_id,
                    limit=limit.name,
                    left_s=left_s,
                    processes=signalled,
                )
                count = counted(signalled, "process", "processes")
                attempt.write_build_line(f"sent SIGUSR1 to {count}: {limit.name} ends the attempt in {left_s} s")
                return
            if not is_noted:
                is_noted = True
                attempt.write_build_line(
                    f"{limit.name} ends the attempt in {left_s} s, and no process of the attempt handles SIGUSR1 yet"
                )
            await asyncio.sleep(_RETRY_S)


def processes_expecting_signal(processes: Iterable[Process]) -> list[Process]:
    """Return the processes that have a handler for `SIGNAL`, or that block the signal to wait for it (see proc(5))."""
    return [process for process in processes if _expects_signal(process.pid)]


def _send(process: Process) -> bool:
    now = read_process(process.pid)
    # The id of an ended process may belong to a new process by now. The new process must not get the signal.
    if now is None or now.started != process.started:
        return False
    with contextlib.suppress(OSError):
        os.kill(process.pid, SIGNAL)
        return True
    return False


def _expects_signal(pid: int) -> bool:
    bit = 1 << (SIGNAL - 1)
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            name, _, mask = line.partition(b":")
            if name in (b"SigCgt", b"SigBlk") and int(mask, 16) & bit:
                return True
    return False
