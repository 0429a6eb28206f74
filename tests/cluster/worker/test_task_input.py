"""The pipe through which a worker passes standard input to an attempt."""

from __future__ import annotations

import asyncio
import os

from iris.cluster.worker.process.task_input import TaskInput


def _abandoned() -> None:
    raise AssertionError("the sender is still there")


def test_standard_input_that_ends_before_the_process_starts_stays_readable() -> None:
    async def write_then_read() -> bytes:
        task_input = TaskInput(_abandoned)
        try:
            assert await task_input.write(0, b"once\n", end=True, within_s=0)
            assert task_input.reading is not None
            return os.read(task_input.reading, 100) + os.read(task_input.reading, 100)
        finally:
            task_input.close()

    assert asyncio.run(write_then_read()) == b"once\n"


def test_standard_input_ends_when_the_process_closes_its_copy() -> None:
    async def write_twice() -> list[bool]:
        task_input = TaskInput(_abandoned)
        try:
            first = await task_input.write(0, b"once\n", end=False, within_s=0)
            task_input.close_reading_end()  # no process has a copy of the reading end
            return [first, await task_input.write(5, b"twice\n", end=False, within_s=0)]
        finally:
            task_input.close()

    assert asyncio.run(write_twice()) == [True, False]


def test_closing_the_standard_input_closes_both_ends_of_its_pipe() -> None:
    async def close() -> None:
        before = set(os.listdir("/proc/self/fd"))
        task_input = TaskInput(_abandoned)
        await task_input.write(0, b"once\n", end=True, within_s=0)
        task_input.close()
        task_input.close()
        assert set(os.listdir("/proc/self/fd")) == before

    asyncio.run(close())
