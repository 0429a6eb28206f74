"""Notices that who reads our output has left while there is nothing to write, as when a followed task is silent."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from iris.terminal.outlet import OutputClosedError


@contextlib.contextmanager
def leave_with_reader() -> Iterator[None]:
    """Raises `OutputClosedError` in the main thread when stdout is a pipe and its other end is closed.

    A thread waits for that, and wakes the main thread by a signal, whatever that waits for.
    """
    try:
        descriptor = os.dup(sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        yield
        return
    if not hasattr(select, "poll") or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        yield
        return
    over, has_left = threading.Event(), threading.Event()
    wakes, wake = os.pipe()

    def watch() -> None:
        told = select.poll()
        told.register(descriptor, 0)  # nothing but the other end's closing, which is always told
        told.register(wakes, 0)
        told.poll()
        if not over.is_set():
            has_left.set()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGPIPE)

    def leave(number: int, frame: FrameType | None) -> None:
        # A connection that its server has closed sends this signal as well, to whoever writes to it.
        if has_left.is_set() and not over.is_set():
            raise OutputClosedError

    before = signal.signal(signal.SIGPIPE, leave)
    thread = threading.Thread(target=watch, name="iris-reader", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        os.close(wake)
        thread.join()  # one that woke up in the end of the interpreter would make it abort
        os.close(wakes)
        os.close(descriptor)
        signal.signal(signal.SIGPIPE, before)
