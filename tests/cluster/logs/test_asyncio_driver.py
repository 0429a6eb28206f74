"""The asyncio driver of the follow engine, with servers that are generators."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from iris.cluster.logs.asyncio_driver import AsyncioDriver
from iris.cluster.logs.cursor import Position
from iris.cluster.logs.follow import Follow, FollowRules
from iris.cluster.logs.follow_events import Deliver, GiveUp, Instruction, Read, ReadElsewhere, Retry, Worker
from iris.cluster.logs.outage import RetryRules
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2 as pb
from iris.rpc.cluster_pb2 import StreamTaskLogsResponse
from iris.system.backoff import Backoff

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


RUNNING = pb.TaskStatus(state=pb.TASK_STATE_RUNNING, attempts=[pb.TaskAttempt(state=pb.TASK_STATE_RUNNING)])
SUCCEEDED = pb.TaskStatus(state=pb.TASK_STATE_SUCCEEDED, attempts=[pb.TaskAttempt(state=pb.TASK_STATE_SUCCEEDED)])
Messages = AsyncGenerator[StreamTaskLogsResponse]


def message(records: bytes, *, ends: bool = False) -> StreamTaskLogsResponse:
    made = StreamTaskLogsResponse()
    chunk = made.chunks.add(records=records)
    if ends:
        chunk.end.complete = True
    return made


@dataclass
class Servers:
    """One server, whose streams are those of a list.

    Attributes:
        streams: One function for each stream, in the order in which they are opened.
        is_gone: Whether the worker is lost.
        opened: How many streams were opened.
        closed: How many streams have ended.
    """

    streams: list[Callable[[], Messages]]
    is_gone: bool = False
    opened: int = 0
    closed: int = 0

    def choose(self, read: Read) -> str:
        if self.is_gone and self.opened == len(self.streams):
            raise UnavailableError("no worker")
        return "worker"

    def worker(self, server: str) -> Worker | None:
        return server, "address"

    def is_lost(self, server: str) -> bool:
        return self.is_gone

    async def open(self, server: str, reads: Sequence[Read]) -> Messages:
        self.opened += 1
        try:
            async for sent in self.streams[self.opened - 1]():
                yield sent
        finally:
            self.closed += 1


@dataclass
class Reader:
    """What a reader got."""

    records: list[bytes] = field(default_factory=list)
    others: list[Instruction] = field(default_factory=list)

    async def read(self, follow: Follow, driver: AsyncioDriver[str]) -> None:
        while not follow.is_over:
            step = await driver.step()
            for instruction in step.instructions:
                if isinstance(instruction, Deliver):
                    self.records.append(instruction.chunk.records)
                else:
                    self.others.append(instruction)


def new_follow(patience_s: float = 60.0) -> Follow:
    return Follow({0: Position()}, FollowRules(RetryRules(patience_s)), lambda: Backoff(0.01, 0.05))


async def statuses(*tasks: pb.TaskStatus) -> AsyncGenerator[list[pb.TaskStatus]]:
    for task in tasks:
        yield [task]
    await asyncio.Event().wait()


async def two_messages() -> Messages:
    yield message(b"one")
    yield message(b"two", ends=True)


async def broken() -> Messages:
    yield message(b"first")
    raise UnavailableError("gone")


async def silent() -> Messages:
    await asyncio.Event().wait()
    yield message(b"never")


async def test_asyncio_driver_reads_a_log_to_its_end() -> None:
    servers, follow, reader = Servers([two_messages]), new_follow(), Reader()
    driver = AsyncioDriver(follow, servers, statuses(RUNNING, SUCCEEDED), buffered_messages=1)
    await reader.read(follow, driver)
    await driver.close()
    assert (reader.records, reader.others) == ([b"one", b"two"], [])
    assert (servers.opened, servers.closed) == (1, 1)


async def test_closed_asyncio_driver_is_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        servers, follow = Servers([two_messages]), new_follow()
        driver = AsyncioDriver(follow, servers, statuses(RUNNING), buffered_messages=1)
        while not servers.opened:
            await driver.step()
        await driver.close()
        freed = weakref.ref(driver)
        del driver
        assert freed() is None
    finally:
        gc.enable()


async def test_asyncio_driver_reopens_a_broken_stream() -> None:
    servers, follow, reader = Servers([broken, two_messages]), new_follow(), Reader()
    driver = AsyncioDriver(follow, servers, statuses(SUCCEEDED), buffered_messages=1)
    await reader.read(follow, driver)
    await driver.close()
    assert reader.records == [b"first", b"one", b"two"]
    assert [type(other) for other in reader.others] == [Retry]


async def test_asyncio_driver_reports_a_log_that_no_server_has() -> None:
    servers, follow, reader = Servers([], is_gone=True), new_follow(patience_s=0.0), Reader()
    driver = AsyncioDriver(follow, servers, statuses(RUNNING), buffered_messages=1)
    await reader.read(follow, driver)
    await driver.close()
    assert [type(other) for other in reader.others] == [GiveUp]


async def test_asyncio_driver_closes_the_silent_stream_of_a_lost_worker() -> None:
    lost = pb.TaskStatus(
        state=pb.TASK_STATE_WORKER_FAILED,
        attempts=[pb.TaskAttempt(state=pb.TASK_STATE_WORKER_FAILED, is_worker_failure=True)],
    )
    servers, follow, reader = Servers([silent, two_messages], is_gone=True), new_follow(), Reader()
    driver = AsyncioDriver(follow, servers, statuses(lost), buffered_messages=1)
    await reader.read(follow, driver)
    await driver.close()
    assert reader.records == [b"one", b"two"]
    assert [type(other) for other in reader.others] == [ReadElsewhere, Retry]
    assert (servers.opened, servers.closed) == (2, 2)


async def test_asyncio_driver_step_without_messages_returns_at_its_time_limit() -> None:
    servers, follow = Servers([silent]), new_follow()
    driver = AsyncioDriver(follow, servers, statuses(RUNNING), buffered_messages=1)
    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        step = await driver.step(until)
        assert not step.instructions
    await driver.close()
    assert servers.opened == servers.closed


async def test_asyncio_driver_raises_an_error_of_the_task_statuses() -> None:
    async def failing() -> AsyncGenerator[list[pb.TaskStatus]]:
        raise UnavailableError("no statuses")
        yield []

    follow = new_follow()
    driver = AsyncioDriver(follow, Servers([]), failing(), buffered_messages=1)
    with pytest.raises(UnavailableError, match="no statuses"):
        await driver.step()
    await driver.close()


async def test_asyncio_driver_with_a_paused_reader_stops_reading_from_the_server() -> None:
    sent = 0

    async def many() -> Messages:
        nonlocal sent
        while True:
            sent += 1
            yield message(b"x")

    follow = new_follow()
    driver = AsyncioDriver(follow, Servers([many]), statuses(RUNNING), buffered_messages=2)
    while not sent:
        await driver.step()
    for _ in range(100):
        await asyncio.sleep(0)
    assert sent <= 4, "two messages are buffered, and one is being put"
    with suppress(asyncio.CancelledError):
        await driver.close()
