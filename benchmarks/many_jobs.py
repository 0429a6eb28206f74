"""2,000 jobs of one task and one of 5,000, placed on a fake engine by the real controller; what waits, lists, watches.

The controller and a worker that runs nothing are processes of their own, see `load_peers.py`, so that what is measured
is the controller: each figure has its CPU. The machine has 64 cores on paper. Every task goes all the way: saved,
placed, sent to its worker, reported as running and as succeeded.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from benchmarks.measure import CpuClock, aim, p50, show
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.types import is_job_finished
from iris.rpc import cluster_pb2

_NAME = "many_jobs"
_CPUS = 64
_JOBS = 2000
_TASKS = 5000
_CLIENTS = 4
_WAITING = (100, 1000, 5000)
_SMALL_JOBS = 200
_WATCHERS = 500
_AIM_GROWTH = 1.5


@dataclass(slots=True)
class _Cluster:
    client: RemoteClusterClient
    controller: psutil.Process

    def rss(self) -> int:
        return int(self.controller.memory_info().rss)


def run() -> None:
    """Prints the figures."""
    for measure in (_many_jobs, _many_tasks, _what_waiting_costs, _what_watching_costs):
        with _cluster() as cluster:
            measure(cluster)


def _many_jobs(cluster: _Cluster) -> None:
    before = cluster.rss()
    with _timed(cluster) as submitting, _timed(cluster) as all_of_it:
        with ThreadPoolExecutor(_CLIENTS) as pool:
            job_ids = list(pool.map(lambda number: _launch(cluster, f"job-{number}"), range(_JOBS)))
        submitting.stop()
        for job_id in job_ids:
            _wait(cluster, job_id)
    after = cluster.rss()
    show(
        _NAME,
        f"{_JOBS} jobs of 1 task: {_JOBS / submitting.elapsed_s:.0f} submissions/s from {_CLIENTS} clients,"
        f" all ended after {all_of_it.elapsed_s:.1f} s; controller CPU {all_of_it.cpu_s * 1000 / _JOBS:.2f} ms a job,"
        f" memory {(after - before) / _JOBS / 1024:.1f} KiB a job",
    )
    listing = [_time_of(cluster.client.list_jobs) for _ in range(5)]
    show(_NAME, f"list_jobs of {_JOBS}: {p50(listing) * 1000:.0f} ms")


def _many_tasks(cluster: _Cluster) -> None:
    for independent in (False, True):
        kind = "independent" if independent else "gang"
        before = cluster.rss()
        with _timed(cluster) as timed:
            job_id = _launch(cluster, kind, replicas=_TASKS, independent=independent)
            _wait(cluster, job_id)
        show(
            _NAME,
            f"1 job of {_TASKS} tasks ({kind}): ended after {timed.elapsed_s:.1f} s;"
            f" controller CPU {timed.cpu_s * 1000 / _TASKS:.2f} ms a task,"
            f" memory {(cluster.rss() - before) / _TASKS / 1024:.1f} KiB a task",
        )
    size = sum(task.ByteSize() for task in cluster.client.list_tasks(job_id))
    listing = [_time_of(lambda: cluster.client.list_tasks(job_id)) for _ in range(5)]
    status = [_time_of(lambda: cluster.client.get_job_status(job_id)) for _ in range(5)]
    show(
        _NAME,
        f"list_tasks of {_TASKS}: {p50(listing) * 1000:.0f} ms, {size / _TASKS:.0f} bytes a task;"
        f" get_job_status {p50(status) * 1000:.0f} ms",
    )


def _what_waiting_costs(cluster: _Cluster) -> None:
    """Small jobs that need nothing run past gangs that wait, one after the other."""
    _launch(cluster, "holder", ["hold"], cpu=_CPUS)
    cost_ms: list[float] = []
    waiting = 0
    for count in (0, *_WAITING):
        for number in range(waiting, count):
            _launch(cluster, f"waits-{number}", cpu=1 + number % 7)
        waiting = count
        for number in range(5):
            _wait(cluster, _launch(cluster, f"warm-up-{count}-{number}"))
        with _timed(cluster) as timed:
            for number in range(_SMALL_JOBS):
                _wait(cluster, _launch(cluster, f"passes-{count}-{number}"))
        cost_ms.append(timed.cpu_s * 1000 / _SMALL_JOBS)
        show(
            _NAME,
            f"a small job while {count} jobs wait: {timed.elapsed_s * 1000 / _SMALL_JOBS:.1f} ms,"
            f" controller CPU {cost_ms[-1]:.2f} ms",
        )
    growth = cost_ms[-1] / cost_ms[1]
    show(_NAME, f"… CPU with {_WAITING[-1]} beside {_WAITING[0]}: {growth:.1f} times ({aim(growth, _AIM_GROWTH, '')})")


def _what_watching_costs(cluster: _Cluster) -> None:
    """One job of 5,000 independent tasks, with and without clients that watch it."""
    cost_s = []
    for watchers in (0, _WATCHERS):
        messages = [0]
        # It waits behind one that holds all, so that all watch it from its beginning.
        holder = _launch(cluster, f"holder-{watchers}", ["hold"], cpu=_CPUS)
        job_id = _launch(cluster, f"watched-{watchers}", replicas=_TASKS, independent=True, cpu=1)
        with _watched(cluster, job_id, watchers, messages), _timed(cluster) as timed:
            cluster.client.terminate_job(holder)
            _wait(cluster, job_id)
        cost_s.append(timed.cpu_s)
        told = f", {messages[0] / watchers:.0f} messages each" if watchers else ""
        show(
            _NAME,
            f"a job of {_TASKS} tasks with {watchers} watchers: ended after {timed.elapsed_s:.1f} s,"
            f" controller CPU {timed.cpu_s:.1f} s{told}",
        )


@contextlib.contextmanager
def _watched(cluster: _Cluster, job_id: str, watchers: int, messages: list[int]) -> Iterator[None]:
    """Watchers in a process of their own: 500 threads here would be slower than the controller."""
    if not watchers:
        yield
        return
    words = [sys.executable, "-m", "benchmarks.load_watchers", cluster.client.controller_address, job_id, str(watchers)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # all watch
        yield
        messages[0] = int(process.stdout.readline())


class _Stretch:
    """Wall time, and CPU of the controller."""

    def __init__(self, controller: psutil.Process) -> None:
        self._clock = CpuClock([controller])
        self._clock.start()
        self._begin = time.perf_counter()
        self.elapsed_s = 0.0

    def stop(self) -> None:
        if not self.elapsed_s:
            self.elapsed_s = time.perf_counter() - self._begin
            self._clock.stop()

    @property
    def cpu_s(self) -> float:
        return self._clock.used_s


@contextlib.contextmanager
def _timed(cluster: _Cluster) -> Iterator[_Stretch]:
    stretch = _Stretch(cluster.controller)
    yield stretch
    stretch.stop()


@contextlib.contextmanager
def _cluster() -> Iterator[_Cluster]:
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as directory, contextlib.ExitStack() as stack:
        controller = stack.enter_context(_peer("controller", directory, str(_CPUS)))
        address, os.environ["IRIS_TOKEN"] = _line(controller).split()  # the others inherit it
        worker = stack.enter_context(_peer("worker", address))
        _line(worker)
        client = stack.enter_context(RemoteClusterClient(address, timeout_s=300))
        yield _Cluster(client, psutil.Process(controller.pid))


@contextlib.contextmanager
def _peer(*words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load_peers", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline().strip() if process.stdout is not None else ""
    if not line:
        raise RuntimeError("a peer ended; its reason is above")
    return line


def _launch(
    cluster: _Cluster,
    name: str,
    command: list[str] | None = None,
    *,
    replicas: int = 1,
    independent: bool = False,
    cpu: int = 0,
) -> str:
    request = cluster_pb2.Controller.LaunchJobRequest(
        name=name, command=command or ["true"], submission_id=name, independent_tasks=independent
    )
    request.resources.replicas = replicas
    request.resources.cpu = cpu
    return cluster.client.launch_job(request)


def _wait(cluster: _Cluster, job_id: str) -> None:
    for job in cluster.client.watch_job(job_id):
        if is_job_finished(job.state) and job.state != cluster_pb2.JOB_STATE_SUCCEEDED:
            raise RuntimeError(f"job {job_id} did not succeed: {job.error}")


def _time_of(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
