"""How much ended jobs cost: 1,000, 10,000 and 100,000 of them, written through the store.

With `IRIS_BENCH_MILLION=1` in the environment, a million jobs are measured as well. For each number of jobs, a server
is started on a state directory with these jobs, which ended without logs. The figures are the memory of controller and
worker after the calls, the time from the start of the server until it answers beside the time with an empty state
directory, the calls of `iris ps`, the status of old jobs, and the bytes and files of a job.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks.measure import CpuClock, aim, our_processes, p50, p95, show
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import start_server
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import SUCCEEDED, AttemptEnd, WorkerIdentity
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.types import FINAL_STATES, STATE_NAMES
from iris.config import ClusterConfig
from iris.rpc import cluster_pb2

_NAME = "growth"
_SIZES = (1_000, 10_000, 100_000)
_MILLION = "IRIS_BENCH_MILLION"  # Set this variable to measure a million jobs as well, which takes some minutes.
_BATCH = 2_000
_CALLS = 50
_MOST_MEMORY = 1.2  # The aim: the memory with any number of jobs, as a multiple of the memory with the fewest.
_LIMITS_S = {100_000: 1.0, 1_000_000: 3.0}
_UNFINISHED = [name for number, name in STATE_NAMES.items() if number and number not in FINAL_STATES]
_ENDED = [STATE_NAMES[number] for number in sorted(FINAL_STATES)]


def run() -> None:
    """Prints the figures."""
    first: dict[str, float] = {}
    empty_s = 0.0
    for jobs in (0, *_SIZES, *([1_000_000] if os.environ.get(_MILLION) else [])):
        with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
            directory = Path(name) / "state"
            directory.mkdir(mode=0o700)
            size = fill(directory / "controller.db", jobs)
            if not jobs:
                empty_s = p50([_started_s(directory) for _ in range(3)])
                continue
            _measure(directory, jobs, size, empty_s, first)


def _measure(directory: Path, jobs: int, size: int, empty_s: float, first: dict[str, float]) -> None:
    label = f"{jobs:>9,} jobs:"
    more_s = p50([_started_s(directory) for _ in range(3)]) - empty_s
    limit_s = _LIMITS_S.get(jobs)
    show(
        _NAME,
        f"{label} {size / jobs:.0f} bytes of database a job ({aim(size / jobs, 1024, 'bytes')}),"
        f" {_files(directory) / jobs:.3f} files a job; the start takes {more_s:.2f} s more than without jobs"
        + (f" ({aim(more_s, limit_s, 's')})" if limit_s else ""),
    )
    server = start_server(ClusterConfig(state_dir=directory, port=0), ends_with_us=True)
    try:
        with RemoteClusterClient(server.address, token=server.token) as client:
            controller = our_processes("iris.server")
            listed = _calls(lambda: _list_as_ps(client), controller)
            names = random.Random(jobs).sample(range(jobs), _CALLS)
            old = iter([f"sweep-{number}" for number in names] * 2)
            status = _calls(lambda: client.get_job_status(next(old)), controller)
            show(
                _NAME,
                f"{label} `iris ps` {p50(listed[0]):.1f} ms (p95 {p95(listed[0]):.1f}), {listed[1]:.1f} ms CPU of the"
                f" controller ({aim(p50(listed[0]), 50, 'ms')}); the status of an old job {p50(status[0]):.1f} ms"
                f" (p95 {p95(status[0]):.1f}), {status[1]:.1f} ms CPU",
            )
            shown = []
            for name, program in (("controller", "iris.server"), ("worker", "iris.cluster.worker")):
                rss = sum(process.memory_info().rss for process in our_processes(program)) / 2**20
                ratio = rss / first.setdefault(name, rss)
                shown.append(f"{name} {rss:.0f} MiB, {ratio:.2f} times ({aim(ratio, _MOST_MEMORY, 'times')})")
            show(_NAME, f"{label} memory: {'; '.join(shown)}")
    finally:
        server.stop()


def _list_as_ps(client: RemoteClusterClient) -> None:
    client.list_jobs(states=_UNFINISHED, newest_first=True, limit=50)
    client.list_jobs(states=_ENDED, newest_first=True, limit=10)
    client.count_jobs()


def _calls(call: Callable[[], object], processes: list[psutil.Process]) -> tuple[list[float], float]:
    """The durations of calls in ms, and the CPU time of a call in ms."""
    call()
    clock, times = CpuClock(processes), []
    clock.start()
    for _ in range(_CALLS):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    clock.stop()
    return times, clock.used_s * 1000 / _CALLS


def _started_s(directory: Path) -> float:
    """The time from the start of a server until it answers."""
    start = time.perf_counter()
    server = start_server(ClusterConfig(state_dir=directory, port=0), ends_with_us=True)
    elapsed_s = time.perf_counter() - start
    server.stop()
    return elapsed_s


def fill(path: Path, jobs: int) -> int:
    """Writes ended jobs of one task; the size of the database."""
    store = Store(path)
    for begin in range(0, jobs, _BATCH):
        changes = Changes()
        for record in _ended(range(begin, min(jobs, begin + _BATCH))):
            changes.add_job(record, b"")
        store.write(changes)
    store.close()
    return path.stat().st_size


def _ended(numbers: range) -> Iterator[JobRecord]:
    worker = WorkerIdentity("worker-0", "http://10.0.0.17:34567", "0123456789abcdef0123456789abcdef")
    for number in numbers:
        at_ms = 1_700_000_000_000 + number * 1000
        job = Job.new(f"sweep-{number}", 1, at_ms)
        job.owner = f"user-{number % 7}"
        job.submit()
        job.gang_placed(next(iter(job.gangs)), [worker])
        job.attempt_running(0, 0, at_ms + 20)
        job.attempt_ended(0, 0, AttemptEnd(SUCCEEDED, at_ms + 40, exit_code=0))
        launch = cluster_pb2.Controller.LaunchJobRequest(
            name=job.job_id, command=["true"], submission_id=f"{number:032x}"
        )
        facts = cluster_pb2.TaskStatus()
        facts.resource_usage.memory_peak_mb = 3
        facts.build_metrics.build_started_ms, facts.build_metrics.build_finished_ms = at_ms, at_ms + 10
        yield JobRecord(job, launch, [facts])


def _files(directory: Path) -> int:
    return sum(len(files) + len(folders) for _, folders, files in os.walk(directory))
