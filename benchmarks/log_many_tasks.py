"""A job of 256 tasks that print 100 lines/s each for 10 s, followed as one by client.stream_job_logs.

Each task is a Python program that sleeps until a line of 100 bytes is due and writes it. All of them run and wait
before the first line is due; what they print then is spread evenly over time. A line says when it was written, by the
monotonic clock, which all processes of this machine share. What the tasks take of the machine is printed, too: 25,600
times a second one of them is woken.
"""

from __future__ import annotations

import os
import tempfile
import time

import psutil

from benchmarks.log_task import writes_as_one_of_many
from benchmarks.measure import CpuClock, aim, our_processes, p50, p99, show
from iris.client import IrisClient

_TASKS = 256
_LINES_S = 100
_SECONDS = 10
_LEAD_S = 3.0  # tasks look for the gate twice a second
_AIM_P99_MS = 100.0
_NAME = "log_many_tasks"


def run() -> None:
    """Prints the figures."""
    count = _LINES_S * _SECONDS
    latencies: list[float] = []
    expected = [0] * _TASKS
    ready = 0
    tasks_cpu_s = 0.0
    with IrisClient.local() as client, tempfile.TemporaryDirectory(prefix="iris-bench-") as directory:
        gate = os.path.join(directory, "gate")
        job = client.run(writes_as_one_of_many(gate, _LINES_S, count), replicas=_TASKS)
        clocks = {
            "worker": CpuClock(our_processes("iris.cluster.worker")),
            "controller": CpuClock(our_processes("iris.server")),
            "reader": CpuClock([psutil.Process()]),
        }
        begin = 0.0
        with client.stream_job_logs(job.job_id) as lines:
            for line in lines:
                now_ns = time.monotonic_ns()
                first, second = line.data.split(None, 2)[:2] if line.data != b"ready" else (b"ready", b"")
                if first == b"ready":
                    ready += 1
                    if ready == _TASKS:
                        begin = _open(gate)
                        for clock in clocks.values():
                            clock.start()
                elif first == b"cpu":
                    tasks_cpu_s += int(second) / 1e9
                elif int(first) != expected[line.task_index]:
                    raise RuntimeError(f"line {expected[line.task_index]} of task {line.task_index} is missing")
                else:
                    expected[line.task_index] += 1
                    latencies.append((now_ns - int(second)) / 1e6)
        elapsed_s = time.monotonic() - begin
        for clock in clocks.values():
            clock.stop()
    lost = _TASKS * count - sum(expected)
    half, most = p50(latencies), p99(latencies)
    show(
        _NAME,
        f"{half:.1f} ms p50, {most:.1f} ms p99 from write to the reader of {_TASKS} tasks of {_LINES_S} lines/s"
        f" ({len(latencies):,} lines, {lost} lost, at most {max(latencies):.0f} ms; {aim(most, _AIM_P99_MS, 'ms')})",
    )
    used = ", ".join(f"{who} {clock.used_s:.1f} s" for who, clock in clocks.items())
    show(
        _NAME,
        f"CPU of {elapsed_s:.1f} s on {os.cpu_count()} cores: {used}; the tasks themselves {tasks_cpu_s:.1f} s",
    )


def _open(gate: str) -> float:
    """Opens the gate: the tasks begin in a moment. When that is, on the monotonic clock."""
    begin = time.monotonic() + _LEAD_S
    with open(f"{gate}.new", "w") as file:
        file.write(str(int(begin * 1e9)))
    os.rename(f"{gate}.new", gate)
    return begin
