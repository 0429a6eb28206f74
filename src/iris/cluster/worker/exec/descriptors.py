"""Reads and writes the pipes and the terminal of a command on the event loop, for the channels of a tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from typing import Any

_END_OF_INPUT = b"\x04"  # The character of Ctrl-D, which ends the input in a terminal.

# More bytes than a terminal can buffer. FIONREAD does not count all buffered bytes, so this number is used instead.
_TERMINAL_BYTES = 128 * 1024


class DescriptorReader:
    """Reads what a command writes.

    Args:
        descriptor: The reading end of a pipe, or the controlling side of a terminal. This object closes the descriptor.
        on_bytes: A function that is called when bytes were read.
    """

    def __init__(self, descriptor: int, on_bytes: Callable[[], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._on_bytes = on_bytes
        self._loop = asyncio.get_running_loop()
        self._readable = asyncio.Event()
        # The largest number of bytes that are still read after a call of `end_when_empty`. None before that call.
        self._most_left: int | None = None
        self._is_closed = False

    async def read(self, size: int) -> bytes:
        """Wait until the command has written bytes, and return at most `size` of these bytes. Return an empty result at
        the end of the output.
        """
        while not self._is_closed and self._most_left != 0:
            try:
                data = os.read(self._descriptor, size if self._most_left is None else min(size, self._most_left))
            except BlockingIOError:
                if self._most_left is not None:
                    break
                await self._until_readable()
                continue
            except OSError:  # No process has the terminal open any more (EIO), so the output has ended.
                break
            if data:
                self._on_bytes()
            if self._most_left is not None:
                self._most_left -= len(data)
            return data
        return b""

    def end_when_empty(self) -> None:
        """Let `read` return the bytes that were written by now, and then the end of the output, even if a process goes
        on writing.
        """
        if not self._is_closed:
            counted = fcntl.ioctl(self._descriptor, termios.FIONREAD, struct.pack("i", 0))
            self._most_left = _TERMINAL_BYTES if os.isatty(self._descriptor) else struct.unpack("i", counted)[0]
            self._readable.set()

    def close(self) -> None:
        """Close the descriptor. Processes that still write to the pipe or terminal get an error."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._readable.set()

    async def _until_readable(self) -> None:
        self._readable.clear()
        self._loop.add_reader(self._descriptor, self._readable.set)
        try:
            await self._readable.wait()
        finally:
            if not self._is_closed:
                self._loop.remove_reader(self._descriptor)


class DescriptorWriter:
    """Writes the input of a command. Input that the command cannot read any more is dropped, because a command that has
    closed its input may still write.

    Args:
        descriptor: The writing end of a pipe, or the controlling side of a terminal. This object closes the descriptor.
            None: the command reads no input.
        on_bytes: A function that is called when bytes were written.
    """

    def __init__(self, descriptor: int | None, on_bytes: Callable[[], None]) -> None:
        if descriptor is not None:
            os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._on_bytes = on_bytes
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._is_ended = False
        self._writable = asyncio.Event()

    @property
    def transport(self) -> DescriptorWriter:
        """Return this object in the role of a transport: like a transport, it has a method `abort`, which closes the
        descriptor at once.
        """
        return self

    def write(self, data: bytes) -> None:
        """Append bytes to the input that `drain` sends to the command."""
        self._rest += data

    async def drain(self) -> None:
        """Wait until the pipe or terminal of the command has accepted all bytes of the input so far."""
        while self._rest and self._descriptor is not None:
            try:
                written = os.write(self._descriptor, self._rest)
            except BlockingIOError:
                await self._until_writable()
                continue
            # No process has the other end of the pipe open any more, so the rest of the input is dropped.
            except OSError:
                break
            self._rest = self._rest[written:]
            self._on_bytes()
        self._rest = b""

    def write_eof(self) -> None:
        """End the input. A pipe is closed. A terminal that reads whole lines gets the character Ctrl-D. In a terminal
        without this mode, nothing happens.
        """
        if self._descriptor is None or self._is_ended:
            return
        self._is_ended = True
        if not os.isatty(self._descriptor):
            self.close()
            return
        with contextlib.suppress(OSError, termios.error):
            if termios.tcgetattr(self._descriptor)[3] & termios.ICANON:
                # After the beginning of a line, the first Ctrl-D only submits the line. The second Ctrl-D ends the
                # input.
                os.write(self._descriptor, 2 * _END_OF_INPUT)

    def close(self) -> None:
        """Close the descriptor, and drop the bytes that were not sent yet."""
        if self._descriptor is not None:
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
            self._writable.set()

    abort = close

    def get_extra_info(self, name: str) -> Any:
        """Return None, because a pipe has no information about a connection, unlike a socket."""
        return None

    async def _until_writable(self) -> None:
        assert self._descriptor is not None
        self._writable.clear()
        self._loop.add_writer(self._descriptor, self._writable.set)
        try:
            await self._writable.wait()
        finally:
            if self._descriptor is not None:
                self._loop.remove_writer(self._descriptor)
