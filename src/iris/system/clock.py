"""The clocks of this program: the wall clock, which people read and may set, and times that its steps cannot change.

A test sets the wall clock of real processes by a file. Never in production:

    IRIS_CLOCK_FILE=/path/of/a/file      its text is a number of seconds, which is added to the wall clock

The file may change at any time; a missing or empty file adds nothing. Servers hand the variable on to their workers;
tasks do not get it. A process that has it says so on its stderr at its start.

Nothing else in `iris` reads the wall clock.
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
    """The wall clock, in seconds since the Unix epoch."""
    return time.time() + _added_s()


def now_ms() -> int:
    """The wall clock, in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000 + round(_added_s() * 1000)


def boot_ms() -> int:
    """Milliseconds since this machine was started; no step of the wall clock changes them.

    They include the time in which the machine slept, except on macOS and Windows, where only clients run.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return time.monotonic_ns() // 1_000_000
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def now_for_ages_ms() -> int:
    """Return the time, in ms since the epoch, from which ages are counted when old files are deleted.

    This is the earlier of two times: the wall clock, and the wall clock without the steps since `keep_ages_in` anchored
    it. Therefore a step forward makes no file old at once. After a step back files are deleted late: no harm.
    """
    return min(now_ms(), _anchor.wall_at_boot_ms + boot_ms())


def keep_ages_in(path: Path) -> None:
    """Measures ages as earlier processes with this file have, for as long as the machine is not started again.

    Without it a process that is started while the wall clock is wrong would take all that there is for old.
    """
    with contextlib.suppress(OSError, ValueError):
        boot, at_boot_ms = path.read_text().split()
        if boot == _boot_clock():
            _anchor.wall_at_boot_ms = int(at_boot_ms)
            return
    with contextlib.suppress(OSError):  # the next process will believe the wall clock again
        write_file(path, f"{_boot_clock()} {_anchor.wall_at_boot_ms}", shared=True)


def stamp() -> str:
    """This moment, for `ms_since` in this process or in a later one."""
    return f"{_boot_clock()}:{boot_ms()}"


def ms_since(then: str, then_ms: int) -> int:
    """How many milliseconds have passed, 0 or more.

    Args:
        then: The `stamp` of the moment.
        then_ms: The same moment by the wall clock, which counts where the machine was started again since, or does not
            say which start of it this is.
    """
    boot, _, at_ms = then.rpartition(":")
    if boot and boot == _boot_clock() and at_ms.isdecimal():
        return max(0, boot_ms() - int(at_ms))
    return max(0, now_ms() - then_ms)


@cache
def boot_id() -> str:
    """Return what tells this run of the machine's kernel from others; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""  # no Linux, or a sandbox


@cache
def _boot_clock() -> str:
    """What tells the clock of `boot_ms` from others: this run of the kernel, and this process's time namespace."""
    with contextlib.suppress(OSError):
        return boot_id() and boot_id() + os.readlink(_NAMESPACE).removeprefix("time:")
    return boot_id()


@dataclass(slots=True)
class _Anchor:
    """Where the wall clock was when the machine was started, as it was set when that was looked at."""

    wall_at_boot_ms: int


def _nothing() -> float:
    return 0.0


def _from_file() -> float:
    try:
        return float(Path(_file).read_text() or 0)
    except (FileNotFoundError, ValueError):  # it is being written
        return 0.0


_file = os.environ.get(VARIABLE, "")
_added_s: Callable[[], float] = _from_file if _file else _nothing
if _file:
    os.write(2, f"iris clock: the wall clock is moved by what {_file} says\n".encode())
_anchor = _Anchor(now_ms() - boot_ms())
