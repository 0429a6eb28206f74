"""What metrics cost the controller while 1,000 tasks run and a Prometheus reads the metrics every 15 seconds.

The tasks are real processes that sleep, on one worker. The metrics are read 40 times, about once a second. The CPU time
of the controller's event loop between the begin and the end of a reading is the cost of the reading. The time for the
tally of one call is measured alone. The figure is the share of both in the CPU time that the controller uses otherwise,
in the same run.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

from connectrpc.method import StreamType

from benchmarks.measure import CpuClock, aim, our_processes, p50, show
from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.config import ClusterConfig
from iris.rpc.monitoring.call_tally import CallTally

_NAME = "metrics_cost"
_TASKS = 1000
_READINGS = 40
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
    controller = our_processes("iris.server")[0]
    clock = CpuClock([controller])
    readings: list[float] = []
    size, calls = 0, -_calls(url)
    clock.start()
    for _ in range(_READINGS):
        time.sleep(_PAUSE_S)
        before_ms = _loop_ms(controller.pid)
        size = len(_read(url))
        readings.append(_loop_ms(controller.pid) - before_ms)
    clock.stop()
    total_s = _READINGS * _PAUSE_S
    calls_per_s = (calls + _calls(url)) / total_s
    tally_us = asyncio.run(_tally_us())
    reading_ms = p50(readings)
    quiet_ms = (clock.used_s * 1000 - sum(readings)) / total_s
    percent = 100 * (reading_ms / _PERIOD_S + tally_us / 1000 * calls_per_s) / quiet_ms
    show(
        _NAME,
        f"{_TASKS:,} running tasks, a reading every {_PERIOD_S:g} s: {percent:.2f} % of the controller's CPU"
        f" ({aim(percent, _AIM_PERCENT, '%')})",
    )
    show(
        _NAME,
        f"a reading of {size / 1000:.0f} kB: {reading_ms:.2f} ms of CPU; the tally of a call: {tally_us:.2f} µs,"
        f" {calls_per_s:.1f} calls/s; the controller without readings: {quiet_ms:.1f} ms of CPU a second",
    )


def _loop_ms(pid: int) -> float:
    """The CPU time of the thread with the event loop, in milliseconds. The kernel counts it in nanoseconds."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


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
