"""What the spans of 1,000 tasks cost the controller, beside what the tasks cost it otherwise.

A job of 1,000 tasks that sleep for a second runs on a cluster that sends no spans. The CPU time of the controller from
the submission to the end of the job is what the tasks cost. Then this process makes the spans of as many attempts, and
sends them to a collector on this machine with the controller's code. The CPU time of that is what the spans cost.
"""

from __future__ import annotations

import tempfile
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.measure import CpuClock, aim, our_processes, show
from iris.client import IrisClient
from iris.cluster.client.server_process import start_server
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import SUCCEEDED, AttemptEnd, WorkerIdentity
from iris.cluster.controller.tracing.job_spans import JobTrace, attempt_spans, job_span
from iris.cluster.controller.tracing.otlp import OtlpSender
from iris.config import ClusterConfig
from iris.rpc import cluster_pb2

_NAME = "traces_cost"
_TASKS = 1000
_PAGE = 500  # The controller sends the spans of this many events in one request.
_AIM_PERCENT = 2.0


def run() -> None:
    """Prints the figures."""
    tasks_ms = _cost_of_tasks_ms()
    spans_ms = _cost_of_spans_ms()
    percent = 100 * spans_ms / tasks_ms
    show(
        _NAME,
        f"the spans of {_TASKS:,} tasks: {percent:.2f} % of the controller's CPU for these tasks"
        f" ({aim(percent, _AIM_PERCENT, '%')})",
    )
    show(_NAME, f"a task: {tasks_ms / _TASKS:.2f} ms of CPU; its spans: {spans_ms / _TASKS * 1000:.0f} µs of CPU")


def _cost_of_tasks_ms() -> float:
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        server = start_server(ClusterConfig(state_dir=Path(name) / "state", port=0), ends_with_us=True)
        try:
            with IrisClient.remote(server.address, token=server.token) as client:
                client.run(["true"]).wait(progress=False)
                clock = CpuClock(
                    [our_processes("iris.server")[0]]
                )  # The others are workers that the server has forked.
                clock.start()
                client.run(["sleep", "1"], replicas=_TASKS).wait(progress=False)
                clock.stop()
                return clock.used_s * 1000
        finally:
            server.stop()


def _cost_of_spans_ms() -> float:
    job = Job.new("train", _TASKS, 1000)
    job.submit()
    (gang,) = job.gangs.values()
    job.gang_placed(gang.gang_id, [WorkerIdentity(f"w{i}", f"http://w{i}", "i") for i in range(_TASKS)], 2000)
    for index in range(_TASKS):
        job.attempt_running(index, 0, 3000 + index)
        job.attempt_ended(index, 0, AttemptEnd(SUCCEEDED, 5000, exit_code=0), 5000)
    ours, theirs = Pipe()
    collector = Process(target=_collect, args=(theirs,), daemon=True)
    collector.start()
    try:
        sender = OtlpSender(f"http://127.0.0.1:{ours.recv()}")
        sender.send([job_span(job, _trace(job))])
        began_s = time.process_time()
        for first in range(0, _TASKS, _PAGE):
            trace = _trace(job)
            spans = [span for index in range(first, first + _PAGE) for span in attempt_spans(job, trace, index, 0)]
            assert sender.send(spans)
        return (time.process_time() - began_s) * 1000
    finally:
        collector.kill()


def _trace(job: Job) -> JobTrace:
    return JobTrace(job.job_id, job.submitted_at_ms, cluster_pb2.Controller.LaunchJobRequest())


def _collect(port: Connection) -> None:
    """Accept all spans, in a process of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_address[1])
    server.serve_forever()


if __name__ == "__main__":
    run()
