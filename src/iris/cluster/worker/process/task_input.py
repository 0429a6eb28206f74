"""The standard input of an attempt, where somebody sends it: a pipe into which the worker writes what comes.

The task takes it at its own pace: what does not fit into the pipe is not taken, and the sender keeps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable

from iris.errors import InvalidArgumentError
from iris.system.event_loop import happens

SENDER_GONE_S = 300.0  # a sender says at least every 20 s that it is there


class TaskInput:
    """The pipe.

    Args:
        on_abandoned: Called when the sender has said nothing for `SENDER_GONE_S`: then this is the input's end.

    Attributes:
        position: How many bytes were written into it.
        reading: The end that the task reads from; None once that is the task's alone.
    """

    def __init__(self, on_abandoned: Callable[[], None]) -> None:
        self.position = 0
        self.reading: int | None
        self.reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._is_open = True
        self._turn = asyncio.Lock()
        self._on_abandoned = on_abandoned
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(SENDER_GONE_S, self._abandon)

    async def write(self, position: int, data: bytes, *, end: bool, within_s: float) -> bool:
        """Writes what follows from a position; what was written before has no effect.

        Args:
            position: How many bytes come before `data`.
            data: The bytes.
            end: Nothing comes after them.
            within_s: How long to wait for room in the pipe.

        Returns:
            False when it takes no more: it has its end, or the task has closed it.

        Raises:
            InvalidArgumentError: There is a gap before `data`.
        """
        self._timer.cancel()
        async with self._turn:
            try:
                return await self._write(position, data, end, within_s)
            finally:
                if self._is_open:
                    self._timer.cancel()
                    self._timer = self._loop.call_later(SENDER_GONE_S, self._abandon)

    def close_reading_end(self) -> None:
        """The task has its end: from now on it is seen when the task closes it."""
        if self.reading is not None:
            os.close(self.reading)
            self.reading = None

    def close(self) -> None:
        """Close both ends of the pipe; a process that has its own copy of the reading end can still read the rest."""
        self._end()
        self.close_reading_end()

    def _end(self) -> None:
        """Close the writing end, so that the process reads the end of the input after the last byte.

        The reading end stays open until the process has it, because closing it earlier would discard what was written.
        """
        self._timer.cancel()
        if self._is_open:
            self._is_open = False
            self._loop.remove_writer(self._writing)
            os.close(self._writing)

    async def _write(self, position: int, data: bytes, end: bool, within_s: float) -> bool:
        if position > self.position:
            raise InvalidArgumentError(f"position must be at most {self.position}, which was taken, got {position}")
        left = memoryview(data)[self.position - position :]
        until_s = self._loop.time() + within_s
        while self._is_open and not self._is_broken():
            try:
                while left:
                    count = os.write(self._writing, left)
                    self.position += count
                    left = left[count:]
            except BlockingIOError:
                if not await self._room(until_s - self._loop.time()):
                    return True
                continue
            except BrokenPipeError:
                break
            if end:
                self._end()
            return True
        self._end()
        return False

    async def _room(self, within_s: float) -> bool:
        room = asyncio.Event()
        self._loop.add_writer(self._writing, room.set)
        try:
            return await happens(room, max(0.0, within_s)) or not self._is_open
        finally:
            if self._is_open:
                self._loop.remove_writer(self._writing)

    def _is_broken(self) -> bool:
        poll = select.poll()
        poll.register(self._writing, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))

    def _abandon(self) -> None:
        if self._is_open:
            self._end()
            with contextlib.suppress(Exception):  # a full disk is no reason to keep the task waiting
                self._on_abandoned()
