"""Runs asyncio tasks in the background, and can cancel all of them together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from iris.errors import UnavailableError

T = TypeVar("T")
_log = logging.getLogger(__name__)


class BackgroundTasks:
    """A set of running asyncio tasks that continue when their callers end. The set keeps a reference to each task,
    because the event loop has only weak references to its tasks.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine as a task. An exception that ends the task is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    async def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine as a task, and return its result. The task continues if the caller is cancelled, for example
        because a client has left.

        Raises:
            UnavailableError: The controller stops.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._drop)
        await asyncio.wait([task])
        if task.cancelled():
            raise UnavailableError("the controller is shutting down")
        return task.result()

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _drop(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # If the caller has left, no other code reads the exception, and asyncio would log it as never retrieved.
            task.exception()

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a background task failed", exc_info=task.exception())
