"""The usage history on a real cluster: of running tasks, of ended tasks, and after a restart of the controller."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import running_cluster, shell, unique
from support.controller_thread import serving
from support.fake_engine import FakeEngine
from support.tokens import token
from support.waiting import wait_until
from support.worker_process import running_worker

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.base import Resources
from iris.cluster.types import ResourceSpec
from iris.errors import InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2 as pb

# A task that is busy for a part of the time and has 40 MB of memory. Another one that only sleeps.
BUSY = "import time\nkept = bytearray(40_000_000)\nwhile True: sum(range(300_000)); time.sleep(0.05)"
SPIN = f"if [ $IRIS_TASK_INDEX = 0 ]; then exec python3 -c '{BUSY}'; else exec sleep 600; fi"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("usage") / "state"


@pytest.fixture(scope="module")
def client(state: Path) -> Iterator[IrisClient]:
    with running_cluster(state, workers=2) as server, IrisClient.remote(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def ended(client: IrisClient) -> str:
    """A job of two tasks that ran until both had several samples, and was terminated then."""
    job = client.run(shell(SPIN), name=unique("used"), replicas=2, resources=ResourceSpec(cpu=0.5, memory="64Mi"))
    wait_until(lambda: len(client.usage(job, 0).times_ms) >= 3, "three samples of a task", timeout_s=60)
    job.terminate()
    client.wait(job.job_id)
    return job.job_id


def busiest(series: pb.UsageSeries) -> int:
    return max(series.cpu_millicores)


def test_usage_of_tasks_shows_which_task_was_busy(client: IrisClient, ended: str) -> None:
    busy, idle = client.cluster.get_usage(ended, [0, 1])
    assert [busy.task_index, idle.task_index] == [0, 1]
    assert busy.step_ms == 2000
    assert len(busy.times_ms) == len(busy.cpu_millicores) == len(busy.memory_mb)
    assert busiest(busy) > busiest(idle)
    assert max(busy.memory_mb) > 40 > max(idle.memory_mb)
    assert not busy.gpu_percent
    assert not busy.requested_cpu_millicores


def test_usage_of_a_job_is_the_sum_over_its_tasks(client: IrisClient, ended: str) -> None:
    total = client.job(ended).usage()
    assert not total.HasField("task_index")
    assert max(total.num_tasks) == 2
    assert max(total.requested_cpu_millicores) == 1000
    assert max(total.requested_memory_mb) == 128
    assert max(total.memory_mb) > max(client.usage(ended, 0).memory_mb)


def test_usage_of_a_worker_includes_the_tasks_on_it(client: IrisClient, ended: str) -> None:
    workers = {attempt.worker_id for task in client.list_tasks(ended) for attempt in task.attempts}
    found = client.cluster.get_usage(worker_ids=[*sorted(workers), "unknown"])
    assert [series.worker_id for series in found] == sorted(workers)
    assert max(max(series.num_tasks) for series in found) >= 1
    assert max(max(series.memory_mb) for series in found) > 40


def test_usage_can_be_read_for_a_time_span_and_with_a_limited_number_of_points(client: IrisClient, ended: str) -> None:
    whole = client.usage(ended, 0)
    last_ms = whole.times_ms[-1]
    assert list(client.usage(ended, 0, since_ms=last_ms).times_ms) == [last_ms]
    assert list(client.usage(ended, 0, until_ms=whole.times_ms[0]).times_ms) == [whole.times_ms[0]]
    assert len(client.usage(ended, 0, max_points=1).times_ms) == 1
    assert client.job(ended).tasks()[0].usage() == whole


def test_invalid_request_for_usage_is_refused_with_the_accepted_values(client: IrisClient, ended: str) -> None:
    with pytest.raises(NotFoundError, match="its tasks are 0 to 1"):
        client.usage(ended, 2)
    with pytest.raises(NotFoundError):
        client.usage("unknown")
    with pytest.raises(InvalidArgumentError, match="max_points must be a whole number from 1 to 1000"):
        client.usage(ended, max_points=0)
    with pytest.raises(InvalidArgumentError, match="until_ms must not be before since_ms"):
        client.usage(ended, since_ms=10_000, until_ms=5000)
    with pytest.raises(InvalidArgumentError, match="mutually exclusive"):
        client.cluster.get_usage(ended, worker_ids=["local-0"])


def test_usage_of_a_task_shorter_than_a_sample_has_one_point(client: IrisClient) -> None:
    job = client.run(["true"], name=unique("short"))
    job.wait()
    assert len(job.tasks()[0].usage().times_ms) == 1


def test_removed_job_has_no_usage(client: IrisClient) -> None:
    job = client.run(["true"], name=unique("removed"))
    job.wait()
    client.forget(job)
    with pytest.raises(NotFoundError):
        job.usage()


def test_async_client_reads_the_same_usage_as_the_sync_client(client: IrisClient, ended: str) -> None:
    async def read() -> tuple[pb.UsageSeries, pb.UsageSeries]:
        async with AsyncIrisClient.remote(client.cluster.controller_address) as remote:
            return await remote.usage(ended, 0), await remote.job(ended).usage()

    assert asyncio.run(read()) == (client.usage(ended, 0), client.usage(ended))


def test_status_of_an_attempt_contains_the_time_of_its_placement(client: IrisClient, ended: str) -> None:
    job = client.status(ended)
    for task in job.tasks:
        (attempt,) = task.attempts
        assert job.submitted_at_ms <= attempt.placed_at_ms <= attempt.started_at_ms <= attempt.finished_at_ms


def test_usage_of_an_ended_job_survives_a_restart_of_the_controller(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "state") as server, IrisClient.remote(server.address) as client:
        job = client.run(["true"], name="kept", replicas=2)
        job.wait()
        before = client.cluster.get_usage("kept", [0, 1])
        assert len(before) == 2
    with running_cluster(tmp_path / "state") as server, IrisClient.remote(server.address) as client:
        assert client.cluster.get_usage("kept", [0, 1]) == before


def test_use_of_gpus_comes_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho '0, GPU-a, 80, 1000'\necho '1, GPU-b, 15, 500'\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    engine = FakeEngine({"w": Resources.of(cpu=2, memory_bytes=2**30, gpu=2)})
    with (
        serving(engine, Store(tmp_path / "controller.db")) as controller,
        running_worker(controller.address, tmp_path / "worker"),
        IrisClient.remote(controller.address, token=token()) as client,
    ):
        job = client.run(["sleep", "600"], resources=ResourceSpec(gpu=2))
        wait_until(lambda: job.usage().gpu_percent, "a measurement of the GPUs")
        total = job.usage()
        assert (max(total.gpu_percent), max(total.gpu_memory_mb)) == (95, 1500)
        assert max(total.requested_gpus) == 2
        assert job.status().tasks[0].resource_usage.gpu_percent == 95
        job.terminate()
        client.wait(job.job_id)
