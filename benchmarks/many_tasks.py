"""One job of 200 tasks of `true`, ms per task, beside 200 bare spawns one after the other.

On a local cluster that is up, alternating with the peer. Warm-up: one job and one row of spawns, not counted.
"""

from __future__ import annotations

import subprocess
import time

from benchmarks.measure import CpuClock, aim, our_processes, p50, p95, show
from iris.client import IrisClient
from iris.rpc import cluster_pb2

_TASKS = 200
_REPEATS = 5
_LIMIT_MS = 6.0
_AIM_MS = 2.0


def run() -> None:
    """Prints the figures."""
    with IrisClient.local() as client:
        clocks = {
            "controller": CpuClock(our_processes("iris.server")),
            "worker": CpuClock(our_processes("iris.cluster.worker")),
        }
        _job_ms(client)
        _spawns_ms()
        jobs, spawns = [], []
        for _ in range(_REPEATS):
            for clock in clocks.values():
                clock.start()
            jobs.append(_job_ms(client))
            for clock in clocks.values():
                clock.stop()
            spawns.append(_spawns_ms())
    job, spawn = p50(jobs), p50(spawns)
    show(
        "many_tasks",
        f"{job:.2f} ms a task in a job of {_TASKS} `true` (p50 of {_REPEATS} jobs, p95 {p95(jobs):.2f} ms;"
        f" {aim(job, _LIMIT_MS, 'ms')}, {aim(job, _AIM_MS, 'ms')})",
    )
    show(
        "many_tasks",
        f"{spawn:.2f} ms a bare Popen and wait, one after the other: Iris takes {job / spawn:.1f} times that"
        f" (p50 of {_REPEATS} rows of {_TASKS}, p95 {p95(spawns):.2f} ms)",
    )
    cpu_ms = {who: clock.used_s * 1000 / (_REPEATS * _TASKS) for who, clock in clocks.items()}
    show("many_tasks", "CPU a task: " + ", ".join(f"{who} {ms:.2f} ms" for who, ms in cpu_ms.items()))


def _job_ms(client: IrisClient) -> float:
    start = time.perf_counter()
    job = client.run(["true"], replicas=_TASKS)
    status = client.wait(job.job_id)
    elapsed_s = time.perf_counter() - start
    if status.state != cluster_pb2.JOB_STATE_SUCCEEDED or status.tasks_succeeded != _TASKS:
        raise RuntimeError(f"the job did not succeed: {status.error or status.status_message}")
    return elapsed_s * 1000 / _TASKS


def _spawns_ms() -> float:
    start = time.perf_counter()
    for _ in range(_TASKS):
        subprocess.Popen(["true"]).wait()
    return (time.perf_counter() - start) * 1000 / _TASKS
