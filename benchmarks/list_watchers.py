"""50 clients that watch the list of jobs, on a cluster with 10,000 queued tasks: what LaunchJob costs beside them.

100 jobs of 100 independent tasks are queued. Only one other job runs, because each task needs all cores. Blocks of 50
submissions without and with watching clients alternate, five of each, after one block that does not count. The watching
clients are in a process of their own. Each of them gets the newest 1,000 jobs and all changes. The figures are the time
of a submission, the controller's CPU time for it, the messages that the clients get, and the controller's memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import CpuClock, aim, our_processes, p50, p95, show
from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.config import ClusterConfig

_NAME = "list_watchers"
_CLIENTS = 50
_BLOCKS = 5
_SUBMISSIONS = 50
_JOBS, _TASKS = 100, 100
_MOST_TIMES = 1.1
_ALL_CORES = {"cpu": len(os.sched_getaffinity(0))}


def run() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        server = start_server(ClusterConfig(state_dir=Path(name) / "state", port=0), ends_with_us=True)
        try:
            with IrisClient.remote(server.address, token=server.token) as client:
                client.run(["sleep", "3600"], resources=_ALL_CORES)  # No other job starts beside this one.
                for _ in range(_JOBS):
                    client.run(["true"], replicas=_TASKS, coscheduled=False, resources=_ALL_CORES)
                _measure(server, client)
        finally:
            server.stop()


def _measure(server: LocalServer, client: IrisClient) -> None:
    controllers = our_processes("iris.server")
    times: dict[bool, list[float]] = {False: [], True: []}
    clocks = {is_watched: CpuClock(controllers) for is_watched in times}
    before = controllers[0].memory_info().rss
    messages = 0
    for block in range(_BLOCKS + 1):
        for is_watched, clock in clocks.items():
            with _watchers(server, _CLIENTS if is_watched else 0) as watching:
                clock.start()
                took = [_timed_launch(client) for _ in range(_SUBMISSIONS)]
                if block:
                    clock.stop()
                    times[is_watched] += took
            messages += watching.messages
    alone, beside = times[False], times[True]
    cpu = {is_watched: clock.used_s * 1000 / (_BLOCKS * _SUBMISSIONS) for is_watched, clock in clocks.items()}
    ratio = p95(beside) / p95(alone)
    show(
        _NAME,
        f"a submission beside {_CLIENTS} watching clients: {p50(beside):.2f} ms (p95 {p95(beside):.2f}), without"
        f" {p50(alone):.2f} ms (p95 {p95(alone):.2f}): p95 {ratio:.2f} times ({aim(ratio, _MOST_TIMES, 'times')})",
    )
    growth = (controllers[0].memory_info().rss - before) / 2**20
    show(
        _NAME,
        f"CPU of the controller for a submission: {cpu[True]:.2f} ms, without watching clients {cpu[False]:.2f} ms;"
        f" {messages:,} messages to the clients; memory {growth:+.0f} MiB",
    )


def _timed_launch(client: IrisClient) -> float:
    """The time of a submission in ms."""
    start = time.perf_counter()
    client.run(["true"], resources=_ALL_CORES)
    return (time.perf_counter() - start) * 1000


class _Watching:
    """The process of the watching clients. `messages` is the number of messages they got, once it has ended."""

    messages = 0


@contextmanager
def _watchers(server: LocalServer, count: int) -> Iterator[_Watching]:
    watching = _Watching()
    if not count:
        yield watching
        return
    words = [sys.executable, "-m", "benchmarks.list_watch_clients", server.address, str(count)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{server.token}\n")
        process.stdin.flush()
        process.stdout.readline()  # all clients have the list
        yield watching
        process.stdin.close()
        watching.messages = int(process.stdout.readline())
