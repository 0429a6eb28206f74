"""The standard input of an attempt: a pipe into which the worker writes the bytes that a client sends. A task may read
its input slowly. The worker accepts only bytes that fit into the pipe, and the sender keeps the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable

from iris.errors import InvalidArgumentError
from iris.system.event_loop import happens

# After how many seconds without a message from the sender the input ends. A live sender sends a message at least every
# 20 s.
SENDER_GONE_S = 300.0


class TaskInput:
    """The pipe to the standard input of one attempt.

    Args:
        on_abandoned: A function that is called when the input ends because the sender was silent for `SENDER_GONE_S`
            seconds.

    Attributes:
        position: How many bytes were written into the pipe.
        reading: The reading end of the pipe; None once this process has closed it.
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
        """Write bytes that begin at a position of the input. Bytes that were written before are skipped.

        Args:
            position: How many bytes of the input come before `data`.
            data: The bytes of the standard input that follow `position`.
            end: Whether the input ends after these bytes.
            within_s: How long to wait for space in the pipe.

        Returns:
            False if the input has ended, or if the task has closed its end of the pipe.

        Raises:
            InvalidArgumentError: There is a gap between the written bytes and `data`.
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
        """Close the worker's copy of the pipe's reading end. Otherwise the worker would not notice when the task closes
        its copy.
        """
        if self.reading is not None:
            os.close(self.reading)
            self.reading = None

    def close(self) -> None:
        """Close both ends of the pipe in this process. If the task's process has a copy of the reading end, it can
        still read the remaining bytes.
        """
        self._end()
        self.close_reading_end()

    def _end(self) -> None:
        """Close the writing end of the pipe, so that the task's process reads the end of the input after the last byte.

        The reading end stays open until the task's process has a copy of it. If all reading ends were closed, the
        written bytes would be lost.
        """
        self._timer.cancel()
        if self._is_open:
            self._is_open = False
            self._loop.remove_writer(self._writing)
            os.close(self._writing)

    async def _write(self, position: int, data: bytes, end: bool, within_s: float) -> bool:
        if position > self.position:
            raise InvalidArgumentError(
                f"position must be at most {self.position}, the number of bytes written so far, got {position}"
            )
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
            # The message about the silent sender may fail to be written, for example to a full disk. The task's input
            # must end even in this case.
            with contextlib.suppress(Exception):
                self._on_abandoned()
