"""Throughput and round trips through `client.forward`, beside a direct connection to the same server, and what other
users notice of a transfer.

A task serves a port. A program connects to the port directly, and through a forward. On one machine, the direct
connection is a copy in memory, so that the ratio says what the forward costs in CPU time, and not what it costs on a
network. The last figures are the times of `ListWorkers` of another user, on one connection, while forwards transfer as
fast as they can.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks.measure import CpuClock, p50, p99, show
from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.config import ClusterConfig

_NAME = "forward"
_MIB = 1024**2
_SIZE = 256 * _MIB
_ROUND_TRIPS = 500
_CONNECTIONS = 300
_LOAD_S = 8.0
_LOADS = (1, 8)  # The numbers of transfers at the same time.
# Sends `_SIZE` bytes after `d`, counts received bytes after `u`, and echoes after `e`.
_SERVER = f"""
import os, socket, threading
server = socket.create_server(("127.0.0.1", int(os.environ["IRIS_PORT_BENCH"])), backlog=1000)
block = bytes({_MIB})
def serve(connection):
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = connection.recv(1)
        if kind == b"d":
            for _ in range({_SIZE // _MIB}):
                connection.sendall(block)
        elif kind == b"u":
            size = 0
            while data := connection.recv({_MIB}):
                size += len(data)
            connection.sendall(b"%d" % size)
        else:
            while data := connection.recv(65536):
                connection.sendall(data)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


def run() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        directory = Path(name) / "state"
        directory.mkdir(mode=0o700)
        server = start_server(ClusterConfig(state_dir=directory, port=0), ends_with_us=True)
        try:
            with IrisClient.remote(server.address, token=server.token) as client:
                job = client.run([sys.executable, "-c", _SERVER], ports=["bench"])
                with client.forward(job.job_id, "bench") as forward:
                    _exchange(forward.local_port)  # The first connection waits for the server.
                    direct = client.task_status(job.job_id, 0).ports["bench"]
                    _compare(direct, forward.local_port, CpuClock([psutil.Process(server.process.pid)]))
                _show_loads(server, job.job_id)
                job.terminate()
        finally:
            server.stop()


def _compare(direct: int, forwarded: int, controller: CpuClock) -> None:
    for what, transfer in (("download", _download), ("upload", _upload)):
        fast_s = transfer(direct)
        before_s = controller.used_s
        controller.start()
        slow_s = transfer(forwarded)
        controller.stop()
        used_s = controller.used_s - before_s
        show(
            _NAME,
            f"{what}: {_SIZE / slow_s / 1e6:.0f} MB/s, direct {_SIZE / fast_s / 1e6:.0f} MB/s, ratio"
            f" {fast_s / slow_s:.3f}; {used_s / _SIZE * 1e9:.1f} s of CPU of the controller for 1 GB",
        )
    near, far = _round_trips(direct), _round_trips(forwarded)
    show(
        _NAME,
        f"round trip: p50 {p50(far) * 1000:.2f} ms, p99 {p99(far) * 1000:.1f} ms, direct p50 {p50(near) * 1000:.3f} ms,"
        f" ratio {p50(far) / p50(near):.0f}",
    )
    for at_once in (1, 50):
        took_s, near_s = _many_connections(forwarded, at_once), _many_connections(direct, at_once)
        show(
            _NAME,
            f"short connections, {at_once} at once: {_CONNECTIONS / took_s:.0f}/s, direct"
            f" {_CONNECTIONS / near_s:.0f}/s",
        )


def _show_loads(server: LocalServer, job_id: str) -> None:
    with RemoteClusterClient(server.address, token=server.token) as cluster:
        other = cluster.create_token("other", "reader").secret
    show(_NAME, f"quiet: {_words_of(_call_for(server.address, other, _LOAD_S / 2))}")
    for transfers in _LOADS:
        command = [sys.executable, "-m", "benchmarks.forward", server.address, server.token, job_id, str(transfers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as loading:
            assert loading.stdout is not None
            loading.stdout.readline()
            times = _call_for(server.address, other, _LOAD_S)
            loading.kill()
        show(_NAME, f"{transfers} transfers: {_words_of(times)}")


def _connect(port: int, kind: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(kind)
    return connection


def _download(port: int) -> float:
    began_s = time.perf_counter()
    with _connect(port, b"d") as connection:
        size = 0
        while data := connection.recv(_MIB):
            size += len(data)
    assert size == _SIZE
    return time.perf_counter() - began_s


def _upload(port: int) -> float:
    block = bytes(_MIB)
    began_s = time.perf_counter()
    with _connect(port, b"u") as connection:
        for _ in range(_SIZE // _MIB):
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        assert int(connection.recv(100)) == _SIZE
    return time.perf_counter() - began_s


def _round_trips(port: int) -> list[float]:
    times = []
    with _connect(port, b"e") as connection:
        for _ in range(_ROUND_TRIPS):
            began_s = time.perf_counter()
            connection.sendall(b"x")
            connection.recv(1)
            times.append(time.perf_counter() - began_s)
    return times


def _exchange(port: int) -> None:
    with _connect(port, b"e") as connection:
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").read() == b"hello"


def _many_connections(port: int, at_once: int) -> float:
    def some() -> None:
        for _ in range(_CONNECTIONS // at_once):
            _exchange(port)

    threads = [threading.Thread(target=some) for _ in range(at_once)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began_s


def _call_for(address: str, token: str, seconds: float) -> list[float]:
    times = []
    end_s = time.perf_counter() + seconds
    with RemoteClusterClient(address, token=token) as cluster:
        while (began_s := time.perf_counter()) < end_s:
            cluster.list_workers()
            times.append(time.perf_counter() - began_s)
    return times


def _words_of(times: list[float]) -> str:
    return (
        f"ListWorkers p50 {p50(times) * 1000:.1f} ms, p99 {p99(times) * 1000:.0f} ms,"
        f" longest {max(times) * 1000:.0f} ms, {len(times)} calls"
    )


def _load(address: str, token: str, job_id: str, transfers: int) -> None:
    """Transfer until the process is killed. Each transfer has a forward of its own."""
    with IrisClient.remote(address, token=token) as client, ExitStack() as opened:

        def transfer(port: int) -> None:
            while True:
                _download(port)

        for _ in range(transfers):
            port = opened.enter_context(client.forward(job_id, "bench")).local_port
            threading.Thread(target=transfer, args=(port,), daemon=True).start()
        print("loading", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    _load(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
