"""Readers are held back until the controller knows that an attempt runs, and not for ever."""

from __future__ import annotations

import asyncio

from iris.cluster.worker.attempt.announcement import Announcement


async def is_held_back(announcement: Announcement) -> bool:
    waiting = asyncio.create_task(announcement.wait())
    for _ in range(5):
        await asyncio.sleep(0)
    held = not waiting.done()
    waiting.cancel()
    return held


def test_log_reader_of_an_attempt_without_a_process_does_not_wait() -> None:
    async def scenario() -> None:
        assert not await is_held_back(Announcement(limit_s=1e6))

    asyncio.run(scenario())


def test_log_reader_of_a_started_process_waits_until_the_controller_acknowledges_the_start() -> None:
    async def scenario() -> None:
        announcement = Announcement(limit_s=1e6)
        announcement.process_started()
        assert await is_held_back(announcement)
        reader = asyncio.create_task(announcement.wait())
        announcement.acknowledged()
        await reader
        assert not await is_held_back(announcement)

    asyncio.run(scenario())


def test_log_reader_of_a_started_process_waits_only_for_a_limited_time_for_the_controller() -> None:
    async def scenario() -> None:
        announcement = Announcement(limit_s=0.01)
        announcement.process_started()
        await announcement.wait()
        assert not await is_held_back(announcement)

    asyncio.run(scenario())
