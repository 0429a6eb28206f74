"""Captures the output of an attempt: reads the pipes of its stdout and stderr on the event loop. `AttemptRunner` passes
the bytes of each read to `LogWriter.append`, which appends them to the log of the attempt as one record.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import termios
from collections.abc import Callable

from iris.cluster.logs.log_writer import Source

_READ_BYTES = 256 * 1024
# A large pipe buffers bursts of output. With a small pipe, a task would have to wait while the worker's event loop is
# busy.
_PIPE_BYTES = 1024 * 1024

Append = Callable[[Source, bytes], None]


class OutputCapture:
    """The pipes to which the processes of one attempt write their output.

    Args:
        append: A function that is called on the event loop with a source and the bytes that were read.

    Attributes:
        ended: Set once every process has closed its end of all pipes, or `close` has closed the pipes.
    """

    def __init__(self, append: Append) -> None:
        self._append = append
        self._loop = asyncio.get_running_loop()
        self._open_pipes: dict[int, Source] = {}
        self.ended = asyncio.Event()

    def add(self, pipe: int, source: Source) -> None:
        """Begin to read a pipe whenever the pipe contains data. At the end of the output, this object closes the
        descriptor.
        """
        os.set_blocking(pipe, False)
        # The system refuses a size above its limit. In this case, the pipe keeps the default size.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._open_pipes[pipe] = source
        self._loop.add_reader(pipe, self._on_readable, pipe, source)

    def close(self) -> None:
        """Append the bytes that the open pipes contain now, and close the pipes. The event loop may have been too busy
        to read the pipes earlier, for example because of a slow disk.
        """
        for pipe in list(self._open_pipes):
            self._read_rest(pipe)
            self._close_pipe(pipe)

    def _on_readable(self, pipe: int, source: Source) -> None:
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._append(source, data)
        else:
            self._close_pipe(pipe)

    def _read_rest(self, pipe: int) -> None:
        left = int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
        while left > 0:
            data = os.read(pipe, min(left, _READ_BYTES))
            if not data:
                return
            left -= len(data)
            self._append(self._open_pipes[pipe], data)

    def _close_pipe(self, pipe: int) -> None:
        self._loop.remove_reader(pipe)
        os.close(pipe)
        self._open_pipes.pop(pipe, None)
        if not self._open_pipes:
            self.ended.set()
