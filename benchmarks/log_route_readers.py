"""How long a small call takes while readers read a log of short lines over plain HTTP, beside a quiet controller.

The log has 3 million lines of about 7 bytes, which is the worst case: the controller turns each line into text or JSON.
Readers of one user, in a process of their own, read the log as fast as the controller sends it, and throw it away.
Meanwhile another user calls ListWorkers again and again on one connection. The last figures are the CPU time that the
controller needs to send the whole log once in each format.
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

import psutil

from benchmarks.measure import CpuClock, p50, p99, show
from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.config import ClusterConfig

_NAME = "log_route_readers"
_LINES = 3_000_000
_LOADS = (("ndjson", 1), ("ndjson", 8), ("text", 8))  # The format, and the number of readers.
_LOAD_S = 10.0
_FORMATS = ("raw", "text", "ndjson")
_CALL = "/iris.cluster.ControllerService/ListWorkers"


def run() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        directory = Path(name) / "state"
        directory.mkdir(mode=0o700)
        server = start_server(ClusterConfig(state_dir=directory, port=0), ends_with_us=True)
        try:
            with RemoteClusterClient(server.address, token=server.token) as cluster:
                other = cluster.create_token("other", "reader").secret
            with IrisClient.remote(server.address, token=server.token) as client:
                job = client.run(["seq", str(_LINES)], max_log_bytes=1 << 30)
                job.wait()
            path = f"/v1/jobs/{job.job_id}/logs?format="
            show(_NAME, f"quiet: {_words_of(_call_for(server.address, other, _LOAD_S / 2))}")
            for format_name, readers in _LOADS:
                _show_load(server, other, path + format_name, readers)
            controller = CpuClock([psutil.Process(server.process.pid)])
            for format_name in _FORMATS:
                before_s = controller.used_s
                controller.start()
                size = _read(server.address, server.token, path + format_name)
                controller.stop()
                show(_NAME, f"{format_name}: {size / 1e6:.0f} MB for {controller.used_s - before_s:.1f} s of CPU")
        finally:
            server.stop()


def _show_load(server: LocalServer, other: str, path: str, readers: int) -> None:
    command = [sys.executable, "-m", "benchmarks.log_route_readers", server.address, server.token, path, str(readers)]
    with subprocess.Popen(command) as reading:
        times = _call_for(server.address, other, _LOAD_S)
        reading.kill()
    show(_NAME, f"{readers} x {path.rpartition('=')[2]}: {_words_of(times)}")


def _words_of(times: list[float]) -> str:
    return (
        f"ListWorkers p50 {p50(times) * 1000:.1f} ms, p99 {p99(times) * 1000:.0f} ms,"
        f" longest {max(times) * 1000:.0f} ms, {len(times)} calls"
    )


def _call_for(address: str, token: str, seconds: float) -> list[float]:
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=300)
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        connection.request("POST", _CALL, b"{}", headers)
        answer = connection.getresponse()
        answer.read()
        times.append(time.perf_counter() - start)
        if answer.status != 200:
            raise RuntimeError(f"ListWorkers was answered with {answer.status}")
        time.sleep(0.01)
    connection.close()
    return times


def _read(address: str, token: str, path: str) -> int:
    """Read a log once, and return its size in bytes."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=300)
    connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"{path} was answered with {answer.status}")
    size = 0
    while data := answer.read(1 << 16):
        size += len(data)
    connection.close()
    return size


def _read_all_the_time(address: str, token: str, path: str, readers: str) -> None:
    """Read a log again and again with several threads, until this process is killed."""

    def read() -> None:
        while True:
            _read(address, token, path)

    for _ in range(int(readers)):
        threading.Thread(target=read).start()


if __name__ == "__main__":
    _read_all_the_time(*sys.argv[1:])
