"""Refuses new jobs and streams, so that some disk space, inodes and file descriptors of the controller remain free.

The headroom is for jobs that are already accepted. The controller uses the headroom to save the reports of running
attempts, to answer calls, and to end jobs.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from iris.errors import ResourceExhaustedError, UnavailableError
from iris.reasons import ErrorReason
from iris.system.event_loop import open_file_limit

DISK_HEADROOM_BYTES = 64 * 1024 * 1024
# The number of inodes kept free for files of the database, workers and logs.
INODE_HEADROOM = 1000
# On a small disk, one twentieth of the inodes is kept free instead of the fixed number.
_INODE_SHARE = 20
# The controller needs free file descriptors for calls, connections to workers, and logs. If the process may open only
# few descriptors, a quarter of this limit is kept free.
DESCRIPTOR_HEADROOM = 64
_DESCRIPTORS = "/proc/self/fd"


class Headroom:
    """Checks the free disk space, inodes and file descriptors before each new job and stream.

    Args:
        directory: The state directory; None if the controller stores nothing on a disk.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    def disk_bytes(self) -> tuple[int, int]:
        """Return the size of the disk and its free space in bytes; zeros if the controller stores nothing on a disk."""
        if self._directory is None:
            return 0, 0
        disk = os.statvfs(self._directory)
        return disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize

    def check_job(self, size: int) -> None:
        """Refuse a new job if saving the job would leave less disk space than the headroom, or if too few inodes or
        file descriptors are free.

        Args:
            size: The size of the submission in bytes.

        Raises:
            ResourceExhaustedError: Too little disk space, or too few inodes or file descriptors are left. The message
                names the resource and what to do.
        """
        if self._directory is not None:
            disk = os.statvfs(self._directory)
            # The total is 0 on file systems that create inodes on demand. Such file systems do not run out of inodes.
            if disk.f_files and disk.f_favail < min(INODE_HEADROOM, disk.f_files // _INODE_SHARE):
                raise ResourceExhaustedError(
                    f"the disk of the controller has hardly any inodes left: {disk.f_favail} of {disk.f_files} in"
                    f" {self._directory}. Running jobs continue. Remove files there",
                    reason=ErrorReason.SHORTAGE,
                )
            free = disk.f_bavail * disk.f_frsize
            # A submission needs twice its size on the disk, because SQLite writes it to the write-ahead log first, and
            # to the database later.
            if free < DISK_HEADROOM_BYTES + 2 * size:
                raise ResourceExhaustedError(
                    f"the disk of the controller is nearly full: {free // 2**20} MiB are free in {self._directory},"
                    f" and {(DISK_HEADROOM_BYTES + 2 * size) // 2**20} MiB are needed to accept this job."
                    " Running jobs continue. Free some space there, or end the jobs that fill the disk",
                    reason=ErrorReason.SHORTAGE,
                )
        if not self._has_descriptors():
            raise ResourceExhaustedError(_descriptor_error("jobs"), reason=ErrorReason.SHORTAGE)

    def check_stream(self) -> None:
        """Refuse a new stream if the stream would leave fewer file descriptors than the headroom.

        Raises:
            UnavailableError: Too few file descriptors are left. The caller may try again later.
        """
        if not self._has_descriptors():
            raise UnavailableError(_descriptor_error("streams"), reason=ErrorReason.SHORTAGE)

    def _has_descriptors(self) -> bool:
        limit = open_file_limit()
        if limit == resource.RLIM_INFINITY:
            return True
        # Since Linux 6.2 the size of /proc/self/fd is the number of open descriptors. Older kernels report the size 0.
        used = os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))
        return limit - used >= min(DESCRIPTOR_HEADROOM, limit // 4)


def _descriptor_error(what: str) -> str:
    return (
        f"the controller accepts no new {what} now: nearly all of its {open_file_limit()} file descriptors are in use."
        " Running jobs continue. Close clients, or raise the hard limit (ulimit -Hn) and restart the controller"
    )
