"""`AsyncIrisClient` on its own: cancellation, closing, event loops, and work that must not block the loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.certificates import self_signed
from support.cluster import running_cluster, shell, unique
from support.ports import free_port
from support.sockets import ESTABLISHED, count_connections
from support.waiting import wait_until

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient, AsyncJob
from iris.cluster.client.server_process import LocalServer
from iris.errors import (
    ClientClosedError,
    ControllerUnreachableError,
    FailedPreconditionError,
    InvalidArgumentError,
    IrisError,
    JobFailedError,
    NotFoundError,
)
from iris.rpc import cluster_pb2

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def aclient(shared_cluster: LocalServer) -> AsyncIterator[AsyncIrisClient]:
    async with AsyncIrisClient.remote(shared_cluster.address) as client:
        yield client


@pytest.fixture
def job_id(client: IrisClient) -> Any:
    """A job that has written a line and goes on."""
    job = client.run(shell("echo up; exec sleep 3600"))
    with job.logs(follow=True, sources=["stdout"]) as lines:
        next(lines)
    yield job.job_id
    job.terminate()
    job.wait(raise_on_failure=False)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    await asyncio.to_thread(wait_until, condition, what)


def server_connections(server: LocalServer) -> int:
    """Return the number of connections that the servers of a cluster hold."""
    with IrisClient.remote(server.address) as client:
        addresses = [server.address, *(worker.address for worker in client.cluster.list_workers())]
    ports = {int(address.rpartition(":")[2]) for address in addresses}
    return count_connections(ports, ESTABLISHED)


# --- what ends a stream

FOLLOWS = 8


async def leave_by_cancelling(client: AsyncIrisClient, job_id: str) -> None:
    seen = 0

    async def read() -> None:
        nonlocal seen
        async for _ in client.stream_task_logs(job_id, 0):
            seen += 1

    readers = [asyncio.create_task(read()) for _ in range(FOLLOWS)]
    await until(lambda: seen == FOLLOWS, "a line in each follow")
    for reader in readers:
        reader.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*readers, return_exceptions=True)
    )


async def leave_by_break(client: AsyncIrisClient, job_id: str) -> None:
    for _ in range(FOLLOWS):
        async for line in client.stream_task_logs(job_id, 0):
            assert line.message == "up"
            break


async def leave_by_aclosing(client: AsyncIrisClient, job_id: str) -> None:
    for _ in range(FOLLOWS):
        async with aclosing(client.stream_task_logs(job_id, 0)) as lines:
            assert (await anext(lines)).message == "up"
        assert [line async for line in lines] == []


async def leave_by_block(client: AsyncIrisClient, job_id: str) -> None:
    for _ in range(FOLLOWS):
        async with client.job(job_id).logs(follow=True) as lines:
            assert (await anext(lines)).message == "up"


@pytest.mark.parametrize("leave", [leave_by_cancelling, leave_by_break, leave_by_aclosing, leave_by_block])
async def test_servers_end_the_streams_of_a_reader_that_disconnects(
    shared_cluster: LocalServer, aclient: AsyncIrisClient, job_id: str, leave: Callable[..., Awaitable[None]]
) -> None:
    await aclient.status(job_id)
    before = await asyncio.to_thread(server_connections, shared_cluster)
    loop, tasks = asyncio.get_running_loop(), asyncio.all_tasks()
    await leave(aclient, job_id)
    # The client may keep one idle connection to each server, and the controller may keep one to each worker.
    await until(lambda: server_connections(shared_cluster) <= before + 4, "the end of the streams at the servers")
    await until(lambda: asyncio.all_tasks(loop) <= tasks, "the end of the tasks of the follows")


async def test_cancelled_wait_ends_at_once_and_leaves_the_client_usable(aclient: AsyncIrisClient, job_id: str) -> None:
    waiting = asyncio.create_task(aclient.job(job_id).wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await aclient.status(job_id)).job_id == job_id


async def test_cancel_scope_of_anyio_ends_a_wait_and_the_following_of_a_log(
    aclient: AsyncIrisClient, job_id: str
) -> None:
    with anyio.move_on_after(0.5) as waiting:
        await aclient.job(job_id).wait()
    assert waiting.cancelled_caught
    with anyio.CancelScope() as following:
        async for _ in aclient.job(job_id).logs(follow=True):
            following.cancel()
    assert following.cancelled_caught
    assert (await aclient.status(job_id)).job_id == job_id


async def test_async_client_follows_logs_without_threads(aclient: AsyncIrisClient, job_id: str) -> None:
    async with aclosing(aclient.stream_task_logs(job_id, 0)) as first:
        await anext(first)
        before = threading.active_count()
        streams = [aclient.stream_task_logs(job_id, 0) for _ in range(20)]
        lines = await asyncio.gather(*map(anext, streams))
        assert [line.message for line in lines] == ["up"] * 20
        assert threading.active_count() <= before
        for stream in streams:
            await stream.close()


# --- closing the client

Verb = Callable[[AsyncIrisClient, str], Coroutine[Any, Any, object]]


async def read_all(lines: AsyncIterator[object]) -> list[object]:
    return [line async for line in lines]


WAITS: dict[str, Verb] = {
    "client.wait": lambda client, job_id: client.wait(job_id),
    "client.wait with a timeout": lambda client, job_id: client.wait(job_id, timeout=3600),
    "client.wait with its lines": lambda client, job_id: client.wait(job_id, stream_logs=True),
    "job.results": lambda client, job_id: client.job(job_id).results(),
    "job.logs": lambda client, job_id: read_all(client.job(job_id).logs(follow=True)),
    "task.logs through the controller": lambda client, job_id: read_all(
        client.stream_task_logs(job_id, 0, route="controller")
    ),
    "raw": lambda client, job_id: read_all(client.stream_task_logs(job_id, 0).raw()),
    "lookup_endpoint": lambda client, job_id: client.lookup_endpoint(f"none of {job_id}", timeout=3600),
    "cluster.watch_job": lambda client, job_id: read_all(client.cluster.watch_job(job_id)),
}


async def test_closing_the_async_client_ends_waits_and_log_streams_of_other_tasks(
    shared_cluster: LocalServer, job_id: str
) -> None:
    client = AsyncIrisClient.remote(shared_cluster.address)
    tasks = {name: asyncio.create_task(verb(client, job_id), name=name) for name, verb in WAITS.items()}
    lines = client.job(job_id).logs(follow=True)
    await anext(lines)  # By now the other tasks have connections.
    await client.close()
    for task in tasks.values():
        with pytest.raises(ClientClosedError, match="was closed"):
            await asyncio.wait_for(task, 60)
    with pytest.raises(ClientClosedError):
        await read_all(lines)
    with pytest.raises(ClientClosedError, match="was closed"):
        await client.status(job_id)
    await client.close()


async def test_close_ends_calls_and_retries_to_a_controller_that_does_not_answer() -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    ports = silent.getsockname()[1], free_port()
    with closing(silent):
        for port in ports:
            client = AsyncIrisClient.remote(f"127.0.0.1:{port}", token="none")
            tasks = [asyncio.create_task(verb(client, "job")) for verb in WAITS.values()]
            await asyncio.sleep(0)
            await client.close()
            ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
            assert [type(end) for end in ends] == [ClientClosedError] * len(tasks)


async def test_closed_stream_ends_the_iteration_of_another_task(aclient: AsyncIrisClient, job_id: str) -> None:
    stream = aclient.stream_task_logs(job_id, 0)
    seen: list[str] = []

    async def read() -> None:
        async for line in stream:
            seen.append(line.message)

    reader = asyncio.create_task(read())
    await until(lambda: bool(seen), "a line")
    await stream.close()
    await asyncio.wait_for(reader, 60)
    assert seen == ["up"]


async def test_flush_returns_the_partial_line_that_has_arrived(aclient: AsyncIrisClient) -> None:
    job = await aclient.run(shell("printf 'name? '; exec sleep 3600"))
    async with job.logs(follow=True) as lines:

        async def flush_until_read() -> None:
            while not reading.done():
                lines.flush()
                await asyncio.sleep(0.05)

        reading = asyncio.ensure_future(anext(lines))
        await asyncio.gather(reading, flush_until_read())
        assert (reading.result().message, reading.result().partial) == ("name? ", True)
    await job.terminate()


# --- event loops


def test_async_client_is_refused_in_another_event_loop(shared_cluster: LocalServer) -> None:
    client = AsyncIrisClient.remote(shared_cluster.address)
    asyncio.run(client.list_jobs())
    with pytest.raises(FailedPreconditionError, match=r"another event loop.*each event loop"):
        asyncio.run(client.list_jobs())
    asyncio.run(client.close())


def test_async_client_call_outside_an_asyncio_event_loop_is_refused() -> None:
    call = AsyncIrisClient.remote("127.0.0.1:1", token="none").list_jobs()
    with pytest.raises(FailedPreconditionError, match=r"running asyncio event loop.*sync IrisClient"):
        call.send(None)


def test_two_event_loops_can_each_have_a_client(shared_cluster: LocalServer) -> None:
    counts: list[int] = []

    async def count() -> None:
        async with AsyncIrisClient.remote(shared_cluster.address) as client:
            counts.append(len(await client.cluster.list_workers()))

    threads = [threading.Thread(target=lambda: asyncio.run(count())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [2, 2]


# --- what must not block the loop


class _SlowPickle:
    """Can only be pickled while the event loop runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __reduce__(self) -> tuple[type, tuple[()]]:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(60)
        return dict, ()


async def test_pickling_does_not_block_the_event_loop(aclient: AsyncIrisClient) -> None:
    job = await aclient.run(len, args=[_SlowPickle(asyncio.get_running_loop())])
    assert await job.results(timeout=60) == [0]


async def test_token_function_runs_in_a_thread(shared_cluster: LocalServer) -> None:
    loop = asyncio.get_running_loop()
    tokens = iter(["refused.refused.refused", shared_cluster.token])

    def token() -> str:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)
        return next(tokens)

    async with AsyncIrisClient.remote(shared_cluster.address, token=token) as client:
        assert len(await client.cluster.list_workers()) == 2
        with pytest.raises(NotFoundError):
            await read_all(client.stream_task_logs("no-such-job", 0))


async def test_progress_of_a_workspace_is_reported_on_the_event_loop(aclient: AsyncIrisClient, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"".join(i.to_bytes(4, "big") for i in range(300_000)))
    stages: list[str] = []

    def on_progress(stage: str, done: int, total: int) -> None:
        asyncio.get_running_loop()  # raises in a thread
        assert 0 <= done <= total
        stages.append(stage)

    job = await aclient.run(["test", "-s", "data"], workspace=tmp_path, on_progress=on_progress)
    await job.wait(timeout=60)
    assert list(dict.fromkeys(stages)) == ["packing", "sending"]


@pytest.mark.parametrize("at", ["packing", "sending"])
async def test_run_raises_the_error_of_its_on_progress_function(
    aclient: AsyncIrisClient, tmp_path: Path, at: str
) -> None:
    (tmp_path / at).write_bytes(b"".join(i.to_bytes(4, "little") for i in range(300_000)))

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage == at:
            raise ZeroDivisionError(at)

    with pytest.raises(ZeroDivisionError, match=at):
        await aclient.run(["true"], workspace=tmp_path, on_progress=on_progress)


async def test_local_cluster_starts_without_blocking_and_ends_with_the_client() -> None:
    turns = 0
    client = AsyncIrisClient.local()
    assert client.cluster.controller_address == ""
    calls = asyncio.gather(client.list_jobs(), client.list_jobs())
    while not calls.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100
    assert await calls == [[], []]
    address = client.cluster.controller_address
    async with client:
        job = await client.run(lambda: 42)
        assert await job.results(timeout=60) == [42]
    with pytest.raises(ClientClosedError):
        await client.list_jobs()
    async with AsyncIrisClient.remote(address, token="none") as other:
        with pytest.raises(ControllerUnreachableError):
            await other.list_jobs()


# --- jobs


async def test_error_of_a_failed_job_has_its_last_lines_and_the_exception_as_cause(aclient: AsyncIrisClient) -> None:
    job = await aclient.run(lambda: 1 // 0)
    with pytest.raises(JobFailedError) as caught:
        await job.results(timeout=60)
    assert caught.value.last_lines[-1].startswith("ZeroDivisionError")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    (task,) = await job.tasks()
    assert isinstance(await task.exception(), ZeroDivisionError)
    assert (await job.wait(raise_on_failure=False)).state == cluster_pb2.JOB_STATE_FAILED


async def test_async_wait_prints_the_lines_of_the_task(
    aclient: AsyncIrisClient, capsys: pytest.CaptureFixture[str]
) -> None:
    job = await aclient.run(shell("echo one; echo two >&2"), replicas=2)
    await job.wait(timeout=60, stream_logs=True)
    printed = capsys.readouterr()
    assert sorted(printed.out.splitlines()) == ["[task-0:stderr] two", "[task-0:stdout] one"]
    assert "task 1 is not shown" in printed.err


async def test_async_wait_that_prints_lines_raises_after_its_timeout(aclient: AsyncIrisClient, job_id: str) -> None:
    with pytest.raises(TimeoutError, match=job_id):
        await aclient.wait(job_id, timeout=0.5, stream_logs=True)


async def test_invalid_arguments_are_refused_before_a_request_is_sent() -> None:
    client = AsyncIrisClient.remote("127.0.0.1:1", token="none")
    with pytest.raises(InvalidArgumentError, match="replicas"):
        await client.run(["true"], replicas=0)
    with pytest.raises(InvalidArgumentError, match="tail"):
        client.job("job").logs(tail=-1)
    with pytest.raises(InvalidArgumentError, match="transport"):
        AsyncIrisClient.remote("127.0.0.1:1", transport=object())  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="cluster"):
        AsyncIrisClient("127.0.0.1:1")  # type: ignore[arg-type]
    stream = AsyncJob(client, "job").logs(patience_s=0)
    with pytest.raises(IrisError):
        await anext(stream)
    with pytest.raises(InvalidArgumentError, match="first line"):
        stream.raw()


async def test_endpoint_can_be_registered_and_found(aclient: AsyncIrisClient) -> None:
    name = unique("endpoint")
    waiting = asyncio.create_task(aclient.lookup_endpoint(name, timeout=60))
    endpoint_id = await aclient.register_endpoint(name, "host:1", {"key": "value"})
    assert (await waiting).address == "host:1"
    assert [found.endpoint_id for found in await aclient.list_endpoints(name)] == [endpoint_id]
    await aclient.unregister_endpoint(endpoint_id)
    with pytest.raises(NotFoundError):
        await aclient.lookup_endpoint(name)


async def test_job_runs_over_tls_with_a_self_signed_certificate(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "certificates")
    options = {"tls_cert": str(certificate.cert), "tls_key": str(certificate.key)}
    with running_cluster(tmp_path / "cluster", **options) as server:
        async with AsyncIrisClient.remote(server.address, token=server.token, ca=certificate.cert) as client:
            job = await client.run(shell("for i in 1 2 3; do echo $i; done"))
            assert [line.message async for line in job.logs(follow=True)] == ["1", "2", "3"]
            await job.wait(timeout=60)
