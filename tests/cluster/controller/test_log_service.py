"""Readers of kept logs, while the job is removed and a new job gets its name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.cluster import launch, shell, wait_for_end
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.waiting import wait_until
from support.worker_process import running_worker

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.logs.log_service import LogService
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.base import Resources
from iris.cluster.logs.directories import LogDirectories
from iris.errors import NotFoundError
from iris.rpc.cluster_pb2 import FetchLogPartsRequest, Worker

READS: list[Callable[[LogService], Coroutine[Any, Any, object]]] = [
    lambda logs: logs.fetch_task_logs(Worker.FetchTaskLogsRequest(task_id="job/task-0"), "reader"),
    lambda logs: logs.fetch_log_parts(
        FetchLogPartsRequest(job_id="job", reads=[FetchLogPartsRequest.Read(task_index=0)]), "reader"
    ),
]


def run_job(running: ControllerThread, client: RemoteClusterClient, text: str) -> None:
    """Run the job `job`, whose task writes a text, until the controller keeps its log."""
    wait_for_end(client, launch(client, shell(f"echo {text}"), name="job"))
    keeper = running.controller.log_sources.keeper
    assert keeper is not None
    wait_until(lambda: keeper.is_complete("job/task-0", 0), "the upload of the log")


@pytest.mark.parametrize("read", READS, ids=["page", "part"])
def test_reader_gets_no_log_of_a_new_job_that_has_the_name_of_a_removed_job(
    tmp_path: Path, read: Callable[[LogService], Coroutine[Any, Any, object]]
) -> None:
    engine = FakeEngine({"w": Resources.of(cpu=4)})
    kept = Keeping(LogDirectories(tmp_path / "kept"))
    with (
        serving(engine, Store(None), kept_logs=kept) as running,
        running_worker(running.address, tmp_path / "worker", worker_id="w"),
        RemoteClusterClient(running.address) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        wait_until(client.list_workers, "the worker")
        run_job(running, client, "first")
        scans = running.controller.log_sources.budget.scans
        gate = threading.Event()
        # These reads keep all threads busy, so that the read of the log waits.
        blocking = running.call(
            lambda: [asyncio.create_task(scans.read(f"caller-{number}", gate.wait)) for number in range(4)]
        )
        wait_until(lambda: scans.lane.num_running == len(blocking), "the blocking reads")
        try:
            answer = threads.submit(running.run, read(running.controller.logs))
            wait_until(lambda: scans.lane.num_waiting, "the read of the log")
            client.forget_job("job")
            run_job(running, client, "second")
        finally:
            gate.set()
        with pytest.raises(NotFoundError, match="job 'job' was removed while its logs were being read"):
            answer.result()
