"""Reads the standard input of this process, and writes its outputs, on an asyncio loop.

Pipes and terminals are watched by the loop, so that neither a silent input nor a full output blocks it. The loop cannot
watch files, but these are always ready.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

_READ_BYTES = 64 * 1024
_WRITE_BYTES = 4096  # A pipe that can be written has room for this many bytes, so the write does not block.


class LocalInput:
    """The standard input of this process.

    Args:
        descriptor: The descriptor of the input.
        on_bytes: A function that is called with each piece of the input, and returns whether the piece is passed on.
    """

    def __init__(self, descriptor: int, on_bytes: Callable[[bytes], bool] = lambda data: True) -> None:
        self._descriptor = descriptor
        self._on_bytes = on_bytes

    async def read(self, size: int) -> bytes:
        """Return at most `size` bytes, once there are any. Return no bytes at the end of the input."""
        while True:
            await _until_ready(self._descriptor, is_input=True)
            try:
                data = os.read(self._descriptor, min(size, _READ_BYTES))
            except BlockingIOError:
                continue  # The program that has started this process uses the descriptor without blocking.
            except OSError:  # For example, the terminal is gone.
                return b""
            if not data or self._on_bytes(data):
                return data


class LocalOutput:
    """An output of this process.

    Args:
        descriptor: The descriptor of the output.
        on_error: A function that is called when the output cannot be written, for example because its reader has ended.

    Attributes:
        ended: Set when the whole stream was written.
    """

    def __init__(self, descriptor: int, on_error: Callable[[OSError], None]) -> None:
        self.ended = asyncio.Event()
        self._descriptor = descriptor
        self._on_error = on_error
        self._rest = memoryview(b"")

    @property
    def transport(self) -> LocalOutput:
        """The object that can end the stream at once."""
        return self

    def write(self, data: bytes) -> None:
        """Write bytes."""
        self._rest = memoryview(data)

    async def drain(self) -> None:
        """Wait until the bytes are written. After an error, they are dropped."""
        while self._rest:
            await _until_ready(self._descriptor, is_input=False)
            try:
                written = os.write(self._descriptor, self._rest[:_WRITE_BYTES])
            except BlockingIOError:
                continue
            except OSError as error:
                self._on_error(error)
                self._rest = memoryview(b"")
                return
            self._rest = self._rest[written:]

    def write_eof(self) -> None:
        """End the stream."""
        self.ended.set()

    def close(self) -> None:
        """Do nothing, because other parts of the program still use the output."""

    abort = close

    def get_extra_info(self, name: str) -> Any:
        """Return None, because the output is no socket."""
        return None


async def _until_ready(descriptor: int, *, is_input: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        if is_input:
            loop.add_reader(descriptor, ready.set)
        else:
            loop.add_writer(descriptor, ready.set)
    except OSError:
        await asyncio.sleep(0)  # A file is always ready. Other parts of the loop get their turn.
        return
    try:
        await ready.wait()
    finally:
        if is_input:
            loop.remove_reader(descriptor)
        else:
            loop.remove_writer(descriptor)
