"""How figures are taken and told: percentiles, aims, the line that is printed, and who used how much CPU."""

from __future__ import annotations

import math
import os
import signal
import statistics
import sys
from collections.abc import Iterable, Sequence

import psutil


def p50(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """The smallest value that at least 95 % are not above; of fewer than 20 values the largest."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def p99(values: Sequence[float]) -> float:
    """The smallest value that at least 99 % are not above; of fewer than 100 values the largest."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def aim(value: float, limit: float, unit: str) -> str:
    """An aim, and whether a value is below it: `aim < 50 ms: met`."""
    return f"aim < {limit:g}{unit and f' {unit}'}: {'met' if value < limit else 'MISSED'}"


def aim_at_least(value: float, limit: float, unit: str) -> str:
    """An aim, and whether a value reaches it: `aim >= 400 MB/s: met`."""
    return f"aim >= {limit:g}{unit and f' {unit}'}: {'met' if value >= limit else 'MISSED'}"


def show(name: str, text: str) -> None:
    """Prints one figure."""
    try:
        print(f"{name:<14} {text}", flush=True)
    except BrokenPipeError:  # `| head` has read enough: clean up, and no traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def plain_environment() -> dict[str, str]:
    """Our environment without what changes how Python starts or imports, or makes a child part of a job."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "IRIS_"))}


class CpuClock:
    """CPU seconds, user and system, that processes have used themselves; their children are not counted.

    The kernel tells it in ticks of 10 ms: good for sums over hundreds of calls, not for one.

    Args:
        processes: Which, together; one that ends meanwhile is an error (`psutil.NoSuchProcess`).
    """

    def __init__(self, processes: Iterable[psutil.Process]) -> None:
        self._processes = list(processes)
        self._started = 0.0
        self.used_s = 0.0

    def start(self) -> None:
        """Begins a stretch that counts."""
        self._started = self._read()

    def stop(self) -> None:
        """Ends it, and adds it to `used_s`."""
        self.used_s += self._read() - self._started

    def _read(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return sum(time.user + time.system for time in times)


def our_processes(module: str) -> list[psutil.Process]:
    """The processes below this one that run `python -m MODULE`; none when a cluster is built in another way.

    A local server forks its workers, which keep its command line, but have names like `iris-worker`.
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("iris-"):
                is_ours = module == "iris.cluster.worker"
            else:
                is_ours = module in process.cmdline()
        except psutil.Error:
            continue  # it has just ended
        if is_ours:
            found.append(process)
    return found
