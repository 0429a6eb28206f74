"""What the spans of 1,000 tasks cost the controller, beside what the tasks cost it otherwise.

A job of 1,000 tasks that sleep for a second runs on a cluster that sends no spans. The CPU time of the controller from
the submission to the end of the job is what the tasks cost. This process stores the events of as many tasks, and runs
the delivery of the controller, which reads the events, makes the spans and sends them to a collector on this machine.
The CPU time of the delivery is what the spans cost. It includes the spans of log uploads, which only some engines have,
and the ids that the tasks get.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.measure import CpuClock, aim, our_processes, show
from iris.client import IrisClient
from iris.cluster.client.server_process import start_server
from iris.cluster.controller.events.event_streams import EventPages
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import SUCCEEDED, AttemptEnd, WorkerIdentity
from iris.cluster.controller.logs.receive import UploadedLog
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.controller.tracing.job_spans import JobTrace
from iris.cluster.controller.tracing.otlp import OtlpSender
from iris.cluster.controller.tracing.trace_delivery import TraceDelivery
from iris.config import ClusterConfig
from iris.rpc import cluster_pb2

_NAME = "traces_cost"
_TASKS = 1000
_TASKS_OF_PAGE = 250  # The controller sends the spans of a few hundred tasks in one request.
_SPANS_OF_TASK = 5
_ROUNDS = 5
_AIM_PERCENT = 2.0


def run() -> None:
    """Prints the figures."""
    ours, theirs = Pipe()
    collector = Process(target=_collect, args=(theirs,), daemon=True)
    collector.start()
    try:
        endpoint = f"http://127.0.0.1:{ours.recv()}"
        spans_ms = [asyncio.run(_cost_of_spans_ms(endpoint)) for _ in range(_ROUNDS)]
        tasks_ms = _cost_of_tasks_ms()
        # The speed of a machine with other work changes. Therefore half of the rounds come afterwards.
        spans_ms += [asyncio.run(_cost_of_spans_ms(endpoint)) for _ in range(_ROUNDS)]
    finally:
        collector.kill()
    own_ms, all_ms = statistics.median(spans_ms), statistics.median(tasks_ms)
    percent = 100 * own_ms / all_ms
    show(
        _NAME,
        f"the spans of {_TASKS:,} tasks: {percent:.2f} % of the controller's CPU for these tasks"
        f" ({aim(percent, _AIM_PERCENT, '%')})",
    )
    show(_NAME, f"a task: {all_ms / _TASKS:.2f} ms of CPU; its spans: {own_ms / _TASKS * 1000:.0f} µs of CPU")


def _cost_of_tasks_ms() -> list[float]:
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        server = start_server(ClusterConfig(state_dir=Path(name) / "state", port=0), ends_with_us=True)
        try:
            with IrisClient.remote(server.address, token=server.token) as client:
                client.run(["true"]).wait(progress=False)
                controller = our_processes("iris.server")[0]
                used = []
                for _ in range(3):
                    clock = CpuClock([controller])
                    clock.start()
                    client.run(["sleep", "1"], replicas=_TASKS).wait(progress=False)
                    clock.stop()
                    used.append(clock.used_s * 1000)
                return used
        finally:
            server.stop()


async def _cost_of_spans_ms(endpoint: str) -> float:
    """Return the CPU time for the spans of a job's tasks, in milliseconds."""
    store = Store(None)
    journal = EventJournal(store)
    job = Job.new("train", _TASKS, 1000)
    launch = cluster_pb2.Controller.LaunchJobRequest(is_traced=True)
    jobs = _OneJob(JobRecord(job, launch, [cluster_pb2.TaskStatus() for _ in job.tasks]))
    pages = EventPages(journal, store, StoredJobs(store))
    delivery = TraceDelivery(OtlpSender(endpoint), 0, journal, pages, jobs, _Places(store))
    _place(job)
    gc.collect()
    gc.freeze()  # The collector of a controller skips the objects that exist after its start, too.
    used_s = 0.0
    for begin in range(0, _TASKS, _TASKS_OF_PAGE):
        tasks = range(begin, begin + _TASKS_OF_PAGE)
        _run(job, tasks)
        await _save(store, journal, job)
        began_s = time.process_time()
        trace = JobTrace(job.job_id, job.submitted_at_ms, launch)
        for index in tasks:
            trace.task_parent(index, 0)
            delivery.pending.add(UploadedLog(f"{job.job_id}/task-{index}", 0, job.submitted_at_ms, 4000, 5000))
        assert await delivery.deliver_page()
        used_s += time.process_time() - began_s
    assert delivery.tally.sent == _TASKS * _SPANS_OF_TASK + 1  # The job has a span, too.
    await delivery.close()
    store.close()
    gc.unfreeze()
    return used_s * 1000


def _place(job: Job) -> None:
    job.submit()
    (gang,) = job.gangs.values()
    workers = [WorkerIdentity(f"w{i % 8}", f"http://w{i % 8}", "i") for i in range(_TASKS)]
    job.gang_placed(gang.gang_id, workers, 2000)


def _run(job: Job, tasks: range) -> None:
    for index in tasks:
        job.attempt_running(index, 0, 3000 + index)
        job.attempt_ended(index, 0, AttemptEnd(SUCCEEDED, 5000, exit_code=0), 5000)


async def _save(store: Store, journal: EventJournal, job: Job) -> None:
    changes = Changes()
    await journal.begin_write(changes, [], [job])
    store.write(changes)
    journal.end_write(is_saved=True)


class _OneJob:
    """The jobs of a cluster with one job."""

    def __init__(self, record: JobRecord) -> None:
        self._record = record

    async def get(self, job_id: str) -> JobRecord | None:
        """Return the job."""
        return self._record


class _Places:
    """Stores the place of the delivery at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write_once(self, add: Callable[[Changes], object]) -> None:
        """Write changes."""
        changes = Changes()
        add(changes)
        self._store.write(changes)


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
