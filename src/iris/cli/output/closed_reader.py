"""Ends the program when the reader of its output has closed the pipe, even while the program has nothing to write.

A program notices a closed pipe when it writes to the pipe. But `iris logs -f` writes nothing while the task is silent,
which may be for hours.
"""

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
    """Raise `OutputClosedError` in the main thread if stdout is a pipe whose other end is closed.

    A thread waits for the pipe to close, and then interrupts the main thread with a signal.
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
        told.register(descriptor, 0)  # With an event mask of 0, poll reports only that the pipe was closed.
        told.register(wakes, 0)
        told.poll()
        if not over.is_set():
            has_left.set()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGPIPE)

    def leave(number: int, frame: FrameType | None) -> None:
        # A write to a closed network connection also causes SIGPIPE. `has_left` is set only if the reader of stdout has
        # closed the pipe.
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
        # The thread is joined, because a thread that runs while the interpreter shuts down would abort the process.
        thread.join()
        os.close(wakes)
        os.close(descriptor)
        signal.signal(signal.SIGPIPE, before)
