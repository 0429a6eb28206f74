"""Defines `Lifetime`, which ends the reads and pauses of a client's threads when the client is closed."""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from contextlib import suppress

from iris.errors import ClientClosedError


class Lifetime:
    """Records whether a client was closed. When the client is closed, this object ends the reads and pauses of the
    client's threads.

    A child process after `os.fork()` has a copy of the client. Closing the parent's client does not close the child's
    client, and closing the child's client does not close the parent's. A lifetime has no lock: if another thread held
    the lock during the fork, the lock would never be released in the child. No lock is needed, because single
    operations on a dict are atomic.

    Args:
        whose: The client's name, with which the text of a `ClientClosedError` begins.
    """

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._closed = False
        self._pid = os.getpid()
        self._wake = threading.Event()
        self._sockets: dict[int, weakref.ref[socket.socket]] = {}

    @property
    def is_closed(self) -> bool:
        """Whether the client was closed in this process, or before this process was forked."""
        return self._closed

    def check(self) -> None:
        """Check that the client is open.

        Raises:
            ClientClosedError: The client was closed.
        """
        if self._closed:
            raise ClientClosedError(
                f"{self._whose} was closed: its waits, follows and calls have ended; open another client to continue"
            )

    def pause(self, seconds: float) -> None:
        """Sleep for `seconds`.

        Raises:
            ClientClosedError: The client was closed before or during the pause.
        """
        self.check()
        self._own_wake().wait(min(max(0.0, seconds), threading.TIMEOUT_MAX))
        self.check()

    def add(self, opened: socket.socket) -> None:
        """Store an open connection, so that `close` can end it.

        Raises:
            ClientClosedError: The client was closed while the connection was being opened.
        """
        self._forget_after_fork()
        key = id(opened)
        sockets = self._sockets
        sockets[key] = weakref.ref(opened, lambda _: sockets.pop(key, None))
        if self._closed:
            _shut_down(opened)
            self.check()

    def close(self) -> None:
        """End every read and pause of this process's threads. Further calls have no effect."""
        self._forget_after_fork()
        self._closed = True
        self._own_wake().set()
        for reference in list(self._sockets.values()):
            opened = reference()
            if opened is not None:
                _shut_down(opened)

    def _own_wake(self) -> threading.Event:
        self._forget_after_fork()
        return self._wake

    def _forget_after_fork(self) -> None:
        if self._pid != os.getpid():
            # In a child process after a fork, the connections belong to the parent. The child also needs a new
            # event, because a thread of the parent may have held the event's lock during the fork.
            self._sockets = {}
            self._wake = threading.Event()
            self._pid = os.getpid()


def pause(lifetime: Lifetime | None, seconds: float) -> None:
    """Sleep for a number of seconds. If `lifetime` is given, closing its client ends the sleep with an error.

    Raises:
        ClientClosedError: The client was closed before or during the pause.
    """
    if lifetime is None:
        time.sleep(max(0.0, seconds))
    else:
        lifetime.pause(seconds)


def _shut_down(opened: socket.socket) -> None:
    """Wake the threads that read from a socket. Closing the socket would not wake them, and the file descriptor's
    number could be reused by another file.
    """
    with suppress(OSError):  # The error is ignored, because the socket may be closed already.
        opened.shutdown(socket.SHUT_RDWR)
