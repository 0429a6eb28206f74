"""The lines of a job and of its child jobs, read together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.async_client import open_async_client
from support.cluster import launch, unique
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.client.aio import AsyncIrisClient
from iris.client.aio.logs.tree import AsyncTreeLogStream
from iris.client.logs.read_options import ReadOptions
from iris.client.logs.tree import JobTree, TreeLogStream, last_lines
from iris.cluster.client.server_process import LocalServer
from iris.errors import NotFoundError
from iris.rpc import cluster_pb2

FOLLOW = ReadOptions.checked(sources=["stdout"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["sync", "async"])
def either(request: pytest.FixtureRequest, shared_cluster: LocalServer) -> Iterator[Any]:
    """A sync client, or an async client in a wrapper with the methods of the sync client."""
    if request.param == "sync":
        with IrisClient.remote(shared_cluster.address) as client:
            yield client
    else:
        with open_async_client(lambda: AsyncIrisClient.remote(shared_cluster.address)) as client:
            yield client


def run_children(gate: str) -> None:
    """Write a line, run a child job with a grandchild, wait for a file, and run another child job."""
    import os
    import time

    from iris.client import IrisClient

    def run_grandchild() -> None:
        with IrisClient.remote() as inner:
            print("child")
            inner.run(["echo", "grandchild"], name="grand").wait()

    with IrisClient.remote() as client:
        print("root")
        client.run(run_grandchild, name="first").wait()
        while not os.path.exists(gate):
            time.sleep(0.02)
        client.run(["sh", "-c", "echo late $IRIS_TASK_INDEX"], name="second", replicas=2).wait()


def lines(stream: Any) -> list[tuple[str, str]]:
    return [(line.job_id.partition("/")[2], line.message) for line in stream if line.source == "stdout"]


def test_logs_of_a_job_tree_contain_existing_and_new_lines_of_all_jobs(
    client: IrisClient, either: Any, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    root = client.run(run_children, args=[str(gate)], name=unique("tree"))
    first = Job(client, f"{root.job_id}/first")
    existing = [("", "root"), ("first", "child"), ("first/grand", "grandchild")]
    wait_until(lambda: first.job_id in {job.job_id for job in client.list_jobs()}, "the first child job")
    first.wait()
    job = either.job(root.job_id)
    assert lines(job.tree_logs()) == existing  # The lines are in the order of their times.
    assert lines(job.tree_logs(tail=2)) == existing[1:]
    assert lines(job.tree_logs(max_lines=2, sources=["stdout"])) == existing[:2]
    with job.tree_logs(follow=True, sources=["stdout"]) as stream:
        found = [next(stream) for _ in existing]
        gate.touch()
        late = sorted(lines(stream))
    assert [line.message for line in found] == ["root", "child", "grandchild"]
    assert late == [("second", "late 0"), ("second", "late 1")]
    root.wait()
    assert sorted(lines(job.tree_logs(follow=True))) == sorted([*existing, *late])


def test_reading_the_logs_of_the_job_tree_of_an_unknown_job_raises_not_found(either: Any) -> None:
    with pytest.raises(NotFoundError):
        next(iter(either.stream_tree_logs("nowhere")))


def test_closed_stream_of_the_logs_of_a_job_tree_ends(client: IrisClient, either: Any) -> None:
    root = client.run(["sh", "-c", "echo begin; exec sleep 600"], name=unique("tree"))
    with either.stream_tree_logs(root.job_id, sources=["stdout"]) as stream:
        assert next(stream).message == "begin"
    root.terminate()


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, ["d"]), (3, ["b", "c", "d"]), (9, ["a", "b", "c", "d"])])
def test_only_the_last_lines_of_several_batches_of_lines_are_returned(count: int, expected: list[str]) -> None:
    batches: Any = [["a", "b"], ["c"], ["d"]]
    assert [line for batch in last_lines(iter(batches), count) for line in batch] == expected


def test_job_tree_yields_each_job_once_and_limits_the_jobs_that_are_followed_at_once() -> None:
    tree = JobTree[str]("a", lambda job_id: f"all of {job_id}", max_followed=2)
    jobs = [cluster_pb2.JobStatus(job_id=job_id) for job_id in ("a", "a/b", "a/c")]
    tree.add(jobs[:1])
    assert tree.take_all() == ["a"]
    tree.add(jobs)
    tree.add(jobs)
    tree.add_paused(["rest of a"])
    assert tree.has_unread
    assert tree.next_source(2) is None
    assert [tree.next_source(0), tree.next_source(1), tree.next_source(0)] == ["rest of a", "all of a/b", "all of a/c"]
    assert tree.next_source(0) is None
    assert not tree.has_unread


@pytest.fixture
def wide_tree(client: IrisClient, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The id of a running job with three running child jobs, and the file whose existence ends the child jobs."""
    gate = tmp_path / "gate"
    script = f"echo first; while [ ! -e {gate} ]; do sleep 0.05; done; echo last"
    root = client.run(["sh", "-c", "echo first; exec sleep 600"], name=unique("tree"))
    for name in ("a", "b", "c"):
        launch(client.cluster, ["sh", "-c", script], name=name, parent_job_id=root.job_id)
    wait_until(
        lambda: len(list(client.stream_tree_logs(root.job_id, sources=["stdout"], follow=False))) == 4,
        "the first lines",
    )
    yield root.job_id, gate
    root.terminate()


def test_jobs_that_exist_at_the_start_are_followed_up_to_the_limit(
    client: IrisClient, wide_tree: tuple[str, Path]
) -> None:
    job_id, gate = wide_tree
    with TreeLogStream(client.cluster, job_id, FOLLOW, max_followed=2) as stream:
        batches = stream.batches()
        for _ in range(2):  # The first pause comes after the existing lines, the second one once jobs are followed.
            assert [entry.message for batch in iter(batches.__next__, ()) for entry in batch].count("last") == 0
        assert [thread.name for thread in threading.enumerate()].count("iris-tree-logs") == 2
        gate.touch()
        # The root job runs on. Therefore the child jobs are followed one after the other.
        assert [next(stream).message for _ in range(3)] == ["last"] * 3


@pytest.mark.anyio
async def test_async_following_of_a_job_tree_obeys_the_limit_and_leaves_no_asyncio_task_behind(
    shared_cluster: LocalServer, wide_tree: tuple[str, Path]
) -> None:
    job_id, _ = wide_tree
    async with AsyncIrisClient.remote(shared_cluster.address) as client:
        before = asyncio.all_tasks()
        async with AsyncTreeLogStream(client.cluster.connection, job_id, FOLLOW, max_followed=2) as stream:
            pauses = 0
            async for batch in stream.batches():
                pauses += not batch
                if pauses == 2:
                    break
            added = asyncio.all_tasks() - before
            assert [task.get_coro().__name__ for task in added].count("_forward") == 2
        assert not asyncio.all_tasks() - before
