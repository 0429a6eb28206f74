"""The results of a job's tasks come in one stream, each when its task has ended."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from support.chaos_proxy import ChaosProxy, Faults, always, gentle
from support.cluster import shell
from support.waiting import wait_until

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.cluster.client.server_process import LocalServer
from iris.cluster.types import get_job_info
from iris.errors import JobFailedError, NotFoundError, ResultError
from iris.rpc import cluster_pb2

NO_CORES = {"cpu": 0}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def index_or_error() -> int:
    """Return the task's index, raise, or return nothing."""
    info = get_job_info()
    assert info is not None
    if info.task_index == 1:
        raise LookupError("task 1")
    if info.task_index == 2:
        raise SystemExit(7)
    return info.task_index


def after_gate(directory: str) -> int:
    """Return the task's index once a file with this number exists."""
    info = get_job_info()
    assert info is not None
    while not (Path(directory) / str(info.task_index)).exists():
        time.sleep(0.02)
    return info.task_index


def test_results_with_return_exceptions_has_an_item_for_each_task(client: IrisClient) -> None:
    job = client.run(index_or_error, replicas=4, coscheduled=False, resources=NO_CORES, max_task_failures=2)
    first, second, third, fourth = job.results(timeout=60, return_exceptions=True)
    assert (first, fourth) == (0, 3)
    assert isinstance(second, LookupError)
    assert isinstance(third, ResultError)
    assert "exit code 7" in str(third) or "sys.exit(7)" in str(third)
    with pytest.raises(ResultError, match="task-1' has no result"):
        job.results()


def test_results_with_return_exceptions_of_a_failed_job_raises_nothing(client: IrisClient) -> None:
    job = client.run(index_or_error, replicas=2)
    results = job.results(timeout=60, return_exceptions=True)
    assert isinstance(results[1], LookupError)
    with pytest.raises(JobFailedError) as caught:
        job.results()
    assert isinstance(caught.value.__cause__, LookupError)
    assert [task.task_index for task in caught.value.status.tasks] == [0, 1]


def test_as_completed_yields_each_task_when_it_has_ended(client: IrisClient, tmp_path: Path) -> None:
    job = client.run(after_gate, args=[str(tmp_path)], replicas=3, coscheduled=False, resources=NO_CORES)
    seen = []
    completed = job.as_completed(timeout=60)
    for index in (2, 0, 1):
        (tmp_path / str(index)).touch()
        task = next(completed)
        seen.append((task.task_index, task.result(), task.exception()))
    assert seen == [(2, 2, None), (0, 0, None), (1, 1, None)]
    assert list(completed) == []
    assert [task.task_index for task in job.as_completed()] == [2, 0, 1]


def test_task_result_waits_up_to_its_timeout(client: IrisClient, tmp_path: Path) -> None:
    job = client.run(after_gate, args=[str(tmp_path)], replicas=2, coscheduled=False, resources=NO_CORES)
    task = job.tasks()[1]
    with pytest.raises(ResultError, match="has not ended"):
        task.result()
    with pytest.raises(TimeoutError):
        task.result(timeout=0.1)
    (tmp_path / "1").touch()
    assert task.result(timeout=60) == 1
    with pytest.raises(TimeoutError):
        job.results(timeout=0)
    (tmp_path / "0").touch()
    assert job.results(timeout=60) == [0, 1]
    assert job.results(timeout=0) == [0, 1]


def test_results_of_an_unknown_job_or_task_are_not_found(client: IrisClient) -> None:
    with pytest.raises(NotFoundError):
        client.job("unknown-job").results()
    job = client.run(["true"])
    with pytest.raises(NotFoundError, match="has no task 5"):
        list(client.cluster.stream_results(job.job_id, [5]))


def test_results_survive_broken_connections_without_repetition(
    shared_cluster: LocalServer, client: IrisClient, tmp_path: Path
) -> None:
    job = client.run(after_gate, args=[str(tmp_path)], replicas=6, coscheduled=False, resources=NO_CORES)
    host, port = shared_cluster.address.removeprefix("http://").split(":")
    with ChaosProxy((host, int(port))) as proxy:
        proxy.plan = always(Faults("cut", after_bytes=1500))
        found: list[int] = []

        def read() -> None:
            with IrisClient.remote(f"127.0.0.1:{proxy.port}") as remote:
                found.extend(task.task_index for task in remote.job(job.job_id).as_completed(timeout=60))

        reader = threading.Thread(target=read)
        reader.start()
        for index in range(6):
            (tmp_path / str(index)).touch()
            wait_until(lambda index=index: index in found, f"task {index}, found {found}")
        proxy.plan = gentle
        reader.join()
        assert found == list(range(6))
        assert proxy.faults


@pytest.mark.anyio
async def test_async_results_equal_the_sync_results(shared_cluster: LocalServer, tmp_path: Path) -> None:
    async with AsyncIrisClient.remote(shared_cluster.address) as client:
        job = await client.run(index_or_error, replicas=4, coscheduled=False, resources=NO_CORES, max_task_failures=2)
        results = await job.results(timeout=60, return_exceptions=True)
        assert (results[0], results[3], type(results[1])) == (0, 3, LookupError)
        tasks = [task async for task in job.as_completed()]
        assert sorted(task.task_index for task in tasks) == [0, 1, 2, 3]
        by_index = {task.task_index: task for task in tasks}
        assert await by_index[3].result() == 3
        assert isinstance(await by_index[1].exception(), LookupError)
        assert await (await job.tasks())[3].result(timeout=60) == 3


def test_stream_of_results_contains_the_reason_why_a_task_has_no_result(client: IrisClient) -> None:
    job = client.run(shell("exit 3"))
    tasks = [one for one in client.cluster.stream_results(job.job_id) if isinstance(one, cluster_pb2.TaskStatus)]
    assert [(task.exit_code, task.state) for task in tasks] == [(3, cluster_pb2.TASK_STATE_FAILED)]
