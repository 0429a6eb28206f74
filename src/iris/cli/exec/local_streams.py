"""Reads the standard input of this process, and writes its outputs, on an asyncio loop.

The asyncio loop watches pipes and terminals, so that neither a silent input nor a full output blocks the loop. The loop
cannot watch regular files, but reading and writing them needs no waiting.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

_READ_BYTES = 64 * 1024
# When the loop reports a pipe as writable, the pipe has room for at least this many bytes. Writing not more than this
# number therefore does not block.
_WRITE_BYTES = 4096


class LocalInput:
    """The standard input of this process.

    Args:
        descriptor: The file descriptor from which the input is read.
        on_bytes: A function that is called with each piece of the input, and returns whether the piece is passed on.
    """

    def __init__(self, descriptor: int, on_bytes: Callable[[bytes], bool] = lambda data: True) -> None:
        self._descriptor = descriptor
        self._on_bytes = on_bytes

    async def read(self, size: int) -> bytes:
        """Wait until bytes have arrived, and return at most `size` of them. Return no bytes at the end of the input."""
        while True:
            await _until_ready(self._descriptor, is_input=True)
            try:
                data = os.read(self._descriptor, min(size, _READ_BYTES))
            except BlockingIOError:
                continue  # Wait again: another process has set this descriptor to non-blocking mode.
            except OSError:
                return b""  # The input has failed, for example because the terminal is gone.
            if not data or self._on_bytes(data):
                return data


class LocalOutput:
    """An output of this process.

    Args:
        descriptor: The file descriptor to which the output is written.
        on_error: A function that is called when the output cannot be written, for example because its reader has ended.

    Attributes:
        ended: An event that is set when the whole output was written.
    """

    def __init__(self, descriptor: int, on_error: Callable[[OSError], None]) -> None:
        self.ended = asyncio.Event()
        self._descriptor = descriptor
        self._on_error = on_error
        self._rest = memoryview(b"")

    @property
    def transport(self) -> LocalOutput:
        """The object with a method `abort`, as `asyncio.StreamWriter.transport` has it: this output itself."""
        return self

    def write(self, data: bytes) -> None:
        """Keep bytes for `drain`, which writes them. All earlier bytes must be written already."""
        self._rest = memoryview(data)

    async def drain(self) -> None:
        """Wait until all bytes passed to `write` are written. After an error of the output, drop the bytes instead."""
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
        """Set `ended`, because no further bytes follow."""
        self.ended.set()

    def close(self) -> None:
        """Do nothing, because other parts of the program still use the output."""

    abort = close

    def get_extra_info(self, name: str) -> Any:
        """Return None, because the output is not a socket and has no further information."""
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
        await asyncio.sleep(0)  # A file needs no wait. The sleep lets other coroutines run.
        return
    try:
        await ready.wait()
    finally:
        if is_input:
            loop.remove_reader(descriptor)
        else:
            loop.remove_writer(descriptor)
