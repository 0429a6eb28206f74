"""Measures the process of a server: CPU time, memory, file descriptors, and the lag of the event loop. All client
libraries of Prometheus use the same metric names that begin with `process_`. Therefore existing dashboards work.
"""

from __future__ import annotations

import asyncio
import os
import time

from iris.metrics.definitions import Family, counter, gauge, histogram
from iris.metrics.tallies import CALL_SECONDS, Histogram
from iris.system.clock import wall_s
from iris.system.event_loop import open_file_limit
from iris.versions import VERSION, python_version

BUILD = gauge(
    "iris_build_info", "Always 1. The labels are the release of Iris and the Python version.", "version", "python"
)
CPU = counter("process_cpu_seconds_total", "CPU time that the process has used, user and system together.")
MEMORY = gauge("process_resident_memory_bytes", "Memory of the process that is in RAM.")
OPEN_FILES = gauge("process_open_fds", "File descriptors that the process has open.")
MAX_FILES = gauge("process_max_fds", "File descriptors that the process may have open.")
START_TIME = gauge("process_start_time_seconds", "When the server started, in seconds since the epoch.")
LOOP_LAG = histogram(
    "iris_event_loop_lag_seconds",
    "How much later than planned the event loop ran a timer. One timer is measured every second. A large lag delays all"
    " calls.",
)
PROCESS_METRICS = (BUILD, CPU, MEMORY, OPEN_FILES, MAX_FILES, START_TIME, LOOP_LAG)

_DESCRIPTORS = "/proc/self/fd"
_LAG_S = 1.0


class ProcessMetrics:
    """The metrics of the process in which this object was made."""

    def __init__(self) -> None:
        self._started_s = wall_s()
        self._lag = Histogram(CALL_SECONDS)

    async def measure_lag(self) -> None:
        """Measure the lag of the running event loop once a second, until the task is cancelled."""
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(_LAG_S)
            self._lag.add(max(0.0, time.monotonic() - began_s - _LAG_S))

    def families(self) -> list[Family]:
        """Return the present values."""
        times = os.times()
        return [
            BUILD.labelled([((VERSION, python_version()), 1)]),
            CPU.one(times.user + times.system),
            MEMORY.one(_resident_bytes()),
            OPEN_FILES.one(count_descriptors()),
            MAX_FILES.one(open_file_limit()),
            START_TIME.one(self._started_s),
            LOOP_LAG.distribution(self._lag),
        ]


def count_descriptors() -> int:
    """Return how many file descriptors this process has open."""
    # Since Linux 6.2 the size of /proc/self/fd is the number of open descriptors. Older kernels report the size 0.
    return os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
