"""The threads that read logs are shared fairly between callers, and are free again soon after a caller has left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_pages import read_page, read_page_steps
from iris.cluster.logs.reading.query import LogFilter
from iris.cluster.logs.reading.scan_threads import LogScans

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Work:
    """An endless read, each step of which waits for a moment, as a disk does."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.is_closed = threading.Event()
        self._pause = threading.Event()

    def run(self) -> Generator[None, None, str]:
        try:
            while True:
                self.has_begun.set()
                self._pause.wait(0.005)
                yield
        finally:
            self.is_closed.set()


def short() -> Generator[None, None, str]:
    yield
    return "done"


async def test_log_scan_of_a_disconnected_caller_ends_and_frees_its_thread() -> None:
    scans = LogScans(threads=1, per_caller=1)
    work = Work()
    scanning = asyncio.create_task(scans.scan("gone", work.run()))
    assert await asyncio.to_thread(work.has_begun.wait, 30)
    scanning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scanning
    assert work.is_closed.is_set()
    assert scans.lane.num_running == 0
    assert await scans.scan("next", short()) == "done"
    scans.close()


async def test_log_scan_that_is_cancelled_twice_ends_after_the_step_of_its_thread() -> None:
    scans = LogScans(threads=1, per_caller=1)
    has_begun, may_go_on = threading.Event(), threading.Event()

    def slow() -> Generator[None, None, str]:
        has_begun.set()
        may_go_on.wait(30)
        yield
        return "done"

    scanning = asyncio.create_task(scans.scan("gone", slow()))
    assert await asyncio.to_thread(has_begun.wait, 30)
    for _ in range(2):
        scanning.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert scans.lane.num_running == 1, "its turn lasts until the thread is free"
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await scanning
    assert scans.lane.num_running == 0
    scans.close()


async def test_endless_log_scans_of_many_callers_do_not_block_another_caller() -> None:
    scans = LogScans(threads=2, per_caller=1)
    endless = [Work() for _ in range(8)]
    scanning = [asyncio.create_task(scans.scan(f"greedy {n % 4}", work.run())) for n, work in enumerate(endless)]
    assert await scans.scan("modest", short()) == "done"
    assert await scans.read("modest", lambda: "a piece") == "a piece"
    for work in endless:  # all have their share
        assert await asyncio.to_thread(work.has_begun.wait, 30)
    for one in scanning:
        one.cancel()
    await asyncio.gather(*scanning, return_exceptions=True)
    assert all(work.is_closed.is_set() for work in endless)
    scans.close()


async def test_failed_log_scan_raises_its_error_and_frees_its_thread() -> None:
    scans = LogScans(threads=1, per_caller=1)

    def failing() -> Generator[None, None, str]:
        yield
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await scans.scan("a", failing())
    assert scans.lane.num_running == 0
    scans.close()


def count_steps(reading: Generator[None, None, object]) -> int:
    steps = 0
    for _ in reading:
        steps += 1
    return steps


def test_tail_longer_than_the_log_reads_only_one_page(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter(path, max_bytes=1 << 30)
    line = b"x" * 99 + b"\n"
    for _ in range(16):
        writer.append("stdout", line * 10_000, 5)
    writer.close()
    everything = LogFilter(tail=2**31 - 1, regex=".")
    some = LogFilter(tail=100_000, regex=".")
    steps = count_steps(read_page_steps(path, None, everything, final=True))
    assert steps < count_steps(read_page_steps(path, None, some, final=True)), "the lines need not be counted"
    page = read_page(path, None, everything, final=True)
    assert (page.lines[0].number, page.at_end) == (0, False)
    assert read_page(path, None, some, final=True).lines[0].number == 60_000
