"""Pipes in memory, through which this process writes the input and reads the output of a command in a task."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from iris.errors import FailedPreconditionError, IrisError

_MOST_BYTES = 1024**2  # A pipe keeps at most about this many bytes in memory. When it is full, the writing side waits.


class InputPipe:
    """A pipe in memory for the standard input of a command in a task. This process writes the bytes, and a channel of
    the tunnel sends them."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_ended = self._is_closed = False
        self._changed = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Add bytes. Wait while the pipe is full. Bytes for a command that has ended are dropped.

        Raises:
            FailedPreconditionError: The input was closed before.
        """
        self.check_open()
        while len(self._held) >= _MOST_BYTES and not self._is_closed:
            await self._wait()
        if not self._is_closed:
            self._held += data
            self._changed.set()

    def check_open(self) -> None:
        """Refuse further bytes if the input was closed.

        Raises:
            FailedPreconditionError: The input was closed before.
        """
        if self._is_ended:
            raise FailedPreconditionError("the input of the command is closed: write before close_input")

    def end(self) -> None:
        """Close the input. Bytes that were written before still reach the command."""
        self._is_ended = True
        self._changed.set()

    def close(self) -> None:
        """Drop the input that was not sent, because the command has ended."""
        self._is_closed = True
        self._held.clear()
        self._changed.set()

    async def read(self, size: int) -> bytes:
        """Wait until bytes were written to the pipe, and return at most `size` of them. Return no bytes at the end of
        the input.
        """
        while not self._held and not self._is_ended and not self._is_closed:
            await self._wait()
        data = bytes(self._held[:size])
        del self._held[:size]
        self._changed.set()
        return data

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class OutputPipe:
    """A pipe in memory for an output stream of a command in a task. A channel of the tunnel receives the bytes, and
    this process reads them.

    Attributes:
        ended: An event that is set when all bytes of the stream have arrived.
    """

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._error: IrisError | None = None
        self._changed = asyncio.Event()

    # For the reader.

    async def read(self, size: int = -1) -> bytes:
        """Return bytes of the stream. `AsyncExecOutput.read` documents the arguments."""
        if size >= 0:
            return await self._read_some(size) if size else b""
        parts = []
        while data := await self._read_some(_MOST_BYTES):
            parts.append(data)
        return b"".join(parts)

    def fail(self, error: IrisError) -> None:
        """End the stream with an error, because the remaining bytes of the stream are lost."""
        if not self.ended.is_set():
            self._error = error
            self._changed.set()

    async def _read_some(self, size: int) -> bytes:
        while not self._chunks:
            if self.ended.is_set():
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        chunk = self._chunks.popleft()
        if len(chunk) > size:
            self._chunks.appendleft(chunk[size:])
            chunk = chunk[:size]
        self._size -= len(chunk)
        self._changed.set()
        return chunk

    # For the channel.

    @property
    def transport(self) -> OutputPipe:
        """The object with a method `abort`, as `asyncio.StreamWriter.transport` has it: this pipe itself."""
        return self

    def write(self, data: bytes) -> None:
        """Add bytes to the stream."""
        self._chunks.append(data)
        self._size += len(data)
        self._changed.set()

    async def drain(self) -> None:
        """Wait until the reader has read enough bytes that the pipe has room again."""
        while self._size >= _MOST_BYTES:
            await self._wait()

    def write_eof(self) -> None:
        """End the stream."""
        self.ended.set()
        self._changed.set()

    def close(self) -> None:
        """Do nothing, because the reader may still read the bytes in the pipe."""

    abort = close

    def get_extra_info(self, name: str) -> Any:
        """Return None, because the stream is not a socket and has no further information."""
        return None

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()
