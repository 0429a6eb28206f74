"""What metrics cost the controller while 1,000 tasks run and a Prometheus reads the metrics every 15 seconds.

The tasks are real processes that sleep, on one worker. Blocks of 12 s without and with a reading every second
alternate, four of each. The difference of the controller's CPU time, divided by the number of readings, is the cost of
one reading. The time for the tally of one call is measured alone, and counts for each call. The figure is the share of
both in the CPU time that the controller uses without readings.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

from connectrpc.method import StreamType

from benchmarks.measure import CpuClock, aim, our_processes, show
from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.config import ClusterConfig
from iris.rpc.serving.call_tally import CallTally

_NAME = "metrics_cost"
_TASKS = 1000
_BLOCKS = 4
_BLOCK_S = 12.0
_PAUSE_S = 1.05  # Answers within one second are the same, and would cost nothing.
_PERIOD_S = 15.0
_TALLIED = 20_000
_AIM_PERCENT = 2.0


def run() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        config = ClusterConfig(state_dir=Path(name) / "state", port=0, metrics_port=0)
        server = start_server(config, ends_with_us=True)
        try:
            with IrisClient.remote(server.address, token=server.token) as client:
                job = client.run(["sleep", "3600"], replicas=_TASKS)
                while job.status().tasks_running < _TASKS:
                    time.sleep(0.5)
                _measure(server)
        finally:
            server.stop()


def _measure(server: LocalServer) -> None:
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    controllers = our_processes("iris.server")[:1]  # The others are workers that the server has forked.
    clocks = {is_read: CpuClock(controllers) for is_read in (False, True)}
    readings = size = 0
    calls = -_calls(url)
    for _ in range(_BLOCKS):
        for is_read, clock in clocks.items():
            clock.start()
            end_s = time.monotonic() + _BLOCK_S
            while time.monotonic() < end_s:
                if is_read:
                    size = len(_read(url))
                    readings += 1
                time.sleep(_PAUSE_S)
            clock.stop()
    calls += _calls(url)
    quiet_s, read_s = clocks[False].used_s, clocks[True].used_s
    reading_ms = max(0.0, read_s - quiet_s) / readings * 1000
    tally_us = asyncio.run(_tally_us())
    total_s = 2 * _BLOCKS * _BLOCK_S
    per_second_ms = reading_ms / _PERIOD_S + tally_us / 1000 * calls / total_s
    quiet_ms = quiet_s * 1000 / (_BLOCKS * _BLOCK_S)
    percent = 100 * per_second_ms / quiet_ms
    show(
        _NAME,
        f"{_TASKS:,} running tasks, a reading every {_PERIOD_S:g} s: {percent:.2f} % of the controller's CPU"
        f" ({aim(percent, _AIM_PERCENT, '%')})",
    )
    show(
        _NAME,
        f"a reading of {size / 1000:.0f} kB: {reading_ms:.1f} ms of CPU; the tally of a call: {tally_us:.2f} µs,"
        f" {calls / total_s:.1f} calls/s; the controller without readings: {quiet_ms:.1f} ms of CPU a second",
    )


def _read(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return str(answer.read(), "utf-8")


def _calls(url: str) -> float:
    """The number of calls that the controller has answered."""
    lines = [line for line in _read(url).splitlines() if line.startswith("iris_rpc_calls_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def _tally_us() -> float:
    """The time for the tally of one call, in microseconds."""
    tally = CallTally()
    context = SimpleNamespace(method=SimpleNamespace(name="GetTaskStatus", stream_type=StreamType.UNARY))
    began_s = time.perf_counter()
    for _ in range(_TALLIED):
        await tally.on_end(await tally.on_start(context), context, None)
    return (time.perf_counter() - began_s) / _TALLIED * 1e6


if __name__ == "__main__":
    run()
