"""get_task_status on loopback, beside a unary call with grpcio that answers with the same message.

The peer's server, and its client, are processes with an environment of their own; it has the same task in a dict.
A third caller sends Iris's server the same request over a bare socket and reads nothing of the answer but its length:
what is above it is spent in the client. Two more callers are clients over HTTP/2 and over a transport of httpx. Blocks
of calls alternate between all callers. Warm-up: 300 calls of each, not counted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.fresh_env import CannotInstallError
from benchmarks.measure import CpuClock, aim, our_processes, p50, p95, show
from benchmarks.peer_process import answer, ask, grpc_environment, started
from iris.client import IrisClient
from iris.rpc import cluster_pb2

_CALLS = 2000
_BLOCK = 200
_WARM_UP = 300
_AIM_RATIO = 1.5
_OTHER_TRANSPORTS: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
    ("http2=True", lambda: {"http2": True}),
    ("transport=httpx.HTTPTransport()", lambda: {"transport": httpx.HTTPTransport()}),
)
_PEER = Path(__file__).with_name("grpc_peer.py")


@dataclass(slots=True)
class _Caller:
    """One of those that are compared.

    Attributes:
        block: Makes so many calls, and answers with their latencies, ns.
        clocks: Whose CPU to read meanwhile: the client's and the server's.
    """

    name: str
    block: Callable[[int], list[int]]
    clocks: dict[str, CpuClock]
    latencies_us: list[float] = field(default_factory=list)

    def measure(self) -> None:
        for clock in self.clocks.values():
            clock.start()
        latencies = self.block(_BLOCK)
        for clock in self.clocks.values():
            clock.stop()
        self.latencies_us += [latency / 1000 for latency in latencies]

    def cpu(self) -> str:
        return ", ".join(f"{who} {clock.used_s * 1e6 / _CALLS:.0f} µs" for who, clock in self.clocks.items())


def run() -> None:
    """Prints the figures."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(IrisClient.local())
        job = client.run(["true"])
        job.wait()
        request = cluster_pb2.Controller.GetTaskStatusRequest(job_id=job.job_id, task_index=0)
        task = client.task_status(job.job_id, 0)
        server = our_processes("iris.server")
        iris = _Caller(
            "get_task_status",
            lambda calls: _call_iris(client, request, calls),
            {"client": CpuClock([psutil.Process()]), "server": CpuClock(server)},
        )
        connection = stack.enter_context(_connect(client.cluster.controller_address))
        bare = _Caller(
            "bare socket",
            lambda calls: _call_bare(connection, _http_request(request, client.cluster.token() or ""), calls),
            {"client": CpuClock([psutil.Process()]), "server": CpuClock(server)},
        )
        address, token = client.cluster.controller_address, client.cluster.token()
        others = []
        for name, options in _OTHER_TRANSPORTS:
            remote = stack.enter_context(IrisClient.remote(address, token=token, **options()))
            clocks = {"client": CpuClock([psutil.Process()]), "server": CpuClock(server)}
            others.append(_Caller(name, functools.partial(_call_iris, remote, request), clocks))
        callers = [iris, bare, *others]
        try:
            peer = stack.enter_context(_grpc_peer(request, task))
            callers.append(peer)
        except CannotInstallError as error:
            peer = None
            show("task_status", f"without grpcio, which cannot be installed: {error}")
        for caller in callers:
            caller.block(_WARM_UP)
        for _ in range(_CALLS // _BLOCK):
            for caller in callers:
                caller.measure()
    _tell(iris, bare, peer, task.ByteSize())
    for other in others:
        ours, theirs = p50(other.latencies_us), p50(peer.latencies_us) if peer else p50(iris.latencies_us)
        name = "grpcio" if peer else "HTTP/1.1"
        show(
            "task_status",
            f"{ours:.0f} µs a get_task_status, {other.name}: {ours / theirs:.2f} times {name}"
            f" (p50 of {_CALLS}, p95 {p95(other.latencies_us):.0f} µs; CPU {other.cpu()})",
        )


def _tell(iris: _Caller, bare: _Caller, peer: _Caller | None, size: int) -> None:
    ours = p50(iris.latencies_us)
    text = f"{ours:.0f} µs a get_task_status"
    tail = f"{p95(iris.latencies_us):.0f} µs"
    if peer is not None:
        theirs = p50(peer.latencies_us)
        ratio = ours / theirs
        text += f", {theirs:.0f} µs a grpcio unary call: {ratio:.2f} times that"
        tail += f", grpcio {p95(peer.latencies_us):.0f} µs"
        verdict = f"; {aim(ratio, _AIM_RATIO, 'times')}"
    else:
        verdict = f"; no peer, no ratio (aim < {_AIM_RATIO} times)"
    show("task_status", f"{text} (p50 of {_CALLS} each, p95 {tail}; a task of {size} bytes{verdict})")
    show(
        "task_status",
        f"{p50(bare.latencies_us):.0f} µs the same request to Iris's server over a bare socket"
        f" (p50 of {_CALLS}, p95 {p95(bare.latencies_us):.0f} µs)",
    )
    for caller in (iris, bare, peer):
        if caller is not None:
            show("task_status", f"CPU a call, {caller.name}: {caller.cpu()}")


def _call_iris(client: IrisClient, request: cluster_pb2.Controller.GetTaskStatusRequest, calls: int) -> list[int]:
    job_id, task_index, cluster = request.job_id, request.task_index, client.cluster
    latencies = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        task = cluster.get_task_status(job_id, task_index)
        latencies.append(time.perf_counter_ns() - start)
        if task.task_index != task_index:
            raise RuntimeError("not the task that was asked for")
    return latencies


def _call_bare(connection: socket.socket, request: bytes, calls: int) -> list[int]:
    latencies = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        connection.sendall(request)
        answer = b""
        while not _is_whole(answer):
            data = connection.recv(65536)
            if not data:
                raise RuntimeError(f"the server hung up after {answer[:60]!r}")
            answer += data
        latencies.append(time.perf_counter_ns() - start)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server answered {answer[:60]!r}")
    return latencies


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")  # without a length it is chunked


def _connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _http_request(request: cluster_pb2.Controller.GetTaskStatusRequest, token: str) -> bytes:
    body: bytes = request.SerializeToString()
    head = (
        "POST /iris.cluster.ControllerService/GetTaskStatus HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {token}\r\n"
        f"content-type: application/proto\r\nconnect-protocol-version: 1\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@contextlib.contextmanager
def _grpc_peer(request: cluster_pb2.Controller.GetTaskStatusRequest, task: cluster_pb2.TaskStatus) -> Iterator[_Caller]:
    """A grpcio server with that task, and a grpcio client of it.

    Raises:
        CannotInstallError: There is no grpcio to be had.
    """
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(grpc_environment())
        server = stack.enter_context(started(environment, _PEER, "server", task.SerializeToString().hex()))
        address = answer(server)
        client = stack.enter_context(started(environment, _PEER, "client", address, request.SerializeToString().hex()))

        def block(calls: int) -> list[int]:
            latencies: list[int] = json.loads(ask(client, str(calls)))
            return latencies

        clocks = {"client": CpuClock([psutil.Process(client.pid)]), "server": CpuClock([psutil.Process(server.pid)])}
        yield _Caller("grpcio", block, clocks)
