"""Resets signals and standard descriptors that a process has inherited from the program that started it.

A shell with `trap '' CHLD`, `nohup`, or a daemon that blocks signals passes ignored and blocked signals on to its child
processes. If SIGCHLD is ignored, the kernel discards exit codes. If SIGTERM is blocked, a process cannot be asked to
end. A program that was started with closed standard descriptors gives the numbers 0 to 2 to the next files that it
opens, so that text for "stdout" would be written into a socket or a pipe of Iris.

This module imports nothing heavy, because the reaper and the launcher of a worker import it and must stay small.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

# These two signals stay ignored. Python itself ignores them, and restores them in the programs that it starts.
_IGNORED_BY_PYTHON = {getattr(signal, name, None) for name in ("SIGPIPE", "SIGXFSZ")}


def use_defaults() -> None:
    """Set the signals and standard descriptors of this process to the state that a login shell would give. Each program
    that Iris starts (server, worker, …) calls `use_defaults` first in its main function.
    """
    reset_signals()
    open_standard_descriptors()


def reset_signals() -> None:
    """Restore the default disposition of every ignored signal, and unblock all signals. Handlers are kept."""
    for number in signal.valid_signals():
        if number not in _IGNORED_BY_PYTHON and signal.getsignal(number) is signal.SIG_IGN:
            # Errors are ignored, because the C library reserves some signals, whose handlers cannot be set.
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        # If SIGINT was ignored when Python started, Python has not installed its handler, which raises
        # KeyboardInterrupt.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def open_standard_descriptors() -> None:
    """Open /dev/null in place of each closed standard descriptor, so that no other file gets the descriptor's
    number.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The new descriptor gets the lowest free number, which usually is the number of the closed descriptor.
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    # Python has set the stream of a closed descriptor to None, and `print` would fail. The new streams stay open until
    # the process ends.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def above_standard(descriptor: int) -> int:
    """Return a descriptor that is greater than 2. If the given descriptor is 0, 1 or 2, return a copy of the descriptor
    and close the original.

    A descriptor for a child process must be greater than 2, because `subprocess` replaces the descriptors 0 to 2 in the
    child, even if `pass_fds` contains one.
    """
    if descriptor > 2:
        return descriptor
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved
