"""Monitors the running attempts: measures their usage and stops attempts that exceed their limits."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable

from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.limits import gpu_usage, usage
from iris.cluster.worker.limits.process_table import Process
from iris.cluster.worker.limits.sampler import Sampler, pause_s
from iris.cluster.worker.supervision.strays import StrayProcesses

# The usage is reported, and stray processes are killed, once in this number of checks.
_REPORT_EVERY = 4
# Directories are measured less often than processes, because measuring a directory costs more.
_DISK_S = 30.0
_log = logging.getLogger(__name__)


class AttemptMonitor:
    """Monitors the attempts of one worker.

    Args:
        registry: The object that stores the attempts of this worker.
        sampler: The object that measures the processes of attempts, in a thread.
        token: The worker's token. Each process of an attempt has a mark in its environment, and the mark begins with
            this token.
        strays: The object that kills the processes that left the group of their attempt.
        report: A function that is called with each attempt whose usage was measured.
    """

    def __init__(
        self,
        registry: AttemptRegistry,
        sampler: Sampler,
        token: str,
        strays: StrayProcesses,
        report: Callable[[Attempt], None],
    ) -> None:
        self._registry = registry
        self._sampler = sampler
        self._token = token
        self._strays = strays
        self._report = report

    async def run(self) -> None:
        """Monitor the processes of attempts until the worker ends."""
        for count in itertools.count():
            began_s = time.monotonic()
            try:
                await self._check(with_report=count % _REPORT_EVERY == 0)
            except Exception:  # noqa: BLE001 - Limits must be enforced after any error.
                _log.exception("checking the attempts")
            await asyncio.sleep(pause_s(time.monotonic() - began_s))

    async def measure_disks(self) -> None:
        """Measure the sizes of the attempts' directories repeatedly until the worker ends."""
        while True:
            await asyncio.sleep(_DISK_S)
            for attempt in self._registry.with_process():
                measured = await asyncio.to_thread(usage.disk_bytes, attempt.directory.path)
                if attempt.process is not None:
                    attempt.usage.disk_bytes = measured

    async def measure_gpus(self) -> None:
        """Measure the use of the attempts' GPUs repeatedly until the worker ends."""
        while True:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            devices = [
                (attempt, gpu_usage.gpus_of(attempt.request, visible)) for attempt in self._registry.with_process()
            ]
            if any(gpus for _, gpus in devices):
                found = await asyncio.to_thread(gpu_usage.measure)
                for attempt, gpus in devices:
                    used = gpu_usage.total(found, gpus)
                    if attempt.process is not None:
                        attempt.usage.gpu_percent = None if used is None else used.percent
                        attempt.usage.gpu_memory_bytes = 0 if used is None else used.memory_mb * 2**20
            await asyncio.sleep(gpu_usage.GPU_S)

    async def _check(self, *, with_report: bool) -> None:
        if with_report:
            for attempt in self._registry.with_process():
                if attempt.log.check_directory():
                    # A reader of a log page sees a gap only together with the line that follows the gap. Therefore the
                    # worker writes a line about the missing output at once.
                    attempt.write_build_line(attempt.log.warning)
            self._registry.close_logs()
            await self._strays.kill()
        attempts = self._registry.with_process()
        samples = await self._sampler.sample([(attempt, attempt.mark(self._token)) for attempt in attempts])
        guilty: list[Process] = []
        for attempt, sample in zip(attempts, samples, strict=True):
            if attempt.process is None:
                continue  # An attempt that has ended while its processes were measured needs no further check.
            if with_report:
                sample.usage.disk_bytes = attempt.usage.disk_bytes
                sample.usage.gpu_percent = attempt.usage.gpu_percent
                sample.usage.gpu_memory_bytes = attempt.usage.gpu_memory_bytes
                attempt.usage = sample.usage
                self._report(attempt)
            attempt.usage.memory_peak_bytes = sample.usage.memory_peak_bytes
            if sample.exceeded is not None:
                guilty += sample.processes
                if attempt.stop_grace_s is None and not attempt.timed_out:
                    attempt.exceeded = attempt.exceeded or sample.exceeded
        if guilty:  # If a process survives the kill, later checks kill the process again.
            await self._sampler.kill(guilty)
