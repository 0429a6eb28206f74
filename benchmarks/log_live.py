"""From print() in a task to the line in a reader that follows it, and from the task's exit to the end of the follow.

Each line says when it was printed, by the monotonic clock, which all processes of this machine share. The task is one
Python program that calls print(…, flush=True) for each line of 100 bytes; at 10,000 lines/s, those that are due in the
same millisecond are printed one right after the other. The reader is `client.stream_task_logs` in this process, and is
there before the first of them is due.

The end: the last line is printed right before os._exit(); until the iteration ends. Warm-up: 3 follows, not counted.
"""

from __future__ import annotations

import os
import tempfile
import time

import psutil

from benchmarks.log_task import writes_by_the_clock
from benchmarks.measure import CpuClock, aim, our_processes, p50, p99, show
from iris.client import IrisClient

# Lines a second, and how many lines.
_RATES = ((1, 20), (100, 1_000), (10_000, 100_000))
_ENDS = 30
_WARM_UP = 3
_AIM_P50_MS = 5.0
_AIM_P99_MS = 25.0
_AIM_END_MS = 50.0
_NAME = "log_live"


def run() -> None:
    """Prints the figures."""
    with IrisClient.local() as client, tempfile.TemporaryDirectory(prefix="iris-bench-") as directory:
        ends = [_follow(client, directory, 100, 1)[1] for _ in range(_WARM_UP + _ENDS)][_WARM_UP:]
        clocks = {
            "reader": CpuClock([psutil.Process()]),
            "worker": CpuClock(our_processes("iris.cluster.worker")),
            "controller": CpuClock(our_processes("iris.server")),
        }
        for rate, count in _RATES:
            for clock in clocks.values():
                clock.used_s = 0.0
                clock.start()
            start = time.perf_counter()
            latencies, _ = _follow(client, directory, rate, count)
            elapsed_s = time.perf_counter() - start
            for clock in clocks.values():
                clock.stop()
            half, most = p50(latencies), p99(latencies)
            show(
                _NAME,
                f"{half:.2f} ms p50, {most:.2f} ms p99 from print to the reader at {rate:,} lines/s"
                f" ({count:,} lines, at most {max(latencies):.1f} ms; {aim(half, _AIM_P50_MS, 'ms')},"
                f" {aim(most, _AIM_P99_MS, 'ms')})",
            )
            used = ", ".join(f"{who} {clock.used_s / elapsed_s:.1%}" for who, clock in clocks.items())
            show(_NAME, f"CPU of a core at {rate:,} lines/s: {used}")
    show(
        _NAME,
        f"{p50(ends):.1f} ms from the exit of the task to the end of the follow (p50 of {_ENDS}, at most"
        f" {max(ends):.1f} ms; {aim(max(ends), _AIM_END_MS, 'ms')})",
    )


def _follow(client: IrisClient, directory: str, rate: float, count: int) -> tuple[list[float], float]:
    """Follows a task that prints so many lines a second, once it is read; latencies of lines and of the end, ms."""
    gate = os.path.join(directory, str(time.monotonic_ns()))
    job = client.run(writes_by_the_clock(gate, rate, count))
    latencies = []
    printed_ns = expected = 0
    with client.stream_task_logs(job.job_id, 0) as lines:
        for line in lines:
            now_ns = time.monotonic_ns()
            if line.data == b"ready":
                os.mknod(gate)
                continue
            number, printed = line.data.split(None, 2)[:2]
            printed_ns = int(printed)
            if int(number) != expected:
                raise RuntimeError(f"line {expected} is missing: {line!r}")
            expected += 1
            latencies.append((now_ns - printed_ns) / 1e6)
        end_ms = (time.monotonic_ns() - printed_ns) / 1e6
    if expected != count + 1:
        raise RuntimeError(f"{expected} lines of {count + 1} have come")
    return latencies, end_ms
