"""How long submissions and placements take while 50 pages are open, beside the same cluster without pages.

The cluster has a job of 10,000 tasks, most of which wait, and a task that writes 100 MB/s. A process of its own opens
the connections of 50 pages over HTTP/1.1, with cookies, as browsers do: 20 lists of jobs, 15 views of the large job, 5
logs of the writing task, 5 views of the machines and 5 of the cluster. `page_clients.py` says which calls the pages
make. Blocks without pages, with the 45 pages that read no log, and with all pages alternate.

`IRIS_BENCH_PAGES=lists,jobs` measures other kinds of pages than these two, for example one sort of page alone. The
kinds are in `page_clients.py`. The kind `readers` has 5 clients that follow the log at full speed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from benchmarks.measure import CpuClock, aim, p50, p95, show
from benchmarks.page_clients import LARGE_JOB, LOUD_JOB
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.config import ClusterConfig
from iris.rpc import cluster_pb2

_NAME = "open_pages"
_TASKS = 10_000
_BLOCKS = 30  # of each kind
_JOBS = 30  # in a block
_SETTLE_S = 1.5  # after the pages have opened or closed, until the block begins
_WARM_UP = 10
_AIM = 1.1
_KINDS = {"none": "no page", "quiet": "45 pages without logs", "all": "50 pages"}
if chosen := os.environ.get("IRIS_BENCH_PAGES"):
    _KINDS = {"none": "no page"} | {kind: f"pages of the kind {kind}" for kind in chosen.split(",")}
_WRITER = """
import os, time
block = (b"0123456789" * 9 + b"123456789\\n") * 1000
start, written = time.monotonic(), 0
while True:
    written += os.write(1, block)
    left = start + written / 100e6 - time.monotonic()
    if left > 0:
        time.sleep(left)
"""


@dataclass
class _Times:
    """The times of the jobs of one kind of block, in seconds, and the memory of the controller after each block."""

    launches: list[float] = field(default_factory=list)
    placements: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0


def run() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        config = ClusterConfig(state_dir=Path(name) / "state", port=0, workers=1)
        server = start_server(config, ends_with_us=True)
        try:
            with RemoteClusterClient(server.address, token=server.token, timeout_s=120) as client:
                _prepare(client)
                _measure(server, client)
        finally:
            server.stop()


def _prepare(client: RemoteClusterClient) -> None:
    total = client.list_machines().machines[0].total.cpu
    _launch(client, LARGE_JOB, ["sleep", "100000"], replicas=_TASKS, cpu=total, independent=True)
    _launch(client, LOUD_JOB, [sys.executable, "-S", "-c", _WRITER], max_log_bytes=1 << 28)
    for job in client.watch_job(LOUD_JOB):
        if job.state == cluster_pb2.JOB_STATE_RUNNING:
            return


def _measure(server: LocalServer, client: RemoteClusterClient) -> None:
    controller = psutil.Process(server.process.pid)
    times = {kind: _Times() for kind in _KINDS}
    for number in range(_WARM_UP):
        _run_job(client, f"warm-up-{number}")
    kinds, random = list(_KINDS), Random(1)
    with _PageProcess(server) as pages:
        for block in range(_BLOCKS):
            random.shuffle(kinds)
            for kind in kinds:
                if kind != "none":
                    pages.send(f"open {kind}")
                time.sleep(_SETTLE_S)
                _run_block(client, controller, f"{kind}-{block}", times[kind])
                if kind != "none":
                    pages.send("close")
    quiet = times["none"]
    for kind, words in _KINDS.items():
        one = times[kind]
        ratios = []
        for known, measured in ((quiet.launches, one.launches), (quiet.placements, one.placements)):
            ratio = p95(measured) / p95(known)
            beside = "" if kind == "none" else f", {ratio:.2f} times ({aim(ratio, _AIM, '')})"
            ratios.append(f"p50 {p50(measured) * 1000:.1f} ms, p95 {p95(measured) * 1000:.1f} ms{beside}")
        show(_NAME, f"{words}: LaunchJob {ratios[0]}; placement {ratios[1]}")
        first, last = (size / 2**20 for size in (one.memory[0], one.memory[-1]))
        share = one.cpu_s / one.wall_s * 100
        cpu_ms = one.cpu_s / len(one.launches) * 1000
        show(
            _NAME,
            f"{words}: controller {share:.0f} % of a core, {cpu_ms:.2f} ms of CPU time for each job, memory {first:.0f}"
            f" MiB after the first block, {last:.0f} MiB after the last one",
        )


def _run_block(client: RemoteClusterClient, controller: psutil.Process, name: str, times: _Times) -> None:
    clock, start = CpuClock([controller]), time.perf_counter()
    clock.start()
    for number in range(_JOBS):
        launched_s, placed_s = _run_job(client, f"{name}-{number}")
        times.launches.append(launched_s)
        times.placements.append(placed_s)
    clock.stop()
    times.cpu_s += clock.used_s
    times.wall_s += time.perf_counter() - start
    times.memory.append(controller.memory_info().rss)


def _run_job(client: RemoteClusterClient, name: str) -> tuple[float, float]:
    """Return how long the submission of a job took, and how long until its task had a place."""
    start = time.perf_counter()
    _launch(client, name, ["true"])
    launched_s = time.perf_counter() - start
    placed_s = 0.0
    for job in client.watch_job(name):
        if not placed_s and job.state != cluster_pb2.JOB_STATE_PENDING:
            placed_s = time.perf_counter() - start
    return launched_s, placed_s


def _launch(
    client: RemoteClusterClient,
    name: str,
    command: list[str],
    *,
    replicas: int = 1,
    cpu: int = 0,
    independent: bool = False,
    max_log_bytes: int = 0,
) -> None:
    request = cluster_pb2.Controller.LaunchJobRequest(
        name=name, command=command, submission_id=name, independent_tasks=independent
    )
    request.resources.replicas, request.resources.cpu = replicas, cpu
    if max_log_bytes:
        request.max_log_bytes = max_log_bytes
    client.launch_job(request)


class _PageProcess(contextlib.AbstractContextManager["_PageProcess"]):
    """The process that opens and closes the pages."""

    def __init__(self, server: LocalServer) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.page_clients", server.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write(server.token)

    def send(self, command: str) -> None:
        """Send a command, and wait until the process has carried it out."""
        self._write(command)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"the process of the pages ended at the command {command!r}")

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
