"""Memory and CPU of many follows in one process: `AsyncIrisClient` beside threads of `IrisClient`.

Each of three tasks writes a line every three seconds. A separate process opens all follows at once, and reads. The
benchmark measures how much its memory grows, and its CPU time while each follow reads some lines. The sync client needs
three threads for a follow, so it opens fewer follows. All follows use HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from benchmarks.measure import show
from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.config import ClusterConfig
from iris.system.event_loop import raise_file_limit

_NAME = "async_follows"
_RUNS = (("async", 100), ("threads", 100), ("async", 1000))
_WORKERS = 3  # A worker serves at most 500 streams of a user, so the follows are distributed over three workers.
_LINES = 3  # Each follow reads this many lines while CPU time is measured.


def run() -> None:
    """Prints the figures."""
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        config = ClusterConfig(state_dir=Path(name) / "state", port=0, workers=_WORKERS, max_streams_per_user=10_000)
        server = start_server(config, ends_with_us=True)
        try:
            with IrisClient.remote(server.address, token=server.token) as client:
                job = client.run(
                    ["sh", "-c", "while echo line; do sleep 3; done"], replicas=_WORKERS, placement="spread"
                )
                results = {run: _measure(server, job.job_id, *run) for run in _RUNS}
                job.terminate()
        finally:
            server.stop()
    for (kind, count), (kib, cpu_ms, threads) in results.items():
        show(_NAME, f"{count} follows, {kind}: {kib:.0f} KiB and {cpu_ms:.2f} ms CPU a line each; {threads} threads")
    asynchronous, sync = results[_RUNS[0]], results[_RUNS[1]]
    show(
        _NAME,
        f"threads / async, at {_RUNS[0][1]} follows: {sync[0] / asynchronous[0]:.1f} times the memory,"
        f" {sync[1] / asynchronous[1]:.1f} times the CPU",
    )


def _measure(server: LocalServer, job_id: str, kind: str, count: int) -> tuple[float, float, int]:
    """Return the memory of a follow in KiB, its CPU time for a line in milliseconds, and the number of threads."""
    command = [sys.executable, "-m", "benchmarks.async_follows", server.address, job_id, kind, str(count)]
    kib, cpu_ms, threads = subprocess.check_output(
        command, text=True, env={**os.environ, "IRIS_TOKEN": server.token}
    ).split()
    return float(kib), float(cpu_ms), int(threads)


class _Figures:
    """Measures this process."""

    def __init__(self, count: int) -> None:
        self._process = psutil.Process()
        self._count = count
        self._before = self._process.memory_info().rss
        self._cpu_s = 0.0

    def opened(self) -> None:
        """All follows have got their first line."""
        self._used = self._process.memory_info().rss - self._before
        self._cpu_s = sum(self._process.cpu_times()[:2])

    def show(self) -> None:
        """All follows have got all their lines."""
        cpu_s = sum(self._process.cpu_times()[:2]) - self._cpu_s
        print(
            self._used / 1024 / self._count,
            cpu_s * 1000 / self._count / _LINES,
            self._process.num_threads(),
            flush=True,
        )


async def _follow_async(address: str, job_id: str, count: int) -> None:
    async with AsyncIrisClient.remote(address) as client, AsyncExitStack() as opened:
        warm = await opened.enter_async_context(client.stream_task_logs(job_id, 0, tail=0))
        await anext(warm)
        figures = _Figures(count)
        streams = [
            await opened.enter_async_context(client.stream_task_logs(job_id, number % _WORKERS, tail=0))
            for number in range(count)
        ]
        await asyncio.gather(*map(anext, streams))
        figures.opened()

        async def read(number: int) -> None:
            for _ in range(_LINES):
                await anext(streams[number])

        await asyncio.gather(*map(read, range(count)))
        figures.show()
        os._exit(0)  # Closing is not measured.


def _follow_in_threads(address: str, job_id: str, count: int) -> None:
    client = IrisClient.remote(address)
    next(client.stream_task_logs(job_id, 0, tail=0))
    figures = _Figures(count)
    has_first = [threading.Event() for _ in range(count)]
    is_done = [threading.Event() for _ in range(count)]
    go_on = threading.Event()

    def read(number: int) -> None:
        stream = client.stream_task_logs(job_id, number % _WORKERS, tail=0)
        next(stream)
        has_first[number].set()
        go_on.wait()
        for _ in range(_LINES):
            next(stream)
        is_done[number].set()
        time.sleep(3600)

    for number in range(count):
        threading.Thread(target=read, args=(number,), daemon=True).start()
    for first in has_first:
        first.wait()
    figures.opened()
    go_on.set()
    for done in is_done:
        done.wait()
    figures.show()
    os._exit(0)


def _main(address: str, job_id: str, kind: str, count: int) -> None:
    raise_file_limit()
    follow: Callable[[], None] = (
        (lambda: asyncio.run(_follow_async(address, job_id, count)))
        if kind == "async"
        else (lambda: _follow_in_threads(address, job_id, count))
    )
    follow()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
