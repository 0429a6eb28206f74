"""Standard input of `iris run`: passed on to the job's task, as if the command had been typed.

One task reads it. What the task does not take stays unread, as far as possible: a large input waits in its pipe or
file. A terminal is read line by line, and only while this process is in the foreground.
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
_BEAT_S = 20.0  # a worker takes a sender that is silent for much longer for gone
_LOOK_S = 0.5  # whether this process is in the foreground again
_END_S = 2.0


def is_input() -> bool:
    """Whether standard input leads to something that can be read: anything but /dev/null. Never on Windows, which can
    wait for sockets only."""
    if sys.platform == "win32":
        return False
    try:
        status = os.fstat(0)
        return not (stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev)
    except OSError:
        return False


def holds_something() -> bool:
    """Whether there is something to read in a pipe, socket or file now; a terminal does not count."""
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
    """Reads standard input, and sends it to the task of a job, for as long as this is entered.

    Args:
        connection: The cluster.
        job_id: The job, which was submitted with standard input.
        output: Told where the input cannot be sent.
    """

    def __init__(self, connection: Connection, job_id: str, output: Output) -> None:
        self._connection = connection
        self._job_id = job_id
        self._output = output
        self._attempt_id: int | None = None
        self._position = 0  # what that attempt has taken
        self._stopping = False
        self._is_over = False
        self._wake, self._wake_end = os.pipe()
        self._thread = threading.Thread(target=self._feed, name="iris-stdin", daemon=True)

    def __enter__(self) -> Self:
        if os.isatty(0):
            # Reading in the background is an error then, instead of a signal that stops all of this process.
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
            # The job may go on without us: what its task has read is all that it gets.
            last = threading.Thread(target=self._end, daemon=True)
            last.start()
            last.join(_END_S)

    def _feed(self) -> None:
        try:
            while not self._stopping:
                data = self._read()
                if not self._send(data or b"", end=data == b""):
                    break
        except UnimplementedError:
            self._output.note("standard input was not read: this cluster is of an older release, which cannot take it")
        except IrisError as error:
            if not self._stopping:
                self._output.note(f"standard input is not passed on any more: {error}")
        self._is_over = self._is_over or not self._stopping

    def _read(self) -> bytes | None:
        """What comes next; empty at the end, None when nothing has come for a while."""
        if os.isatty(0) and os.tcgetpgrp(0) != os.getpgrp():
            select.select([self._wake], [], [], _LOOK_S)
            return None
        try:
            readable, _, _ = select.select([0, self._wake], [], [], _BEAT_S)
            return os.read(0, _READ_BYTES) if 0 in readable else None
        except OSError as error:
            if error.errno == errno.EIO and os.isatty(0):  # it has just gone to the background
                return None
            if error.errno == errno.EISDIR:
                self._output.note("standard input is a folder, which cannot be read")
            return b""

    def _send(self, data: bytes, *, end: bool) -> bool:
        """Returns when all of it was taken; False when nothing more is wanted, or to be sent."""
        while not self._stopping:
            answer = self._connection.client.cluster.write_stdin(
                self._job_id, data, position=self._position, attempt_id=self._attempt_id, end=end
            )
            if answer.closed:
                if self._attempt_id is None or self._position or not answer.HasField("attempt_id"):
                    return False
                self._attempt_id = None  # that attempt has ended without reading: the next one gets all of it
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
    """Says that standard input is not read, where something is in it."""
    if holds_something():
        output.note(f"standard input is not read: {why}")
