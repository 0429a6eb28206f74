"""Measures and kills the processes of attempts, in a separate thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Sequence
from typing import NamedTuple

from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.limits import process_table, usage
from iris.cluster.worker.limits.enforcement import Enforcement, LimitExceeded
from iris.cluster.worker.limits.process_table import Process, ProcessTable

# The seconds between two samples. Between the samples, an attempt without a cgroup may exceed its limits.
SAMPLE_S = 0.5
_LONGEST_PAUSE_S = 2.0
_SHARE = 0.05  # The largest share of the worker's time that sampling may take, even with very many processes.


class Sample(NamedTuple):
    """The measurements of one attempt.

    Attributes:
        processes: The attempt's processes.
        usage: The resources that these processes use.
        exceeded: Why the attempt must be killed; None if the attempt is within its limits.
    """

    processes: list[Process]
    usage: usage.Usage
    exceeded: LimitExceeded | None


class Sampler:
    """Measures the attempts of one worker.

    Args:
        enforcement: The object that enforces the limits of attempts.
    """

    def __init__(self, enforcement: Enforcement) -> None:
        self._enforcement = enforcement
        self._table = ProcessTable()
        # The thread is started before the first sample is needed, because a task may use up the limit of processes, and
        # then no thread can start.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "sampler")
        self._thread.submit(int)

    async def sample(self, attempts: Sequence[tuple[Attempt, str]]) -> list[Sample]:
        """Measure the processes of attempts, and return one sample for each attempt.

        Args:
            attempts: Pairs of an attempt and the mark in the environment of its processes.
        """
        if not attempts and self._enforcement.pause():
            return []
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._sample, attempts)

    async def find_processes(self, attempt: Attempt, mark: str) -> list[Process]:
        """Return the processes of one attempt.

        Args:
            attempt: The record of the attempt on this worker.
            mark: The mark in the environment of its processes.
        """
        return (await self.find_all_processes([(attempt, mark)]))[0]

    async def find_all_processes(self, attempts: Sequence[tuple[Attempt, str]]) -> list[list[Process]]:
        """Return the processes of each of several attempts, with one pass over /proc.

        Args:
            attempts: Pairs of an attempt and the mark in the environment of its processes.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._find_processes, attempts)

    async def kill(self, processes: Sequence[Process]) -> None:
        """Kill processes together with their process groups."""
        await asyncio.get_running_loop().run_in_executor(self._thread, process_table.kill, processes)

    def _find_processes(self, attempts: Sequence[tuple[Attempt, str]]) -> list[list[Process]]:
        running = [(attempt.process, mark) for attempt, mark in attempts]
        marks = {process.pid: mark for process, mark in running if process is not None}
        found = self._table.refresh(marks) if marks else {}
        return [[] if process is None else found[process.pid] for process, _ in running]

    def _sample(self, attempts: Sequence[tuple[Attempt, str]]) -> list[Sample]:
        self._enforcement.refresh()
        running = [(attempt, attempt.process, mark) for attempt, mark in attempts]
        marks = {process.pid: mark for _, process, mark in running if process is not None}
        found = self._table.refresh(marks) if marks else {}
        samples = []
        for attempt, process, _ in running:
            processes = [] if process is None else found[process.pid]
            exceeded = None if attempt.enforcer is None else attempt.enforcer.check(processes)
            written = sum(attempt.log.offsets[:2])
            measured = usage.measure(attempt.usage, processes, attempt.started_s, written)
            samples.append(Sample(processes, measured, exceeded))
        return samples


def pause_s(took_s: float) -> float:
    """Return how long to pause after a check that took `took_s` seconds."""
    return min(max(SAMPLE_S, took_s / _SHARE), _LONGEST_PAUSE_S)
