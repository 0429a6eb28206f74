"""Removed jobs and dropped results on a real cluster: no data remains, and readers get an error with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import running_cluster, shell, unique
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.errors import NotFoundError, ResultError
from iris.reasons import ErrorReason
from iris.rpc.cluster_pb2 import StreamTaskLogsRequest

LIMIT = 200_000


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("removed") / "state"


@pytest.fixture(scope="module")
def address(state: Path) -> Iterator[str]:
    with running_cluster(state, max_bytes_per_user=LIMIT) as server:
        yield server.address


@pytest.fixture
def client(address: str) -> Iterator[IrisClient]:
    with IrisClient.remote(address) as client:
        yield client


def files_of(state: Path, job_id: str) -> list[Path]:
    """Return the files and directories that contain the name of a job."""
    return [path for path in state.rglob("*") if job_id in path.name]


def test_removed_job_leaves_no_files_and_a_new_job_of_its_name_has_its_own_logs(
    client: IrisClient, state: Path
) -> None:
    name = unique("once")
    job = client.run(shell("echo first; touch file; exit 3"), name=name)
    assert client.wait(job.job_id).exit_code == 3
    assert files_of(state, name)
    assert client.forget(job) == [name]
    with pytest.raises(NotFoundError):
        job.status()
    with pytest.raises(NotFoundError):
        client.fetch_task_logs(name, 0)
    wait_until(lambda: not files_of(state, name), "the removal of the files")
    client.run(shell("echo second"), name=name).wait()
    for route in ("controller", "worker"):
        with client.stream_task_logs(name, 0, follow=False, route=route) as lines:  # type: ignore[arg-type]
            assert [line.message for line in lines if line.source == "stdout"] == ["second"]
    client.forget(name)


def test_reader_of_the_logs_of_a_removed_job_gets_an_error(client: IrisClient, address: str) -> None:
    name = unique("read")
    client.run(shell("head -c 30000000 /dev/zero | tr '\\0' 'x' | fold -w 100"), name=name).wait()
    with RemoteClusterClient(address) as low:
        stream = low.stream_task_logs(StreamTaskLogsRequest(job_id=name, follow=True))
        next(stream)
        low.forget_job(name)
        with pytest.raises(NotFoundError, match=f"job '{name}' was removed while its logs were being read"):
            for _ in stream:
                pass


def test_reader_that_reads_from_the_worker_gets_an_error_when_the_job_is_removed(client: IrisClient) -> None:
    name = unique("read")
    client.run(shell("head -c 60000000 /dev/zero | tr '\\0' 'x' | fold -w 100"), name=name).wait()
    with client.stream_task_logs(name, 0, route="worker") as lines:
        next(iter(lines))
        client.forget(name)
        messages: list[str] = []
        with pytest.raises(NotFoundError, match=name):
            messages.extend(line.message for line in lines)
        assert set(messages) == {"x" * 100}, "no message about missing bytes"


def test_dropped_result_has_an_error_with_a_reason_and_newer_results_stay(client: IrisClient) -> None:
    jobs = []
    for number in range(3):  # The jobs end in this order, because the contents of the first one to end are dropped.
        jobs.append(client.run(bytes, args=(70_000,), name=unique(f"result{number}")))
        jobs[-1].wait()
    task = jobs[0].tasks()[0]

    def reason() -> str | None:
        try:
            task.result()
        except ResultError as error:
            return str(error.reason)
        return None

    wait_until(lambda: reason() == ErrorReason.RESULT_DROPPED, "the oldest result to be dropped")
    with pytest.raises(ResultError, match="--max-bytes-per-user"):
        task.result()
    assert jobs[0].status().state == jobs[2].status().state
    assert len(jobs[2].tasks()[0].result()) == 70_000
