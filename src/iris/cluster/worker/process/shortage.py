"""Finds out which resource a worker's machine lacks for another attempt. The resource can be disk space, inodes, file
descriptors, processes or memory.

If an attempt cannot start because of a shortage, its job is not to blame. Therefore the attempt ends in the same way as
an attempt of a lost worker. The worker reports the shortage, so that the controller places no new attempt on this
worker until the shortage is over.
"""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from iris.errors import ResourceExhaustedError
from iris.reasons import NO_SHORTAGE, Shortage, ShortageCode
from iris.system.event_loop import open_file_limit

# The headroom on a disk for the logs, entrypoints and results of attempts. On a small disk, the headroom is a share of
# the disk's size.
DISK_RESERVE_BYTES = 64 * 1024 * 1024
INODE_RESERVE = 1000
# How many file descriptors the worker keeps free. An attempt needs about five.
DESCRIPTOR_RESERVE = 64
# On a small disk, the headroom is the disk's size divided by `_SHARE`.
_SHARE = 20
# The least number of inodes that the worker keeps free. An attempt needs about ten.
_LEAST_INODES = 16
# The first and the longest pause in seconds during which the worker accepts no attempt, after a start that failed
# because of a shortage. Some shortages cannot be measured, and are found only by a failed start.
_FIRST_REST_S, _LONGEST_REST_S = 5.0, 60.0
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}
_SHORT = {*_DISK, *_DESCRIPTORS, errno.EAGAIN, errno.ENOMEM}


class WorkerShortageError(ResourceExhaustedError):
    """An error: the worker's machine lacks something for an attempt. The error text names the shortage and a remedy.

    Attributes:
        shortage: What the machine lacks.
    """

    def __init__(self, shortage: Shortage) -> None:
        super().__init__(shortage.text)
        self.shortage = shortage


def shortage_of(error: BaseException) -> WorkerShortageError | None:
    """Return the shortage that made a call fail; None if the call failed for another reason."""
    if isinstance(error, WorkerShortageError):
        return error
    if not isinstance(error, OSError) or error.errno not in _SHORT:
        return None
    return WorkerShortageError(_shortage(error))


def _shortage(error: OSError) -> Shortage:
    if error.errno in _DISK:
        where = f" ({error.filename})" if isinstance(error.filename, str) else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"the worker's disk or its inodes are full: {error.strerror}{where}; remove files there"
            return Shortage(text, ShortageCode.DISK_SPACE)
        text = f"the worker's disk cannot be written: {error.strerror}{where}; repair it"
        return Shortage(text, ShortageCode.DISK_UNUSABLE)
    if error.errno in _DESCRIPTORS:
        return Shortage(
            "the worker has reached its limit of open files (run fewer tasks at once, or raise its hard limit,"
            " 'ulimit -Hn')",
            ShortageCode.FILE_DESCRIPTORS,
        )
    if error.errno == errno.EAGAIN:
        return Shortage(
            "the worker cannot start another process, because its user or its container has reached a limit"
            " (run fewer tasks at once, or raise 'ulimit -u' or the container's pids limit)",
            ShortageCode.PROCESSES,
        )
    text = "the worker's machine has no memory left to start a process (run fewer tasks at once)"
    return Shortage(text, ShortageCode.MEMORY)


class WorkerHeadroom:
    """Measures whether the worker has headroom for another attempt.

    Args:
        directories: The directories to which attempts and their logs are written.
        clock_s: A function that returns the time of the monotonic clock, in seconds.
    """

    def __init__(self, directories: Iterable[Path], clock_s: Callable[[], float] = time.monotonic) -> None:
        self._directories = list(directories)
        self._clock_s = clock_s
        self._failure = NO_SHORTAGE  # The shortage that made the last start fail.
        self._rest_s = 0.0
        self._until_s = 0.0

    def start_failed(self, why: WorkerShortageError) -> None:
        """Refuse attempts for a while after a start that failed because of a shortage. Each further failure doubles the
        time. If a shortage can be measured, this method does nothing, because the measurement shows when the shortage
        is over.
        """
        if self._measured_shortage():
            return
        self._failure = why.shortage
        self._rest_s = min(max(_FIRST_REST_S, 2 * self._rest_s), _LONGEST_REST_S)
        self._until_s = self._clock_s() + self._rest_s

    def started(self) -> None:
        """Record that a start has succeeded, so that attempts are not refused any more."""
        self._failure, self._rest_s = NO_SHORTAGE, 0.0

    def shortage(self) -> Shortage:
        """Return what the worker lacks for another attempt. The result is false if the worker lacks nothing."""
        is_resting = self._failure and self._clock_s() < self._until_s
        return self._measured_shortage() or (self._failure if is_resting else NO_SHORTAGE)

    def _measured_shortage(self) -> Shortage:
        for directory in self._directories:
            why = _why_disk_full(directory)
            if why:
                return why
        used, limit = _open_descriptors(), open_file_limit()
        if limit != resource.RLIM_INFINITY and limit - used < min(DESCRIPTOR_RESERVE, limit // 4):
            return Shortage(
                f"the worker has nearly reached its limit of {limit} open files (run fewer tasks at once, or"
                " raise its hard limit, 'ulimit -Hn')",
                ShortageCode.FILE_DESCRIPTORS,
            )
        return NO_SHORTAGE


def _why_disk_full(directory: Path) -> Shortage:
    while not directory.exists() and directory != directory.parent:
        # Before the first attempt, the directory of attempts does not exist, and its parent is measured.
        directory = directory.parent
    try:
        disk = os.statvfs(directory)
    except OSError:
        # If the measurement fails, the error is ignored. The next start of an attempt will fail for the same reason and
        # report the error.
        return NO_SHORTAGE
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if free < min(DISK_RESERVE_BYTES, total // _SHARE):
        text = f"the worker's disk is nearly full: {_size(free)} are free in {directory}; remove files there"
        return Shortage(text, ShortageCode.DISK_SPACE)
    # A file system that creates inodes on demand reports 0 inodes, and does not run out of inodes.
    if disk.f_files and disk.f_favail < min(INODE_RESERVE, max(_LEAST_INODES, disk.f_files // _SHARE)):
        return Shortage(
            f"the worker's disk has hardly any inodes left: {disk.f_favail} of {disk.f_files} in {directory}; remove"
            " files there",
            ShortageCode.INODES,
        )
    return NO_SHORTAGE


def _open_descriptors() -> int:
    # Since Linux 6.2, the size of /proc/self/fd is the number of open descriptors. On older kernels, its entries must
    # be counted.
    try:
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def _size(amount: int) -> str:
    return f"{amount // 2**20} MiB" if amount >= 2**20 else f"{amount // 2**10} KiB"
