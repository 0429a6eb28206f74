"""The description of the tasks of an asyncio loop."""

from __future__ import annotations

import asyncio

from iris.event_log.task_stacks import describe_tasks


async def outer(event: asyncio.Event) -> None:
    await inner(event)


async def inner(event: asyncio.Event) -> None:
    await event.wait()


def test_description_of_tasks_counts_equal_stacks_and_names_each_awaited_function() -> None:
    async def describe() -> str:
        event = asyncio.Event()
        tasks = [asyncio.create_task(outer(event)) for _ in range(3)]
        await asyncio.sleep(0)
        text = describe_tasks(tasks)
        event.set()
        await asyncio.gather(*tasks)
        return text

    head, *lines = asyncio.run(describe()).splitlines()
    assert head == "asyncio tasks: 3"
    assert [line.rpartition(" in ")[2] for line in lines] == ["outer", "inner", "Event.wait"]
    assert all(__file__ in line for line in lines[:2])
