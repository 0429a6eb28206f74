"""One server over HTTP/1.1, HTTP/2 and gRPC, beside a server of grpcio: calls, a log, and many follows.

The same program reads in all ways that are compared, so that the difference is the server's: grpcio makes the calls of
gRPC, `IrisClient` the calls of Connect, curl reads the log, and grpcio follows. Needs a curl that speaks HTTP/2.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import grpc
import psutil

from benchmarks.log_task import LINE_BYTES, writes_lines
from benchmarks.measure import CpuClock, our_processes, p50, show
from iris.client import IrisClient
from iris.rpc import cluster_pb2

_NAME = "http_versions"
_CALLS, _BLOCK = 500, 100
_MB, _ROUNDS = 200, 3
_FOLLOWS = 100
_FOLLOWED_S = 5.0
_CHUNK = 256 * 1024
_CONTROLLER, _WORKER = "iris.cluster.ControllerService", "iris.cluster.WorkerService"
Request = cluster_pb2.Controller.GetTaskStatusRequest
Response = cluster_pb2.Controller.GetTaskStatusResponse


@dataclass(slots=True)
class _Way:
    """One of the ways that are compared.

    Attributes:
        use: Does the work once, and returns one or more durations in seconds.
        server: The CPU time of the server.
    """

    name: str
    use: Callable[[], list[float]]
    server: CpuClock
    seconds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Use the way once, and keep the figures."""
        self.server.start()
        self.seconds += self.use()
        self.server.stop()


def run() -> None:
    """Prints the figures."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(IrisClient.local(workers=1))
        peer = stack.enter_context(_grpcio_server())
        _measure_calls(stack, client, peer)
        _measure_log(client, peer)
        _measure_follows(client)


# Unary calls.


def _measure_calls(stack: contextlib.ExitStack, client: IrisClient, peer: tuple[str, int]) -> None:
    job = client.run(["true"])
    job.wait()
    address, token = client.cluster.controller_address, client.cluster.token() or ""
    http2 = stack.enter_context(IrisClient.remote(address, token=token, http2=True))
    server = our_processes("iris.server")
    ours = stack.enter_context(grpc.insecure_channel(urlsplit(address).netloc))
    theirs = stack.enter_context(grpc.insecure_channel(peer[0]))
    ways = [
        _Way("HTTP/1.1", lambda: _call_iris(client, job.job_id), CpuClock(server)),
        _Way("HTTP/2", lambda: _call_iris(http2, job.job_id), CpuClock(server)),
        _Way("gRPC", lambda: _call_grpc(ours, job.job_id, token), CpuClock(server)),
        _Way("grpcio's server", lambda: _call_grpc(theirs, job.job_id, token), CpuClock([psutil.Process(peer[1])])),
    ]
    for way in ways:
        way.use()
    for _ in range(_CALLS // _BLOCK):
        for way in ways:
            way.measure()
    base = p50(ways[-1].seconds)
    for way in ways:
        middle, cpu_us = p50(way.seconds), way.server.used_s / _CALLS * 1e6
        show(
            _NAME,
            f"unary call, {way.name}: p50 {middle * 1e6:.0f} µs, {middle / base:.2f} times grpcio's server;"
            f" CPU of the server {cpu_us:.0f} µs",
        )


def _call_iris(client: IrisClient, job_id: str) -> list[float]:
    return [_timed(lambda: client.task_status(job_id, 0)) for _ in range(_BLOCK)]


def _call_grpc(channel: Any, job_id: str, token: str) -> list[float]:
    method = channel.unary_unary(
        f"/{_CONTROLLER}/GetTaskStatus",
        request_serializer=Request.SerializeToString,
        response_deserializer=Response.FromString,
    )
    metadata = [("authorization", f"Bearer {token}")]
    return [_timed(lambda: method(Request(job_id=job_id), timeout=30, metadata=metadata)) for _ in range(_BLOCK)]


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# A log that is read to its end.


def _measure_log(client: IrisClient, peer: tuple[str, int]) -> None:
    job = client.run(writes_lines(_MB * 1_000_000 // LINE_BYTES))
    job.wait()
    request = cluster_pb2.StreamTaskLogsRequest(job_id=job.job_id, positions=[cluster_pb2.LogPosition()])
    worker = client.task_status(job.job_id, 0).worker_address
    token, processes = client.cluster.token() or "", our_processes("iris.cluster.worker")
    body = request.SerializeToString()

    def reader(address: str, version: str, content_type: str) -> Callable[[], list[float]]:
        return lambda: [_read_with_curl(f"{address}/{_WORKER}/StreamTaskLogs", version, content_type, token, body)]

    connect, grpc_type, http2 = "application/connect+proto", "application/grpc+proto", "--http2-prior-knowledge"
    ways = [
        _Way("HTTP/1.1", reader(worker, "--http1.1", connect), CpuClock(processes)),
        _Way("HTTP/2", reader(worker, http2, connect), CpuClock(processes)),
        _Way("gRPC", reader(worker, http2, grpc_type), CpuClock(processes)),
        _Way("grpcio's server", reader(f"http://{peer[0]}", http2, grpc_type), CpuClock([psutil.Process(peer[1])])),
    ]
    for way in ways:
        way.use()
    for _ in range(_ROUNDS):
        for way in ways:
            way.measure()
    base = p50(ways[-1].seconds)
    for way in ways:
        speed, cpu_s = _MB / p50(way.seconds), way.server.used_s / _ROUNDS
        show(
            _NAME,
            f"{_MB} MB log, {way.name}: {speed:.0f} MB/s, {base / p50(way.seconds):.2f} times grpcio's server;"
            f" CPU of the server {cpu_s:.2f} s",
        )


def _read_with_curl(url: str, version: str, content_type: str, token: str, body: bytes) -> float:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\0" + len(body).to_bytes(4, "big") + body)
        file.flush()
        headers = [f"content-type: {content_type}", f"authorization: Bearer {token}", "te: trailers"]
        arguments = [part for header in headers for part in ("-H", header)]
        command = ["curl", "-sSf", version, *arguments, "--data-binary", f"@{file.name}", "-o", "/dev/null", url]
        size, seconds = subprocess.check_output([*command, "-w", "%{size_download} %{time_total}"], text=True).split()
    if int(size) < _MB * 1_000_000:
        raise RuntimeError(f"{size} bytes were read, not {_MB} MB")
    return float(seconds)


# Follows.


def _measure_follows(client: IrisClient) -> None:
    job = client.run(["sh", "-c", "while echo line; do sleep 0.1; done"])
    while client.task_status(job.job_id, 0).state != cluster_pb2.TASK_STATE_RUNNING:
        time.sleep(0.1)
    worker = urlsplit(client.task_status(job.job_id, 0).worker_address).netloc
    process = our_processes("iris.cluster.worker")[0]
    shared = _follow(client, job.job_id, worker, process, connections=1)
    separate = _follow(client, job.job_id, worker, process, connections=_FOLLOWS)
    job.terminate()
    for name, (kib, cpu_ms) in (("one connection", shared), (f"{_FOLLOWS} connections", separate)):
        show(_NAME, f"{_FOLLOWS} follows over {name}: {kib:.0f} KiB and {cpu_ms:.1f} ms CPU/s of the worker each")
    show(
        _NAME,
        f"{_FOLLOWS} connections / one: {separate[0] / max(shared[0], 1):.1f} times the memory,"
        f" {separate[1] / shared[1]:.2f} times the CPU",
    )


def _follow(
    client: IrisClient, job_id: str, worker: str, process: psutil.Process, connections: int
) -> tuple[float, float]:
    """Return the worker's memory in KiB and its CPU time in milliseconds a second, for each follow."""
    request = cluster_pb2.StreamTaskLogsRequest(job_id=job_id, follow=True, positions=[cluster_pb2.LogPosition()])
    metadata = [("authorization", f"Bearer {client.cluster.token()}")]
    options = [("grpc.use_local_subchannel_pool", 1)]
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(worker, options=options)) for _ in range(connections)]
        before = process.memory_info().rss
        streams = []
        for number in range(_FOLLOWS):
            method = channels[number % connections].unary_stream(
                f"/{_WORKER}/StreamTaskLogs",
                request_serializer=cluster_pb2.StreamTaskLogsRequest.SerializeToString,
                response_deserializer=cluster_pb2.StreamTaskLogsResponse.FromString,
            )
            streams.append(method(request, metadata=metadata))
        for stream in streams:
            next(stream)
        clock = CpuClock([process])
        clock.start()
        time.sleep(_FOLLOWED_S)
        clock.stop()
        used = process.memory_info().rss - before
        for stream in streams:
            stream.cancel()
    return used / 1024 / _FOLLOWS, clock.used_s * 1000 / _FOLLOWED_S / _FOLLOWS


# The peer.


@contextlib.contextmanager
def _grpcio_server() -> Iterator[tuple[str, int]]:
    """Start a server of grpcio in a process of its own; yield its address and the number of the process."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.http_versions"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        process.communicate()


def _serve_peer() -> None:
    """Serve the same two methods as a program written with grpcio's usual, threaded server would."""
    task = cluster_pb2.TaskStatus(task_id="job/task-0", job_id="job", state=cluster_pb2.TASK_STATE_SUCCEEDED)

    def get_task_status(request: Request, context: Any) -> Response:
        del request, context
        return Response(task=task)

    def stream_logs(request: Any, context: Any) -> Iterator[Any]:
        del request, context
        with tempfile.TemporaryFile() as file:
            file.truncate(_MB * 1_000_000)
            while records := file.read(_CHUNK):
                chunk = cluster_pb2.StreamTaskLogsResponse.Chunk(records=records)
                yield cluster_pb2.StreamTaskLogsResponse(chunks=[chunk])

    status = grpc.unary_unary_rpc_method_handler(
        get_task_status, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
    )
    logs = grpc.unary_stream_rpc_method_handler(
        stream_logs,
        request_deserializer=cluster_pb2.StreamTaskLogsRequest.FromString,
        response_serializer=cluster_pb2.StreamTaskLogsResponse.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    for service, method, handler in ((_CONTROLLER, "GetTaskStatus", status), (_WORKER, "StreamTaskLogs", logs)):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(None).wait()


if __name__ == "__main__":
    _serve_peer()
