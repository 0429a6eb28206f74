"""Reading the log of a task that has ended: as lines, as bytes, and through the controller, beside grpcio.

5 million lines of 100 bytes, on loopback, all of them read in each round; rounds alternate between all ways. `lines` is
`for entry in job.logs()` in this process; `--raw` is the whole of `iris logs JOB --raw > /dev/null`, start of Python
included. The peer is a grpcio stream of batches of 500 LogEntry messages: its server reads a file of the same lines
and makes a message of each, its client looks at each. Warm-up: one read of ours, not counted; it is also the first
after the task has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.fresh_env import CannotInstallError
from benchmarks.log_task import LINE_BYTES, writes_lines
from benchmarks.measure import CpuClock, aim_at_least, our_processes, p50, plain_environment, show
from benchmarks.peer_process import answer, ask, grpc_environment, started
from iris.client import IrisClient, Job

_LINES = 5_000_000
_ROUNDS = 3
_AIM_LINES_S = 1e6
_AIM_RAW_MB_S = 400.0
_AIM_RATIO = 3.0
_AIM_RELAYED = 0.9
_PEER = Path(__file__).with_name("grpc_log_peer.py")
_NAME = "log_reading"


@dataclass(slots=True)
class _Way:
    """One of those that are compared.

    Attributes:
        read: Reads all lines once, and answers with the seconds.
        clocks: Whose CPU to read meanwhile.
    """

    name: str
    read: Callable[[], float]
    clocks: dict[str, CpuClock]
    seconds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        for clock in self.clocks.values():
            clock.start()
        self.seconds.append(self.read())
        for clock in self.clocks.values():
            clock.stop()

    @property
    def lines_s(self) -> float:
        return _LINES / p50(self.seconds)

    @property
    def mb_s(self) -> float:
        return self.lines_s * LINE_BYTES / 1e6

    def rounds(self) -> str:
        return f"p50 of {_ROUNDS}: {', '.join(f'{seconds:.2f}' for seconds in self.seconds)} s"

    def cpu(self) -> str:
        return ", ".join(f"{who} {clock.used_s / _ROUNDS:.2f} s" for who, clock in self.clocks.items())


def run() -> None:
    """Prints the figures."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(IrisClient.local())
        job = client.run(writes_lines(_LINES))
        job.wait()
        worker, controller = our_processes("iris.cluster.worker"), our_processes("iris.server")
        us = [psutil.Process()]
        lines = _Way("lines", lambda: _read_lines(job), {"reader": CpuClock(us), "worker": CpuClock(worker)})
        raw = _Way("--raw", lambda: _read_raw(client, job), {"worker": CpuClock(worker)})
        relayed = _Way(
            "through the controller",
            lambda: _read_lines(job, through_controller=True),
            {"reader": CpuClock(us), "controller": CpuClock(controller), "worker": CpuClock(worker)},
        )
        ways = [lines, raw, relayed]
        peer = None
        try:
            peer = stack.enter_context(_grpc_peer())
            ways.append(peer)
        except CannotInstallError as error:
            show(_NAME, f"without grpcio, which cannot be installed: {error}")
        lines.read()
        for _ in range(_ROUNDS):
            for way in ways:
                way.measure()
    _tell(lines, raw, relayed, peer)


def _tell(lines: _Way, raw: _Way, relayed: _Way, peer: _Way | None) -> None:
    show(
        _NAME,
        f"{lines.lines_s / 1e6:.2f} million lines/s as objects, {lines.mb_s:.0f} MB/s ({lines.rounds()};"
        f" {aim_at_least(lines.lines_s / 1e6, _AIM_LINES_S / 1e6, 'million')})",
    )
    show(
        _NAME, f"{raw.mb_s:.0f} MB/s iris logs --raw ({raw.rounds()}; {aim_at_least(raw.mb_s, _AIM_RAW_MB_S, 'MB/s')})"
    )
    show(
        _NAME,
        f"{relayed.lines_s / 1e6:.2f} million lines/s through the controller:"
        f" {relayed.lines_s / lines.lines_s:.2f} times the direct way ({relayed.rounds()};"
        f" {aim_at_least(relayed.lines_s / lines.lines_s, _AIM_RELAYED, 'times')})",
    )
    if peer is not None:
        ratio = lines.lines_s / peer.lines_s
        show(
            _NAME,
            f"{peer.lines_s / 1e6:.2f} million lines/s with grpcio: we are {ratio:.1f} times as fast ({peer.rounds()};"
            f" {aim_at_least(ratio, _AIM_RATIO, 'times')})",
        )
    for way in (lines, raw, relayed, peer):
        if way is not None:
            show(_NAME, f"CPU of a read of {_LINES * LINE_BYTES / 1e9:g} GB, {way.name}: {way.cpu()}")


def _read_lines(job: Job, *, through_controller: bool = False) -> float:
    count = size = 0
    start = time.perf_counter()
    for entry in job.logs(route="controller" if through_controller else "auto"):
        count += 1
        size += len(entry.data)
    seconds = time.perf_counter() - start
    _check(count, size)
    return seconds


def _read_raw(client: IrisClient, job: Job) -> float:
    iris = Path(sys.executable).with_name("iris")
    ours = {"IRIS_CONTROLLER_ADDRESS": client.cluster.controller_address, "IRIS_TOKEN": client.cluster.token() or ""}
    environment = plain_environment() | ours
    start = time.perf_counter()
    subprocess.run([iris, "logs", job.job_id, "--raw"], stdout=subprocess.DEVNULL, env=environment, check=True)
    return time.perf_counter() - start


def _check(lines: int, size: int) -> None:
    if (lines, size) != (_LINES, _LINES * (LINE_BYTES - 1)):
        raise RuntimeError(f"{lines} lines of {size} bytes were read, not {_LINES} of {_LINES * (LINE_BYTES - 1)}")


@contextlib.contextmanager
def _grpc_peer() -> Iterator[_Way]:
    """A grpcio server with a file of the same lines, and a client of it.

    Raises:
        CannotInstallError: There is no grpcio to be had.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="iris-bench-"))
        environment = stack.enter_context(grpc_environment())
        path = os.path.join(directory, "lines")
        with open(path, "wb") as file:
            subprocess.run(writes_lines(_LINES), stdout=file, check=True)
        server = stack.enter_context(started(environment, _PEER, "server", path))
        client = stack.enter_context(started(environment, _PEER, "client", answer(server)))

        def read() -> float:
            seconds, lines, size = json.loads(ask(client, "read"))
            _check(lines, size)
            return float(seconds)

        clocks = {"reader": CpuClock([psutil.Process(client.pid)]), "server": CpuClock([psutil.Process(server.pid)])}
        yield _Way("grpcio", read, clocks)
