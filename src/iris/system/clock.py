"""Reads the clocks of the machine: the wall clock, and clocks that do not change when someone sets the wall clock.

A test moves the wall clock of real processes with a file, which an environment variable names. Do not use the variable
in production:

    IRIS_CLOCK_FILE=/path/of/a/file      the file contains a number of seconds, which is added to the wall clock

The clock file may change at any time. A missing or empty file adds nothing. Servers pass `IRIS_CLOCK_FILE` on to their
workers, but not to tasks. A process that has the variable writes a line to stderr when it starts. No other module of
`iris` reads the wall clock.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from iris.system.files import write_file

VARIABLE = "IRIS_CLOCK_FILE"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = "/proc/self/ns/time"  # since Linux 5.6


def wall_s() -> float:
    """Return the wall clock, in seconds since the Unix epoch."""
    return time.time() + _added_s()


def now_ms() -> int:
    """Return the wall clock, in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000 + round(_added_s() * 1000)


def boot_ms() -> int:
    """Return the milliseconds since this machine was started. Changes of the wall clock have no effect.

    On Linux, the result includes the time in which the machine slept. On macOS and Windows, where only clients run, the
    result does not include this time.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return time.monotonic_ns() // 1_000_000
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def now_for_ages_ms() -> int:
    """Return the time now, in ms since the epoch, for computing the ages of files that are deleted by age.

    The returned time is the earlier of two times: the wall clock, and the wall clock without its steps since
    `keep_ages_in` was called. Therefore a step forward of the wall clock makes no file old at once. After a step back,
    files are deleted late, which does no harm.
    """
    return min(now_ms(), _anchor.wall_at_boot_ms + boot_ms())


def keep_ages_in(path: Path) -> None:
    """Read from a file how earlier processes measured the ages of files, and measure ages in the same way until the
    machine is restarted. Otherwise a process that starts while the wall clock is ahead would treat all files as old.
    """
    with contextlib.suppress(OSError, ValueError):
        boot, at_boot_ms = path.read_text().split()
        if boot == _boot_clock():
            _anchor.wall_at_boot_ms = int(at_boot_ms)
            return
    # If the file cannot be written, the error is ignored, and the next process measures ages by the wall clock.
    with contextlib.suppress(OSError):
        write_file(path, f"{_boot_clock()} {_anchor.wall_at_boot_ms}", shared=True)


def stamp() -> str:
    """Return the present moment as text, for `ms_since` in this process or in a later process."""
    return f"{_boot_clock()}:{boot_ms()}"


def ms_since(then: str, then_ms: int) -> int:
    """Return the milliseconds that have passed since a moment, at least 0.

    Args:
        then: The `stamp` of the moment.
        then_ms: The same moment on the wall clock, in milliseconds. This value is used if the machine was restarted
            since the moment, or if the system does not identify its boots.
    """
    boot, _, at_ms = then.rpartition(":")
    if boot and boot == _boot_clock() and at_ms.isdecimal():
        return max(0, boot_ms() - int(at_ms))
    return max(0, now_ms() - then_ms)


@cache
def boot_id() -> str:
    """Return the id of the machine's present boot. The id is empty if the system does not provide one."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""  # not Linux, or a sandbox


@cache
def _boot_clock() -> str:
    """Return the id of the clock of `boot_ms`: the id of the boot, and this process's time namespace."""
    with contextlib.suppress(OSError):
        return boot_id() and boot_id() + os.readlink(_NAMESPACE).removeprefix("time:")
    return boot_id()


@dataclass(slots=True)
class _Anchor:
    """The start of the machine, as a time of the wall clock."""

    wall_at_boot_ms: int


def _nothing() -> float:
    return 0.0


def _from_file() -> float:
    try:
        return float(Path(_file).read_text() or 0)
    except (FileNotFoundError, ValueError):  # the file is being written
        return 0.0


_file = os.environ.get(VARIABLE, "")
_added_s: Callable[[], float] = _from_file if _file else _nothing
if _file:
    os.write(2, f"iris clock: the wall clock is moved by the seconds in {_file}\n".encode())
_anchor = _Anchor(now_ms() - boot_ms())
