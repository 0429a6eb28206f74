"""`AsyncHttpxTransport`: an async transport of httpx that the user gives sends the requests of an async client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest
from pyqwest import Client
from support.two_version_server import TwoVersionServer

from iris.errors import ControllerUnreachableError, DeadlineExceededError
from iris.rpc import cluster_connect
from iris.rpc.calls import call_async, stream_async
from iris.rpc.cluster_pb2 import Controller
from iris.rpc.http.client.httpx_sender import AsyncHttpxTransport
from iris.rpc.peer import Peer
from iris.system.event_loop import happens


class Caller:
    """An async client over a transport of httpx."""

    def __init__(self, address: str, transport: httpx.AsyncBaseTransport) -> None:
        self.peer = Peer(address, "the controller", ControllerUnreachableError)
        self.stub = cluster_connect.ControllerServiceClient(
            address,
            accept_compression=(),
            send_compression=None,
            http_client=Client(AsyncHttpxTransport(transport)),
        )

    async def list_jobs(self) -> list[str]:
        answer = await call_async(self.stub.list_jobs, Controller.ListJobsRequest(), self.peer)
        return [job.job_id for job in answer.jobs]

    async def call_without_answer(self, timeout_s: float = 30.0) -> None:
        await call_async(self.stub.list_tasks, Controller.ListTasksRequest(job_id="a"), self.peer, timeout_s=timeout_s)

    def watch(self) -> Any:
        return stream_async(self.stub.watch_job(Controller.WatchJobRequest(job_id="a")), self.peer)


@pytest.fixture(scope="module")
def server() -> Iterator[TwoVersionServer]:
    with contextlib.closing(TwoVersionServer()) as running:
        yield running


Work = Callable[[Caller], Coroutine[Any, Any, None]]


@pytest.fixture
def run(server: TwoVersionServer) -> Callable[[Work], None]:
    def run(work: Work) -> None:
        async def main() -> None:
            async with httpx.AsyncHTTPTransport() as transport:
                await work(Caller(server.address, transport))

        asyncio.run(main())

    return run


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await happens(asyncio.Event(), 0.01)


def test_calls_and_streams_go_through_the_transport(run: Callable[[Work], None], server: TwoVersionServer) -> None:
    async def work(caller: Caller) -> None:
        assert await caller.list_jobs() == ["a"]
        watching = caller.watch()
        assert (await anext(watching)).job.state == 3
        await until(lambda: server.waiting == 1)
        await watching.aclose()
        await until(lambda: server.waiting == 0)
        assert await caller.list_jobs() == ["a"]

    run(work)


def test_cancelled_stream_and_call_are_ended_at_the_server(
    run: Callable[[Work], None], server: TwoVersionServer
) -> None:
    async def work(caller: Caller) -> None:
        async def follow() -> None:
            async for _ in caller.watch():
                pass

        for pending in (follow(), caller.call_without_answer()):
            task = asyncio.create_task(pending)
            await until(lambda: server.waiting == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.waiting == 0)

    run(work)


def test_call_without_an_answer_ends_at_its_deadline(run: Callable[[Work], None]) -> None:
    async def work(caller: Caller) -> None:
        with pytest.raises(DeadlineExceededError):
            await caller.call_without_answer(timeout_s=0.2)

    run(work)


def test_exception_of_a_given_async_transport_is_named_in_the_error() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise ValueError("no route")

    async def main() -> None:
        caller = Caller("http://cluster.example", httpx.MockTransport(answer))
        with pytest.raises(ControllerUnreachableError, match="the given transport raised ValueError: no route"):
            await caller.list_jobs()

    asyncio.run(main())


def test_broken_connection_of_the_transport_is_retried() -> None:
    tries: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        tries.append(request)
        raise httpx.ConnectError("nobody there")

    async def main() -> None:
        with pytest.raises(ControllerUnreachableError):
            await Caller("http://cluster.example", httpx.MockTransport(answer)).list_jobs()

    asyncio.run(main())
    assert len(tries) == 5
