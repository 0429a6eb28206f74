"""Heavy calls that ask for the same are answered together, and never with what was made before they came."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError

from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.caller import READER, Caller, current_caller
from iris.rpc.serving.codecs import MessageThread
from iris.rpc.serving.fair_lane import FairLane
from iris.rpc.serving.heavy_calls import HeavyCalls, always

pytestmark = pytest.mark.anyio
Request = pb.Controller.ListTasksRequest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Server:
    """Makes answers when the test says so; each carries its number."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.ready = asyncio.Semaphore(0)
        self.error: ConnectError | None = None
        lane = FairLane("lists", at_once=1, per_caller=1)
        self.calls = HeavyCalls({"ListTasks": always}, lane, MessageThread())
        self.lane = lane

    async def handle(self, request: Request, ctx: Any) -> pb.Controller.ListTasksResponse:
        number = len(self.made)
        self.made.append(request.job_id)
        await self.ready.acquire()
        if self.error is not None:
            raise self.error
        return pb.Controller.ListTasksResponse(next_page_token=str(number))

    def ask(self, job_id: str, *, as_json: bool = False) -> asyncio.Task[Any]:
        current_caller.set(Caller("ann", READER, "id", 0.0))
        codec = "json" if as_json else "proto"
        ctx = SimpleNamespace(
            method=SimpleNamespace(name="ListTasks"), request_headers={"content-type": f"application/{codec}"}
        )
        return asyncio.create_task(self.calls.intercept_unary(self.handle, Request(job_id=job_id), ctx))


async def detect_copy() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def numbers(answers: list[Any]) -> list[str]:
    return [pb.Controller.ListTasksResponse.FromString(answer.data).next_page_token for answer in answers]


async def test_equal_heavy_calls_share_an_answer_begun_after_their_arrival() -> None:
    server = Server()
    first = server.ask("a")
    await detect_copy()
    assert server.made == ["a"]
    later = [server.ask("a") for _ in range(40)]
    other = server.ask("b")
    await detect_copy()
    for _ in range(3):
        server.ready.release()
    assert numbers([await first]) == ["0"]
    assert numbers(await asyncio.gather(*later)) == ["1"] * 40
    assert numbers([await other]) == ["2"]
    assert server.made == ["a", "a", "b"]


async def test_equal_heavy_calls_in_json_and_in_binary_get_separate_answers() -> None:
    server = Server()
    asked = [server.ask("a"), server.ask("a", as_json=True)]
    for _ in asked:
        server.ready.release()
    binary, text = await asyncio.gather(*asked)
    assert binary.data == pb.Controller.ListTasksResponse(next_page_token="0").SerializeToString()
    assert b'"nextPageToken":"1"' in text.data


async def test_cancelled_heavy_call_does_not_cancel_the_answer_of_equal_calls() -> None:
    server = Server()
    asked = [server.ask("a") for _ in range(3)]
    await detect_copy()
    asked[0].cancel()
    await detect_copy()
    server.ready.release()
    assert numbers(await asyncio.gather(*asked[1:])) == ["0", "0"]


async def test_heavy_answer_is_cancelled_when_all_its_callers_have_left() -> None:
    server = Server()
    asked = [server.ask("a") for _ in range(3)]
    await detect_copy()
    for one in asked:
        one.cancel()
    await detect_copy()
    assert (server.lane.num_running, server.lane.num_waiting) == (0, 0)
    again = server.ask("a")
    server.ready.release()
    assert numbers([await again]) == ["1"]


async def test_error_of_a_shared_heavy_answer_reaches_every_caller() -> None:
    server = Server()
    server.error = ConnectError(Code.NOT_FOUND, "no job named 'a'")
    asked = [server.ask("a") for _ in range(3)]
    server.ready.release()
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert [(error.code, error.message) for error in errors if isinstance(error, ConnectError)] == [
        (Code.NOT_FOUND, "no job named 'a'")
    ] * 3
    assert len(set(map(id, errors))) == 3
