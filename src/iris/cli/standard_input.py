"""Sends the standard input of `iris run` to the job's task, as if the task ran in the user's shell.

Only a job of one task receives standard input. `iris run` reads only a little ahead of the task. Input that the task
does not read mostly stays in the pipe or file. A terminal is read line by line, and only while `iris run` is in the
foreground.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
import sys
import threading
from types import TracebackType
from typing import Self

from iris.cli.cluster.connect import Connection
from iris.cli.output.printer import Output
from iris.errors import IrisError, UnimplementedError

_READ_BYTES = 256 * 1024
# While there is no input, `iris run` calls the cluster at this interval in seconds, to show that more input may come.
_BEAT_S = 20.0
_FOREGROUND_CHECK_S = 0.5
_END_S = 2.0


def is_input() -> bool:
    """Return whether standard input is open and is not /dev/null.

    On Windows the result is always False, because a Windows program can wait for sockets only.
    """
    if sys.platform == "win32":
        return False
    try:
        status = os.fstat(0)
        return not (stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev)
    except OSError:
        return False


def holds_something() -> bool:
    """Return whether standard input is a pipe, socket, or file that contains unread data. Return False for a
    terminal.
    """
    try:
        if not is_input() or os.isatty(0):
            return False
        status = os.fstat(0)
        if stat.S_ISREG(status.st_mode):
            return os.lseek(0, 0, os.SEEK_CUR) < status.st_size
        import fcntl
        import termios

        return any(fcntl.ioctl(0, termios.FIONREAD, bytes(4)))
    except (OSError, ImportError):
        return False


class Feeder:
    """Sends standard input to the task of a job while this context manager is active.

    Args:
        connection: The connection to the cluster.
        job_id: The id of a job that was submitted with standard input.
        output: The output that prints a message if the input cannot be sent.
    """

    def __init__(self, connection: Connection, job_id: str, output: Output) -> None:
        self._connection = connection
        self._job_id = job_id
        self._output = output
        self._attempt_id: int | None = None
        self._position = 0  # The number of bytes of standard input that the running attempt has received.
        self._stopping = False
        self._is_over = False
        self._wake, self._wake_end = os.pipe()
        self._thread = threading.Thread(target=self._feed, name="iris-stdin", daemon=True)

    def __enter__(self) -> Self:
        if os.isatty(0):
            # SIGTTIN is ignored, so that a read in the background fails instead of stopping this process.
            signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        os.write(self._wake_end, b"!")
        self._thread.join(_END_S)
        if not self._is_over and self._connection.place != "embedded":
            # The end of the input is sent to the task, because the job may continue after this process has ended.
            last = threading.Thread(target=self._end, daemon=True)
            last.start()
            last.join(_END_S)

    def _feed(self) -> None:
        try:
            while not self._stopping:
                data = self._read()
                if data and os.isatty(0):
                    self._output.set_status("", before_input=True)
                if not self._send(data or b"", end=data == b""):
                    break
        except UnimplementedError:
            self._output.note("standard input was not sent: this cluster's release of Iris does not support it yet")
        except IrisError as error:
            if not self._stopping:
                self._output.note(f"standard input is no longer sent: {error}")
        self._is_over = self._is_over or not self._stopping

    def _read(self) -> bytes | None:
        """Return the next bytes of the input, or no bytes at the end of the input. Return None if no input has come for
        a while."""
        if os.isatty(0) and os.tcgetpgrp(0) != os.getpgrp():
            select.select([self._wake], [], [], _FOREGROUND_CHECK_S)
            return None
        try:
            readable, _, _ = select.select([0, self._wake], [], [], _BEAT_S)
            return os.read(0, _READ_BYTES) if 0 in readable else None
        except OSError as error:
            # If the shell has just moved this process to the background, reading the terminal fails with EIO. This is
            # not the end of the input.
            if error.errno == errno.EIO and os.isatty(0):
                return None
            if error.errno == errno.EISDIR:
                self._output.note("standard input is a directory, which cannot be read")
            return b""

    def _send(self, data: bytes, *, end: bool) -> bool:
        """Send bytes until the task has received all of them. Return False if nothing more can be sent."""
        while not self._stopping:
            answer = self._connection.client.cluster.write_stdin(
                self._job_id, data, position=self._position, attempt_id=self._attempt_id, end=end
            )
            if answer.closed:
                if self._attempt_id is None or self._position or not answer.HasField("attempt_id"):
                    return False
                # The attempt ended without reading any input. The next attempt of the task gets all input.
                self._attempt_id = None
                continue
            if answer.HasField("attempt_id"):
                self._attempt_id = answer.attempt_id
                data = data[answer.position - self._position :]
                self._position = answer.position
                if not data:
                    return not end
            elif not data and not end:
                return True
        return False

    def _end(self) -> None:
        with contextlib.suppress(IrisError):
            self._connection.client.cluster.write_stdin(
                self._job_id, b"", position=self._position, attempt_id=self._attempt_id, end=True
            )


def note_unread(output: Output, why: str) -> None:
    """If standard input contains data, print why `iris run` does not read standard input."""
    if holds_something():
        output.note(f"standard input is not read: {why}")
