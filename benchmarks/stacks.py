"""A busy task from which 1,000 stacks are read, beside the same task without readings.

The task repeats a computation until the benchmark stops it. Then it prints the number of its rounds, its CPU time and
its elapsed time. The figures are the CPU time and the elapsed time of a round with readings, beside those of a round
without readings. Tasks with and without readings run alternately, for the same time. The readings are calls of
`client.stacks`, one after the other. py-spy does not stop the process that it reads, but it uses a core itself.
Therefore the elapsed time is meaningful only if the machine has a free core for it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import aim, p50, show
from iris.client import IrisClient

_NAME = "stacks"
_READINGS = 1000  # Of all tasks together.
_PAIRS = 20
_AIM_TIMES = 1.01
# The argument is the file that ends the program.
_PROGRAM = """
import json, os, sys, time

def spin():
    return sum(number * number % 7 for number in range(10_000))

print("up", flush=True)
rounds, cpu_s, began_s = 0, time.process_time(), time.perf_counter()
while not os.path.exists(sys.argv[1]):
    spin()
    rounds += 1
print(json.dumps([rounds, time.process_time() - cpu_s, time.perf_counter() - began_s]), flush=True)
"""


def run() -> None:
    """Print the figures."""
    count = _READINGS // _PAIRS
    found, took_s = 0, 0.0
    with_readings: list[tuple[float, float]] = []
    without: list[tuple[float, float]] = []

    def read(job_id: str) -> None:
        nonlocal found, took_s
        began_s = time.perf_counter()
        found += _read(client, job_id, count)
        took_s = time.perf_counter() - began_s

    with IrisClient.local() as client:
        _measure(client, lambda job_id: _read(client, job_id, 10))  # Warm-up, which does not count.
        for _ in range(_PAIRS):
            with_readings.append(_measure(client, read))
            without.append(_measure(client, lambda _: time.sleep(took_s)))
    for position, name in enumerate(("CPU time", "elapsed time")):
        ours, bare = (p50([times[position] for times in side]) for side in (with_readings, without))
        show(
            _NAME,
            f"{name} of a round of a busy task, {count} readings each: {ours * 1e6:.1f} µs, without readings"
            f" {bare * 1e6:.1f} µs: {ours / bare:.4f} times (p50 of {_PAIRS}; {aim(ours / bare, _AIM_TIMES, 'times')})",
        )
    show(_NAME, f"{found:,} of {count * _PAIRS:,} readings had stacks; {took_s / count * 1000:.0f} ms a reading")


def _measure(client: IrisClient, meanwhile: Callable[[str], object]) -> tuple[float, float]:
    """Run a busy task, call a function with the id of its job meanwhile, and end the task. Return the CPU seconds and
    the elapsed seconds of a round.
    """
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as directory:
        stop = Path(directory) / "stop"
        job = client.run([sys.executable, "-c", _PROGRAM, str(stop)])
        with client.stream_task_logs(job.job_id, 0) as lines:
            next(iter(lines))
        meanwhile(job.job_id)
        stop.touch()
        job.wait()
    rounds, cpu_s, elapsed_s = json.loads(client.cluster.fetch_task_logs(f"{job.job_id}/task-0")[-1].data)
    return cpu_s / rounds, elapsed_s / rounds


def _read(client: IrisClient, job_id: str, count: int) -> int:
    """Read the stacks of a job several times, and return the number of readings that had stacks."""
    found = 0
    for _ in range(count):
        (task,) = client.stacks(job_id).tasks
        if task.reason:
            raise RuntimeError(f"the task cannot be read: {task.problem}")
        found += any(process.threads for process in task.processes)
    return found


if __name__ == "__main__":
    run()
