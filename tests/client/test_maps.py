"""`client.map` and its relatives call a function once for each input, in one job."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique
from support.waiting import wait_until

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.client.maps.submission import MAX_TASKS, choose_chunk
from iris.cluster.client.server_process import LocalServer
from iris.cluster.types import get_job_info
from iris.errors import AlreadyExistsError, EntrypointError, InvalidArgumentError, RemoteTraceback, ResultError
from iris.rpc import cluster_pb2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Point:
    """An input of a class that the caller defines."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __repr__(self) -> str:
        return f"Point({self.x})"


class PointError(Exception):
    """An exception of a class that the caller defines."""


def square(x: int) -> int:
    return x * x


def check_point(point: Point) -> int:
    if point.x == 3:
        raise PointError("three")
    return point.x if isinstance(point, Point) else -1


def hostile(x: int) -> int:
    if x == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if x == 4:
        os._exit(9)
    if x == 6:
        sys.exit("six")
    return x


def fails_in_ways(calls: str, ways: list[str]) -> None:
    with open(calls, "a") as file:
        file.write(".")
        way = ways[min(file.tell(), len(ways)) - 1]
    if way == "die":
        os._exit(9)
    if way == "exit":
        sys.exit(1)
    raise ValueError(way)


def fails_at_first(directory: str, x: int) -> int:
    """Fail in the first try, by an exception or by the end of the process."""
    flag = Path(directory) / str(x)
    if not flag.exists():
        flag.touch()
        if x % 2:
            os._exit(1)
        raise ValueError("not yet")
    return x


def task_and_input(x: int) -> tuple[int, int]:
    info = get_job_info()
    assert info is not None
    return info.task_index, x


async def plus_one(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def scaled(x: int, *, factor: int) -> int:
    return x * factor


def test_map_returns_the_values_in_the_order_of_the_inputs(client: IrisClient) -> None:
    assert list(client.map(square, range(50), progress=False)) == [x * x for x in range(50)]
    assert sorted(client.map(square, iter(range(5)), order=False)) == [0, 1, 4, 9, 16]
    assert list(client.map(square, [])) == []


def test_map_handle_has_the_state_of_its_job_after_waiting(client: IrisClient) -> None:
    mapping = client.submit_map(abs, [-1, 2], chunk=1)
    status = mapping.wait(60, progress=False)
    assert status.state == mapping.job.status().state
    assert mapping.state == "SUCCEEDED"


def test_starmap_passes_several_arguments_and_map_passes_kwargs_to_each_call(client: IrisClient) -> None:
    assert list(client.starmap(pow, [(2, 3), [3, 2]])) == [8, 9]
    assert list(client.map(scaled, [1, 2], kwargs={"factor": 10}, chunk=2)) == [10, 20]
    assert list(client.map(plus_one, [1, 2], chunk=2)) == [2, 3]


def test_chunk_sets_the_number_of_inputs_of_each_task(client: IrisClient) -> None:
    handle = client.submit_map(task_and_input, range(7), chunk=3)
    assert list(handle) == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5), (2, 6)]
    assert (len(handle), handle.inputs_per_task, handle.job.status().num_tasks) == (7, 3, 3)


@pytest.mark.parametrize(
    ("count", "parallel", "chunk"), [(1, 1, 1), (8, 1, 1), (9, 1, 2), (5000, 2, 313), (16, 2, 1), (10**6, 10**4, 100)]
)
def test_default_chunk_gives_each_core_about_eight_tasks(count: int, parallel: int, chunk: int) -> None:
    assert choose_chunk(count, parallel) == chunk
    assert -(-count // chunk) <= min(MAX_TASKS, 8 * parallel)


def test_input_that_fails_raises_its_exception_with_index_input_and_traceback(client: IrisClient) -> None:
    handle = client.submit_map(check_point, [Point(x) for x in range(5)], chunk=5)
    results = handle.results()
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(PointError, match="three") as caught:
        next(results)
    assert caught.value.__notes__ == [f"raised for input 3 of job {handle.job_id!r}: Point(3)"]
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in check_point" in str(caught.value.__cause__)
    found = dict(handle.as_completed())
    assert isinstance(found.pop(3), PointError)
    assert found == {0: 0, 1: 1, 2: 2, 4: 4}
    assert "input 3 failed: Point(3)" in "\n".join(line.message for line in handle.job.logs())


def test_input_that_ends_the_process_does_not_make_the_other_inputs_fail(client: IrisClient) -> None:
    results = list(client.map(hostile, range(8), chunk=8, return_exceptions=True))
    assert [value for value in results if isinstance(value, int)] == [0, 1, 3, 5, 7]
    for index, how in ((2, "signal 9"), (4, "exit code 9"), (6, "SystemExit(six)")):
        assert isinstance(results[index], ResultError)
        assert f"input {index} of job" in str(results[index])
        assert how in str(results[index])


def test_map_returns_all_values_if_failed_inputs_succeed_at_their_retry(client: IrisClient, tmp_path: Path) -> None:
    inputs = [(str(tmp_path), x) for x in range(4)]
    assert list(client.starmap(fails_at_first, inputs, chunk=4, max_retries_failure=1)) == [0, 1, 2, 3]


@pytest.mark.parametrize("ways", ["raise die die", "raise raise die", "exit raise die", "exit exit exit"])
def test_input_that_always_fails_is_tried_once_and_then_max_retries_failure_times(
    client: IrisClient, tmp_path: Path, ways: str
) -> None:
    inputs = [(str(tmp_path / "calls"), ways.split())]
    (result,) = client.starmap(fails_in_ways, inputs, max_retries_failure=2, return_exceptions=True)
    assert isinstance(result, ResultError)
    assert (tmp_path / "calls").read_text() == "...", "one point for each call"


def test_chunk_that_exceeds_its_timeout_fails_only_its_own_inputs(client: IrisClient) -> None:
    def slow(x: int) -> int:
        time.sleep(600 if x == 2 else 0)
        return x

    results = list(client.map(slow, range(4), chunk=1, timeout=6, return_exceptions=True))
    assert (results[:2], results[3]) == ([0, 1], 3)
    assert "input 2 of job" in str(results[2])
    assert "its timeout of 6 s" in str(results[2])


def test_map_with_the_same_name_and_inputs_continues_the_earlier_job(
    shared_cluster: LocalServer, client: IrisClient
) -> None:
    name = unique("map")
    first = client.submit_map(square, range(6), name=name)
    with IrisClient.remote(shared_cluster.address) as other:
        second = other.submit_map(square, range(6), name=name)
        assert (second.job_id, second.inputs_per_task) == (name, first.inputs_per_task)
        assert list(other.map(square, range(6), name=name)) == [0, 1, 4, 9, 16, 25]
        assert list(other.map_job(name)) == [0, 1, 4, 9, 16, 25]
        with pytest.raises(AlreadyExistsError, match="maps 6 other inputs: choose another name"):
            other.submit_map(square, range(7), name=name)
    job = client.run(["true"])
    with pytest.raises(AlreadyExistsError, match="is not a map job"):
        client.submit_map(square, [1], name=job.job_id)
    with pytest.raises(InvalidArgumentError, match="must be the id of a map job"):
        client.map_job(job)


def test_terminated_map_has_an_error_for_each_input_without_a_value(client: IrisClient) -> None:
    handle = client.submit_map(time.sleep, [0, 600, 600], chunk=1, max_parallel=1)
    first = next(handle.as_completed())
    assert first == (0, None)
    handle.terminate()
    _, second, third = handle.results(return_exceptions=True, timeout=60)
    assert "terminated by a user" in str(second)
    assert isinstance(third, ResultError)


def test_error_for_a_result_that_makes_a_chunk_too_large_names_the_next_step(client: IrisClient) -> None:
    results = list(client.map(bytes, [3 * 1024**2] * 3, chunk=3, return_exceptions=True))
    assert [len(value) for value in results[:2]] == [3 * 1024**2] * 2
    assert "map with a smaller chunk" in str(results[2])


def kilobyte(x: int) -> bytes:
    return x.to_bytes(4, "big") * 250


def test_map_returns_the_values_below_the_limit_and_an_error_for_each_later_value(client: IrisClient) -> None:
    count = 20_000
    values = list(client.map(kilobyte, range(count), chunk=count, return_exceptions=True))
    fitting = [value for value in values if isinstance(value, bytes)]
    assert 5_000 < len(fitting) < 8_389
    assert fitting == [kilobyte(x) for x in range(len(fitting))]
    assert all("map with a smaller chunk" in str(value) for value in values[len(fitting) :])


def test_inputs_are_stored_once_and_not_sent_with_each_attempt(client: IrisClient) -> None:
    blob = "x" * 100_000
    handle = client.submit_map(len, [blob] * 4, chunk=2)
    assert list(handle) == [100_000] * 4
    status = client.cluster.get_job_status(handle.job_id)
    assert (status.num_inputs, status.inputs_per_task, len(status.inputs_digest)) == (4, 2, 64)
    assert status.ByteSize() < 10_000


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        ((5, [1]), {}, "function must be"),
        ((square, 5), {}, "inputs must be"),
        ((square, "abc"), {}, "inputs must be"),
        ((square, [1]), {"chunk": 0}, "chunk must be"),
        ((square, range(20_002)), {"chunk": 2}, "chunk must be at least 3 for 20,002 inputs, got 2"),
        ((square, [1]), {"max_parallel": 0}, "max_parallel must be"),
        ((square, [1]), {"order": 1}, "order must be"),
        ((square, [1]), {"resources": {"cores": 1}}, "resources must not have"),
    ],
)
def test_map_refuses_invalid_arguments(
    client: IrisClient, arguments: tuple[Any, ...], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=named):
        client.map(*arguments, **options)
    if "order" not in options:
        with pytest.raises(InvalidArgumentError, match=named):
            client.submit_map(*arguments, **options)


def test_map_names_the_input_that_cannot_be_sent(client: IrisClient) -> None:
    with pytest.raises(InvalidArgumentError, match="must not be empty"):
        client.submit_map(square, [])
    with pytest.raises(InvalidArgumentError, match="input 1 of starmap must be a tuple"):
        client.submit_map(pow, [(1, 2), 3], star=True)
    with pytest.raises(EntrypointError, match="input 1 cannot be sent to a worker"):
        client.submit_map(square, [1, threading.Lock()])


def test_each_task_of_a_command_with_inputs_gets_one_input_as_text(client: IrisClient) -> None:
    job = client.run(
        ["sh", "-c", 'echo "$0=$IRIS_INPUT"', "<{}>"], inputs=["a b", "ü"], coscheduled=False, max_parallel=1
    )
    job.wait(timeout=60)
    assert [[line.message for line in task.logs()] for task in job.tasks()] == [["<a b>=a b"], ["<ü>=ü"]]


def test_retry_of_the_failed_tasks_keeps_their_inputs(client: IrisClient, tmp_path: Path) -> None:
    script = f'echo {{}} >> {tmp_path}/seen; [ "$IRIS_INPUT" != b ]'
    job = client.run(["sh", "-c", script], inputs=["a", "b", "c"], coscheduled=False, max_task_failures=2)
    job.wait(timeout=60)
    again = client.retry(job, failed_only=True)
    again.wait(timeout=60, raise_on_failure=False)
    assert sorted((tmp_path / "seen").read_text().split()) == ["a", "b", "b", "c"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"coscheduled": True}, "inputs need coscheduled=False"),
        ({"replicas": 2}, "mutually exclusive"),
        ({"inputs": []}, "must not be empty"),
        ({"inputs": ["a", 1]}, "input 1 of inputs must be text"),
    ],
)
def test_invalid_inputs_of_a_command_are_refused(client: IrisClient, options: dict[str, Any], named: str) -> None:
    given = {"inputs": ["a"], "coscheduled": False} | options
    with pytest.raises(InvalidArgumentError, match=named):
        client.run(["true"], **given)


@pytest.mark.anyio
async def test_async_map_returns_the_values_of_the_sync_map(shared_cluster: LocalServer) -> None:
    async with AsyncIrisClient.remote(shared_cluster.address) as client:
        assert [value async for value in client.map(square, range(5))] == [0, 1, 4, 9, 16]
        assert [value async for value in client.starmap(pow, [(2, 3)])] == [8]
        name = unique("map")
        handle = await client.submit_map(check_point, [Point(1), Point(3)], name=name)
        assert (await client.submit_map(check_point, [Point(1), Point(3)], name=name)).job_id == name
        found = [pair async for pair in (await client.map_job(name)).as_completed()]
        assert [type(value) for _, value in sorted(found)] == [int, PointError]
        with pytest.raises(PointError):
            _ = [value async for value in handle]
        await handle.terminate()


def test_map_inside_a_job_makes_a_child_job(client: IrisClient) -> None:
    def parent() -> list[int]:
        with IrisClient.remote() as inner:
            return list(inner.map(square, range(3), name="inner", resources={"cpu": 0}))

    job = client.run(parent)
    assert job.results(timeout=90) == [[0, 1, 4]]
    status = client.status(f"{job.job_id}/inner")
    assert status.state == cluster_pb2.JOB_STATE_SUCCEEDED
    wait_until(lambda: client.status(job.job_id).state == cluster_pb2.JOB_STATE_SUCCEEDED, "its end")


@pytest.mark.anyio
async def test_notices_of_an_async_map_are_sent_on_the_event_loop(shared_cluster: LocalServer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    threads = []
    async with AsyncIrisClient.remote(shared_cluster.address) as client:
        mapping = await client.submit_map(
            abs, [-1], workspace=tmp_path, on_notice=lambda text: threads.append(threading.current_thread())
        )
        await mapping.wait()
    assert threads == [threading.current_thread()]
