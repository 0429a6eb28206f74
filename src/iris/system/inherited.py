"""What a process inherits from the program that started it, and must not depend on: signals and standard descriptors.

A shell with `trap '' CHLD`, `nohup`, or a daemon that blocks signals passes ignored and blocked signals on to whatever
it starts. With SIGCHLD ignored, the kernel throws exit codes away; with SIGTERM blocked, nothing ends when it is asked
to. A program that was started with closed standard descriptors gives the numbers 0 to 2 to the next files that it
opens, and what is then written to "stdout" lands in a socket or a pipe of ours.

Nothing heavy is imported here: the reaper and the launcher of a worker use this module, and stay small.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

# Python ignores these two itself, and restores them in the programs that `subprocess` starts.
_IGNORED_BY_PYTHON = {getattr(signal, name, None) for name in ("SIGPIPE", "SIGXFSZ")}


def use_defaults() -> None:
    """Gives a program of ours the signals and descriptors that it would have if a login shell had started it.

    For programs that Iris starts (server, worker, …), at the very beginning of their main function.
    """
    reset_signals()
    open_standard_descriptors()


def reset_signals() -> None:
    """Gives every ignored signal its default disposition back, and blocks none. Handlers stay as they are."""
    for number in signal.valid_signals():
        if number not in _IGNORED_BY_PYTHON and signal.getsignal(number) is signal.SIG_IGN:
            with contextlib.suppress(OSError, ValueError):  # the C library keeps some for itself
                signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python does where it is not ignored
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def open_standard_descriptors() -> None:
    """Opens /dev/null where standard input, output or error is closed, so that no other file gets its number."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)  # the lowest free number, which is this one
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    # Python has set the stream of a closed descriptor to None, and `print` would fail, or write to the other stream.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - open for as long as this process lives
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def above_standard(descriptor: int) -> int:
    """A descriptor that is not 0, 1 or 2, for the same open file; the given one is closed where it was one of these.

    `subprocess` puts the child's standard streams over 0 to 2, also over a descriptor of `pass_fds` that lies there.
    """
    if descriptor > 2:
        return descriptor
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved
