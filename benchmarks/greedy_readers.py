"""How long a heartbeat takes while readers ask for all that there is, beside a quiet controller.

The controller remembers 20,000 jobs that have ended, and one job of 10,000 tasks. Readers with one token call it from
processes of their own, as fast as it answers, and throw the answers away. Meanwhile a worker's heartbeat is sent again
and again. What counts is the longest heartbeat: a worker whose heartbeats take longer than its lease is lost.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.measure import p50, show
from iris.cluster.client.server_process import LocalServer, start_server
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.config import ClusterConfig
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import KEY_FILE
from iris.rpc.auth.tokens import SigningKey, worker_token

_NAME = "greedy_readers"
_JOBS = 20_000
_TASKS = 10_000
_QUIET_S = 3.0
_LOADS = (  # in words, the method, its request as JSON, whether it is sent as JSON, how many at once
    ("12 x ListJobs {}", "ListJobs", b"{}", False, 12),
    ("12 x ListJobs {} as JSON", "ListJobs", b"{}", True, 12),
    ("40 x GetJobStatus", "GetJobStatus", b"wide", False, 40),
    ("40 x GetJobStatus as JSON", "GetJobStatus", b'{"jobId":"wide"}', True, 40),
)
_LOAD_S = 15.0


def run() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        directory = Path(name) / "state"
        directory.mkdir(mode=0o700)
        _fill(directory / "controller.db")
        server = start_server(ClusterConfig(state_dir=directory, port=0), ends_with_us=True)
        try:
            heartbeat = _Heartbeat(server, worker_token(SigningKey.load_or_make(directory / KEY_FILE), "w"))
            quiet = _measure(heartbeat, _QUIET_S)
            show(_NAME, f"quiet: heartbeat p50 {p50(quiet) * 1000:.1f} ms, longest {max(quiet) * 1000:.0f} ms")
            for words, method, body, as_json, at_once in _LOADS:
                _show_load(server, heartbeat, max(quiet), words, method, body, as_json=as_json, at_once=at_once)
        finally:
            server.stop()


def _show_load(
    server: LocalServer,
    heartbeat: _Heartbeat,
    quiet_s: float,
    words: str,
    method: str,
    body: bytes,
    *,
    as_json: bool,
    at_once: int,
) -> None:
    if not as_json:
        of_wide = cluster_pb2.Controller.GetJobStatusRequest(job_id="wide")
        body = b"" if method == "ListJobs" else of_wide.SerializeToString()
    command = [sys.executable, "-m", "benchmarks.greedy_readers", server.address, server.token, method, body.hex()]
    reader = subprocess.Popen(
        [*command, "json" if as_json else "proto", str(at_once), str(_LOAD_S)], stdout=subprocess.PIPE, text=True
    )
    with reader:
        times = _measure(heartbeat, _LOAD_S)
        assert reader.stdout is not None
        answers, size, longest_s = reader.stdout.read().split()
    show(
        _NAME,
        f"{words}: heartbeat p50 {p50(times) * 1000:.1f} ms, longest {max(times) * 1000:.0f} ms"
        f" ({max(times) / quiet_s:.1f} times the longest of the quiet);"
        f" {answers} answers of {int(size) / 1e6:.2f} MB, the slowest after {float(longest_s):.1f} s",
    )


def _fill(database: Path) -> None:
    store, changes = Store(database), Changes()
    for number in range(_JOBS):
        changes.add_job(_ended(f"job-{number:05}", 1), b"")
    store.write(changes.add_job(_ended("wide", _TASKS), b""))
    store.close()


def _ended(job_id: str, tasks: int) -> JobRecord:
    job = Job.new(job_id, tasks, 1000)
    job.submit()
    job.terminate("terminated by a user", 2000)
    launch = cluster_pb2.Controller.LaunchJobRequest(name=job_id, command=["true"])
    launch.resources.replicas = tasks
    return JobRecord(job, launch, [cluster_pb2.TaskStatus() for _ in job.tasks])


class _Heartbeat:
    """A worker's call without news."""

    def __init__(self, server: LocalServer, token: str) -> None:
        self._server = server
        self._token = WorkerCredentials(token).token
        self._body = cluster_pb2.Controller.ReportTaskStatesRequest(
            worker_id="w", incarnation="benchmark"
        ).SerializeToString()

    def send(self) -> float:
        """How long it took, in seconds; on a new connection, as after an interruption."""
        start = time.perf_counter()
        _post(self._server.address, self._token, "ReportTaskStates", self._body, "proto", 300)
        return time.perf_counter() - start


def _measure(heartbeat: _Heartbeat, seconds: float) -> list[float]:
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        times.append(heartbeat.send())
        time.sleep(0.01)
    return times


def _post(address: str, token: str, method: str, body: bytes, codec: str, timeout_s: float) -> int:
    there = urlsplit(address)
    connection = http.client.HTTPConnection(there.hostname or "", there.port, timeout=timeout_s)
    headers = {"content-type": f"application/{codec}", "authorization": f"Bearer {token}"}
    connection.request("POST", f"/iris.cluster.ControllerService/{method}", body, headers)
    answer = connection.getresponse()
    size = len(answer.read())
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{method} was answered with {answer.status}")
    return size


def _read_all_the_time(
    address: str, token: str, method: str, body: str, codec: str, at_once: str, seconds: str
) -> None:
    """What a process of readers runs: prints how many answers there were, how large one is, and the longest time."""
    end = time.monotonic() + float(seconds)
    times: list[float] = []
    sizes: list[int] = [0]

    def read() -> None:
        while time.monotonic() < end:
            start = time.perf_counter()
            sizes.append(_post(address, token, method, bytes.fromhex(body), codec, 300))
            times.append(time.perf_counter() - start)

    threads = [threading.Thread(target=read) for _ in range(int(at_once))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(times), max(sizes), max(times, default=0.0))


if __name__ == "__main__":
    _read_all_the_time(*sys.argv[1:])
